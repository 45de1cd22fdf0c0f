"""Filters that are ordinary linear recurrences on logits: exact where moves are permutations,
adaptive where nearly so.

    exact           l_t = P(a_{t-1}) l_{t-1} + log E[:, o_t]                                   (Cor. 4.3, 4.5)
    adaptive (ALF)  w_t = (1 - delta) P(a_{t-1}) w_{t-1} + delta log E[:, o_t]                 (eq. 28, 65)
    initial-state   L_t[s] = L_{t-1}[s] + log E[f_t(s), o_t],  f_t = f_{a_{t-1}} after f_{t-1} (see below)

A permutation matrix has one finite entry in each row of its logarithm, so the sum of the log-sum-exp reading
has one term and the belief recurrence (``belief.py``) is the ordinary linear one. The exact filter shows it:
it runs the same scan on the ordinary reading. A many-to-one map merges states, where that sum has several
terms; logits over the INITIAL state never merge, and pushing their softmax forward along f_t gives the belief
exactly.

| paper        | here          | shape     | meaning                                                      |
|--------------|---------------|-----------|--------------------------------------------------------------|
| P(a)         | source        | (m, n)    | new logit i comes from old state source[a, i]                |
| log E        | log_emission  | (k, m, n) | [observation, action, state reached]                         |
| l_0, w_0     | log_first     | (k, n)    | logits after the first observation of an episode             |
| delta        | 1 - keep      | ()        | forgetting rate in [0, 1]                                    |
| v            | held          | (n,)      | logits that a filter began with instead of l_0               |

Source: Y. Zhao, O. Eberhard, M. Khammassi, A. H. Sayed, M. Muehlebach, 2026, arXiv:2605.31261. The
initial-state form follows from its Corollary 4.5 by keeping the initial state as the index; it is this
library's.
Departures: the first observation of an episode is emitted before any transition. After an observation that
the model calls impossible the exact filters go on from the uniform belief, as ``belief.py`` does.
"""

from collections.abc import Callable
from typing import Any, ClassVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from ..certificates import analyse
from ..core.algebra import AbstractAlgebra, Element, Ordinary, Permutation, Permuted
from ..core.types import Inputs
from ..worlds.tables import HMM, POMDP, as_pomdp, deterministic_of, permutation_of, refuse_outside
from .base import AbstractLinearMemory, AbstractMemory
from .belief import Belief, _softmax, example_inputs, identity

Readout = Callable[[Array], Array]


class AbstractPermutedFilter(AbstractLinearMemory):
    """keep P(a) w + gain log-emission, from log_first at a start. Reads ``Inputs``;
    its tables are known, not learned. keep and gain: one number, or one for each logit."""

    algebra: ClassVar[AbstractAlgebra] = Permutation()

    source: Int[Array, "m n"]
    log_emission: Float[Array, "k m n"]
    log_first: Float[Array, "k n"]
    keep: Float[Array, "#n"]
    gain: Float[Array, "#n"]
    out_size: int = eqx.field(static=True)
    readout: Readout = eqx.field(static=True)

    def init(self):
        return jnp.zeros(self.out_size)

    def check(self, xs):
        refuse_outside("observation", xs.observation, len(self.log_emission))

    def encode(self, x, start):
        keep, gain, log_emission, log_first = jax.lax.stop_gradient(
            (self.keep, self.gain, self.log_emission, self.log_first)
        )
        move = Permuted(self.source[x.action], jnp.broadcast_to(keep, (self.out_size,)))
        seen = gain * log_emission[x.observation, x.action]
        return Element(move, jnp.where(start, log_first[x.observation], seen))

    def decode(self, h, x):
        return self.readout(h)

    def reference(self, xs, starts):
        log_E, log_first = np.asarray(self.log_emission, np.float64), np.asarray(self.log_first, np.float64)
        keep, gain = np.asarray(self.keep, np.float64), np.asarray(self.gain, np.float64)
        w, out = np.zeros(self.out_size), []
        for o, a, start in zip(np.asarray(xs.observation), np.asarray(xs.action), starts, strict=True):
            P = np.eye(self.out_size)[np.asarray(self.source)[a]]
            w = log_first[o] if start else keep * (P @ w) + gain * log_E[o, a]
            out.append(np.asarray(self.readout(cast(Any, w)), np.float64))
        return np.stack(out)


class ExactLinearFilter(AbstractPermutedFilter):
    """The exact belief where every T(a) is a permutation. Features (n,):
    ``readout`` of the logits, by default softmax.

    Its logits matter up to a constant and are shifted so that the largest is 0. Raises ValueError for a model
    with another transition.
    """

    algebra: ClassVar[AbstractAlgebra] = Permutation(Ordinary(shifted=True))

    def __init__(self, model: HMM | POMDP, readout: Readout = jax.nn.softmax):
        model = as_pomdp(model)
        self.source = jnp.asarray(np.stack([_source(a, T) for a, T in enumerate(model.transition)]))
        with np.errstate(divide="ignore"):  # log 0 = -inf: impossible
            self.log_emission = jnp.asarray(np.log(np.moveaxis(model.emission, 2, 0)))
            self.log_first = jnp.asarray(np.log(model.initial_emission.T) + np.log(model.initial))
        self.keep = self.gain = jnp.ones(1)
        self.out_size, self.readout = model.n_states, readout

    def corrected(self, x: Inputs, held: ArrayLike, right: ArrayLike) -> Element:
        """The element of the step x for a filter that holds the logits ``held`` (n,) where the right ones are
        ``right`` (n,): Corollary 4.5 with arbitrary initialisation.

        P(a)(right - held) is added to the input, so the state after the step, and with it every later one, is
        that of a filter that held ``right``. held: finite. right: -inf where a state is impossible. Raises
        ValueError naming the entry that is wrong.
        """
        held, right = (np.asarray(logits, np.float64) for logits in (held, right))
        _refuse_logits("held", held, self.out_size, ~np.isfinite(held), "an infinite logit cannot be undone")
        _refuse_logits("right", right, self.out_size, ~(right < np.inf), "logits are finite, or -inf")
        element = self.encode(x, jnp.asarray(False))
        return Element(
            element.transition,
            element.input + self.algebra.apply(element.transition, jnp.asarray(right - held)),
        )

    def believes(self, features):
        return features if self.readout is jax.nn.softmax else None

    @classmethod
    def example(cls, key, steps):
        model = _example(key, next_states=[[1, 2, 0], [0, 2, 1]])
        return cls(model), example_inputs(key, steps, observations=5, actions=2)


def _refuse_logits(name: str, logits: np.ndarray, n: int, wrong: np.ndarray, rule: str) -> None:
    if logits.shape != (n,):
        raise ValueError(f"{name} has shape {logits.shape}; must be ({n},), a logit for each state")
    if wrong.any():
        state = int(wrong.argmax())
        raise ValueError(f"{name}[{state}] is {logits[state]:g}; {rule}")


def _source(action: int, transition: np.ndarray) -> np.ndarray:
    source = permutation_of(transition)
    if source is None:
        raise ValueError(
            f"transition[{action}] is not a permutation, so no ordinary linear filter is exact; use "
            "InitialStateFilter for deterministic moves, AdaptiveLinearFilter for nearly deterministic ones, "
            "or Belief"
        )
    return source


class AdaptiveLinearFilter(AbstractPermutedFilter):
    """ALF: for T(a) near a permutation on the recurrent states of its deterministic backbone (row-wise most
    probable moves); transient states keep their place. Features (n,): ``readout`` of the logits, by default
    the logits.

    delta: forgetting rate in [0, 1]. initial_logits: (n,), by default 0. Raises ValueError for an emission of
    0 (its logarithm would stay in the logits forever) and for a delta out of range.
    """

    def __init__(
        self,
        model: HMM | POMDP,
        delta: float,
        initial_logits: ArrayLike | None = None,
        readout: Readout = identity,
    ):
        if not 0 <= delta <= 1:
            raise ValueError(f"delta is {delta}; the forgetting rate lies in [0, 1]")
        model = as_pomdp(model)
        for name, table in (("emission", model.emission), ("initial_emission", model.initial_emission)):
            if (zeros := np.argwhere(table == 0)).size:
                raise ValueError(
                    f"{name}{zeros[0].tolist()} is 0; the adaptive filter needs positive emissions "
                    "(mix a little of a uniform distribution in, or use Belief)"
                )
        w_0 = np.zeros(model.n_states) if initial_logits is None else np.asarray(initial_logits, float)
        if w_0.shape != (model.n_states,) or not np.isfinite(w_0).all():
            raise ValueError(
                f"initial_logits is {w_0.tolist()}; give a finite number for each of {model.n_states} states"
            )
        self.source = jnp.asarray(np.stack([backbone_source(T) for T in model.transition]))
        self.log_emission = jnp.asarray(np.log(np.moveaxis(model.emission, 2, 0)))
        self.log_first = jnp.asarray((1 - delta) * w_0 + delta * np.log(model.initial_emission.T))
        self.keep, self.gain = jnp.asarray([1.0 - delta]), jnp.asarray([float(delta)])
        self.out_size, self.readout = model.n_states, readout

    @classmethod
    def example(cls, key, steps):
        memory = cls(example_nearly_permuted(key), delta=0.2, initial_logits=np.array([0.3, -0.2, 0.1]))
        return memory, example_inputs(key, steps, observations=5, actions=2)


def backbone_source(transition: np.ndarray) -> np.ndarray:
    """Where each logit comes from under the backbone:
    its predecessor on a cycle, itself if it is transient."""
    moves = transition.argmax(axis=1)
    recurrent = np.arange(len(moves))
    for _ in range(len(moves)):
        recurrent = np.unique(moves[recurrent])
    source = np.arange(len(moves))
    source[moves[recurrent]] = recurrent
    return source


def _next_state(action: int, transition: np.ndarray) -> np.ndarray:
    moves = deterministic_of(transition)
    if moves is None:
        raise ValueError(
            f"transition[{action}] is not deterministic, so logits over the initial state do not give the "
            "belief; use AdaptiveLinearFilter for nearly deterministic moves, or Belief"
        )
    return moves


class InitialStateFilter(AbstractMemory):
    """The exact belief where every T(a) is deterministic, many-to-one or not. Features (n,): the belief.

    State: (f_t (n,) int, L_t (n,)). Raises ValueError for a model with random moves.
    """

    next_state: Int[Array, "m n"]
    log_emission: Float[Array, "k m n"]
    log_first: Float[Array, "k n"]
    out_size: int = eqx.field(static=True)

    def __init__(self, model: HMM | POMDP):
        model = as_pomdp(model)
        self.next_state = jnp.asarray(np.stack([_next_state(a, T) for a, T in enumerate(model.transition)]))
        with np.errstate(divide="ignore"):
            self.log_emission = jnp.asarray(np.log(np.moveaxis(model.emission, 2, 0)))
            self.log_first = jnp.asarray(np.log(model.initial_emission.T) + np.log(model.initial))
        self.out_size = model.n_states

    def init(self):
        return jnp.arange(self.out_size), jnp.zeros(self.out_size)

    def step(self, state, x, start):
        one = jax.tree.map(lambda leaf: leaf[None], (x, start))
        state, features = self.unroll(state, *one)
        return state, features[0]

    def unroll(self, state, xs, starts):
        refuse_outside("observation", xs.observation, len(self.log_emission))
        log_emission, log_first = jax.lax.stop_gradient((self.log_emission, self.log_first))
        each = jnp.arange(self.out_size)

        def advance(state, timed):
            (f, L), (x, start) = state, timed
            f = jnp.where(start, each, self.next_state[x.action][f])
            seen = jnp.where(start, log_first[x.observation], log_emission[x.observation, x.action][f])
            L = jnp.where(start, 0.0, L) + seen
            # The uniform belief that settling begins again from is one over the present states.
            f = jnp.where(jnp.isneginf(jnp.max(L)), each, f)
            state = f, Ordinary(shifted=True).settle(L, rank=1)
            return state, state

        state, (maps, logits) = jax.lax.scan(advance, state, (xs, starts))
        return state, jax.vmap(_push_forward)(maps, jax.nn.softmax(logits))

    def believes(self, features):
        return features

    @classmethod
    def example(cls, key, steps):
        model = _example(key, next_states=[[1, 2, 2], [0, 0, 1]])
        return cls(model), example_inputs(key, steps, observations=5, actions=2)

    def reference(self, xs, starts):
        log_E, log_first = np.asarray(self.log_emission, np.float64), np.asarray(self.log_first, np.float64)
        f, L, out = np.arange(self.out_size), np.zeros(self.out_size), []
        for o, a, start in zip(np.asarray(xs.observation), np.asarray(xs.action), starts, strict=True):
            f = np.arange(self.out_size) if start else np.asarray(self.next_state)[a][f]
            L = log_first[o] if start else L + log_E[o, a][f]
            p, belief = _softmax(L), np.zeros(self.out_size)
            np.add.at(belief, f, p)
            out.append(belief)
        return np.stack(out)


def from_model(
    model: HMM | POMDP,
) -> ExactLinearFilter | InitialStateFilter | AdaptiveLinearFilter | Belief:
    """The cheapest filter that loses nothing, or no more than a theorem says: after ``analyse``.

    | every transition is                  | filter               | features           |
    |--------------------------------------|----------------------|--------------------|
    | a permutation                        | ExactLinearFilter    | the belief         |
    | deterministic, some many-to-one      | InitialStateFilter   | the belief         |
    | nearly deterministic and certified   | AdaptiveLinearFilter | logits, near Bayes |
    | anything else                        | Belief               | the belief         |

    The adaptive filter takes the certificate's delta. Where the certificate is vacuous, its delta promises
    nothing; and where an emission is 0, also of a transient state or of the first observation's law, the
    filter cannot be made. The belief is taken then.
    """
    model = _normalised(as_pomdp(model))
    found = analyse(model)
    match found.recommended.filter:
        case "exact linear":
            return ExactLinearFilter(model)
        case "initial-state":
            return InitialStateFilter(model)
        case "adaptive linear" if (model.emission > 0).all() and (model.initial_emission > 0).all():
            delta = found.recommended.delta
            for certificate in found.certificates:
                if delta is not None and certificate.delta == delta and not certificate.vacuous:
                    return AdaptiveLinearFilter(model, delta)
    return Belief(model)


def _normalised(model: POMDP) -> POMDP:
    """With rows divided by their sums: a single entry of 0.999999 is a sure move, as ``analyse`` takes it."""
    transition, emission, initial, first = (
        table / table.sum(axis=-1, keepdims=True)
        for table in (model.transition, model.emission, model.initial, model.initial_emission)
    )
    return POMDP(transition, emission, model.reward, initial, model.discount, first)


def _push_forward(f: Int[Array, " n"], p: Float[Array, " n"]) -> Float[Array, " n"]:
    return jnp.zeros_like(p).at[f].add(p)


def example_nearly_permuted(key: PRNGKeyArray) -> POMDP:
    """A random POMDP with 3 states, 5 observations and 2 actions that nearly permute the states."""
    return _example(key, next_states=[[1, 2, 0], [0, 2, 1]], noise=0.1)


def _example(key, next_states, noise=0.0) -> POMDP:
    """A POMDP with 3 states and 5 observations that moves by the given maps,
    or anywhere with probability noise."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    transition = (1 - noise) * np.eye(3)[np.asarray(next_states)] + noise / 3
    return POMDP(
        transition, rng.dirichlet(np.ones(5), 3), np.zeros(3), rng.dirichlet(np.ones(3)), discount=0.9
    )

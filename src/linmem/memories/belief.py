"""The exact belief filter of a POMDP, in logits: the recurrence of this library in the log-sum-exp reading.

    l_t[j] = log O(a_{t-1}, j, o_t) + logsumexp_i(log T(a_{t-1})[i, j] + l_{t-1}[i])       within an episode
    l_t[j] = log O_0(j, o_t) + log pi_0[j]                                                 at a start

softmax(l_t) is the Bayes belief. With (max, +) for (logsumexp, +) the same elements give Viterbi's
recurrence. States matter up to a constant only; they are shifted so that the largest logit is 0, so nothing
underflows or drifts.

| paper     | here                | shape          | meaning                                           |
|-----------|---------------------|----------------|---------------------------------------------------|
| log T(a)  | log_transition      | (m, n', n)     | [a, next, current]                                |
| log E     | log_emission        | (k, m, n')     | [observation, action, state reached]              |
| log pi_0  | log_first           | (k, n)         | pi_0 and the first observation's law, joined      |

Source: Y. Zhao, O. Eberhard, M. Khammassi, A. H. Sayed, M. Muehlebach, "Why Linear Recurrent Memory Works in
Partially Observable Reinforcement Learning", 2026, arXiv:2605.31261, the log-belief filter (LOF).
Departures: the first observation of an episode is emitted before any transition. An observation that the
model calls impossible leaves no state possible; the filter then goes on from the uniform distribution
(``AbstractReading.settle``).
"""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..core.algebra import AbstractAlgebra, Dense, Element, LogSumExp, MaxPlus, Switch, Switched
from ..core.scan import scan
from ..core.types import Inputs
from ..worlds.tables import HMM, POMDP, as_pomdp, refuse_outside
from .base import ONCE, PER_STEP, AbstractLinearMemory


def identity(l: Any) -> Any:
    """The logits themselves, as a readout."""
    return l


class Belief(AbstractLinearMemory):
    """The exact belief of a POMDP, or of an HMM, whose action is always 0. Features (n,):
    ``readout`` of the logits, by default their softmax, the belief.

    Reads ``Inputs`` with discrete observation and action. Its tables are known, not learned.
    """

    algebra: ClassVar[AbstractAlgebra] = Switched(of=Dense(LogSumExp(projective=True)))

    log_transition: Float[Array, "m n n"]
    log_emission: Float[Array, "k m n"]
    log_first: Float[Array, "k n"]
    out_size: int = eqx.field(static=True)
    readout: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(self, model: HMM | POMDP, readout: Callable[[Array], Array] = jax.nn.softmax):
        model = as_pomdp(model)
        with np.errstate(divide="ignore"):  # log 0 = -inf: impossible
            self.log_transition = jnp.asarray(np.log(np.swapaxes(model.transition, 1, 2)))
            self.log_emission = jnp.asarray(np.log(np.moveaxis(model.emission, 2, 0)))
            self.log_first = jnp.asarray(np.log(model.initial_emission.T) + np.log(model.initial))
        self.out_size = model.n_states
        self.readout = readout

    def init(self):
        return jnp.zeros(self.out_size)

    def check(self, xs):
        refuse_outside("observation", xs.observation, len(self.log_emission))

    def encode(self, x, start):
        log_transition, log_emission, log_first = jax.lax.stop_gradient(
            (self.log_transition, self.log_emission, self.log_first)
        )
        picked = Switch(log_transition, x.action, log_emission[x.observation, x.action])
        return Element(picked, jnp.where(start, log_first[x.observation], -jnp.inf))

    def time_axes(self):
        return Element(Switch(ONCE, PER_STEP, PER_STEP), PER_STEP)

    def decode(self, h, x):
        return self.readout(h)

    def believes(self, features):
        return features if self.readout is jax.nn.softmax else None

    @classmethod
    def example(cls, key, steps):
        return cls(example_model(key)), example_inputs(key, steps, observations=5, actions=2)

    def reference(self, xs, starts):
        return np.stack([_softmax(l) for l in self._logits(xs, starts)])

    def _logits(self, xs, starts, add=np.logaddexp.reduce):
        log_T, log_E, log_first = (
            np.asarray(a, np.float64) for a in (self.log_transition, self.log_emission, self.log_first)
        )
        l, out = np.zeros(self.out_size), []
        for o, a, start in zip(np.asarray(xs.observation), np.asarray(xs.action), starts, strict=True):
            l = log_first[o] if start else log_E[o, a] + add(log_T[a] + l[None, :], axis=1)
            out.append(l)
        return out


class LogForward(Belief):
    """The same without the shift, as the paper writes it: l_t = log P(state, o_0 .. o_t | actions). Features
    (n,): ``readout`` of these logits, by default themselves.

    They fall by about the entropy of an observation at every step of an episode, without bound.
    """

    algebra: ClassVar[AbstractAlgebra] = Switched(of=Dense(LogSumExp()))

    def __init__(self, model: HMM | POMDP, readout: Callable[[Array], Array] = identity):
        super().__init__(model, readout)

    def reference(self, xs, starts):
        return np.stack(self._logits(xs, starts))


class Viterbi(Belief):
    """The same elements read in (max, +). Features (n,):
    log-probability of the best path into each state, up to a constant."""

    algebra: ClassVar[AbstractAlgebra] = Switched(of=Dense(MaxPlus(projective=True)))

    def __init__(self, model: HMM | POMDP):
        super().__init__(model, readout=identity)

    def reference(self, xs, starts):
        return np.stack([l - l.max() for l in self._logits(xs, starts, add=np.max)])


def viterbi_path(model: HMM, observations: Int[Array, " T"]) -> Int[Array, " T"]:
    """The most probable sequence of hidden states, given the observations.

    The states of a max-plus scan are the log-probabilities of the best path into each state; from the best
    one at the end, each step goes back to the state it came from. Of several, it is the one with the smallest
    index.

    Raises ValueError naming an observation that the model does not have, or the first one that no path of
    positive probability explains; inside a transformation of JAX's nothing is checked.
    """
    observations = jnp.asarray(observations)
    refuse_outside("observations", observations, model.n_observations)
    with np.errstate(divide="ignore"):
        log_T, log_E, log_pi = (
            jnp.asarray(np.log(a)) for a in (model.transition.T, model.emission, model.initial)
        )

    evidence, starts = log_E.T[observations], jnp.arange(len(observations)) == 0
    input = jnp.where(starts[:, None], evidence + log_pi, -jnp.inf)
    elements = Element(Switch(log_T[None, None], jnp.zeros((1,), jnp.int32), evidence), input)
    last, states = scan(Switched(of=Dense(MaxPlus())), elements, jnp.zeros(model.n_states), starts)
    impossible = jnp.isneginf(jnp.max(states, axis=-1))
    if not isinstance(impossible, Tracer) and impossible.any():
        t = int(impossible.argmax())
        raise ValueError(
            f"observations[{t}] is {observations[t]}, which is impossible after those before it: "
            "no path has a positive probability"
        )

    def back(reached, before):
        came_from = jnp.argmax(before + log_T[reached])
        return came_from, came_from

    end = jnp.argmax(last)
    return jnp.append(jax.lax.scan(back, end, states[:-1], reverse=True)[1], end)


def example_model(key: PRNGKeyArray) -> POMDP:
    """A random POMDP with 3 states, 5 observations and 2 actions."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    transition, emission = rng.dirichlet(np.ones(3), (2, 3)), rng.dirichlet(np.ones(5), 3)
    return POMDP(transition, emission, np.zeros(3), rng.dirichlet(np.ones(3)), discount=0.9)


def example_inputs(key: PRNGKeyArray, steps: int, observations: int, actions: int) -> Inputs:
    """Random discrete inputs."""
    keys = jax.random.split(key, 3)
    return Inputs(
        jax.random.randint(keys[0], (steps,), 0, observations),
        jax.random.randint(keys[1], (steps,), 0, actions),
        jax.random.normal(keys[2], (steps,)),
    )


def _softmax(l: np.ndarray) -> np.ndarray:
    p = np.exp(l - l.max())
    return p / p.sum()

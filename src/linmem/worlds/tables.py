"""Finite worlds as tables: hidden Markov models (HMM) and partially observable decision processes (POMDP).

Distributions stand in rows, as ``core/types.py`` says. The tables are read-only float64 NumPy arrays, so that
an oracle can use them at full precision; simulation runs in float32.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Bool, Float, Float64, Int, PRNGKeyArray

from .spaces import refuse

Table = ArrayLike | Sequence
Names = Sequence[str] | None

MOST_DENSE = 50_000_000  # entries of a dense table, 400 MB in float64
# How far from 1 a row may sum: the rounding of float32 tables passes, a typing error does not.
ROW_TOLERANCE = 1e-5


def check_dense(actions: int, states: int) -> None:
    """Raises ValueError, before they are made, if transition tables of such a model would not fit into
    memory."""
    if actions * states**2 > MOST_DENSE:
        raise ValueError(
            f"{states} states and {actions} actions are too many for dense tables; with so many actions they "
            f"hold at most {int((MOST_DENSE / actions) ** 0.5)} states"
        )


class Trajectory(NamedTuple):
    """A run of T actions: ``rewards[t]`` is earned on the move from ``states[t]`` to ``states[t + 1]``."""

    states: Int[Array, " T+1"]
    observations: Int[Array, " T+1"]
    rewards: Float[Array, " T"]


class HMM(eqx.Module):
    """A hidden Markov model with ``n`` states and ``k`` observations.

    transition: (n, n), ``transition[s, s']`` = P(next = s' | current = s).
    emission:   (n, k), ``emission[s, o]`` = P(observation = o | state = s).
    initial:    (n,), distribution of the first state; the first observation is emitted from it.

    The names, if given, replace indices in error messages. Raises ValueError naming the entry that is wrong.
    """

    transition: Float64[np.ndarray, "n n"]
    emission: Float64[np.ndarray, "n k"]
    initial: Float64[np.ndarray, " n"]

    def __init__(
        self,
        transition: Table,
        emission: Table,
        initial: Table,
        *,
        state_names: Names = None,
        observation_names: Names = None,
    ):
        transition = _numbers("transition", transition, ("state", "next state"))
        emission = _numbers("emission", emission, ("state", "observation"))
        initial = _numbers("initial", initial, ("state",))
        states = _Axis("state", transition.shape[-1], state_names)
        observations = _Axis("observation", emission.shape[-1], observation_names)
        self.transition = _rows("transition", transition, states, states._replace(role="next state"))
        self.emission = _rows("emission", emission, states, observations)
        self.initial = _rows("initial", initial, states)

    @property
    def n_states(self) -> int:
        return self.transition.shape[-1]

    @property
    def n_observations(self) -> int:
        return self.emission.shape[-1]

    @eqx.filter_jit
    def simulate(self, key: PRNGKeyArray, length: int) -> tuple[Int[Array, " T"], Int[Array, " T"]]:
        """``length`` hidden states, the first drawn from ``initial``, and the observation of each."""
        first, rest = jax.random.split(key)

        def step(state, key):
            emit, move = jax.random.split(key)
            return _draw(move, self.transition, state), (state, _draw(emit, self.emission, state))

        _, (states, observations) = jax.lax.scan(
            step, _draw(first, self.initial), jax.random.split(rest, length)
        )
        return states, observations


class POMDP(eqx.Module):
    """A partially observable decision process with ``m`` actions, ``n`` states and ``k`` observations.

    transition:       (m, n, n), ``transition[a, s, s']`` = P(next = s' | current = s, action = a).
    emission:         (m, n, k), ``emission[a, s', o]`` = P(observation = o | action a reached s'); or (n, k),
                      if the action does not matter. Stored as (m, n, k).
    reward:           (m, n, n), ``reward[a, s, s']`` earned by action a on the move from s to s'; or (m, n),
                      by the action and the state left; or (n,), by the state reached. Stored as (m, n, n).
    initial:          (n,), distribution of the first state.
    discount:         in [0, 1], per step.
    initial_emission: (n, k), law of the first observation, which no action precedes; by default the emission,
                      if that does not depend on the action.

    The names, if given, replace indices in error messages. Raises ValueError naming the entry that is wrong.
    """

    transition: Float64[np.ndarray, "m n n"]
    emission: Float64[np.ndarray, "m n k"]
    reward: Float64[np.ndarray, "m n n"]
    initial: Float64[np.ndarray, " n"]
    initial_emission: Float64[np.ndarray, "n k"]
    discount: float = eqx.field(static=True)

    def __init__(
        self,
        transition: Table,
        emission: Table,
        reward: Table,
        initial: Table,
        discount: ArrayLike,
        initial_emission: Table | None = None,
        *,
        state_names: Names = None,
        action_names: Names = None,
        observation_names: Names = None,
    ):
        by_move = ("action", "state", "next state")
        transition = _numbers("transition", transition, by_move)
        emission = _numbers(
            "emission", emission, ("action", "state", "observation"), ("state", "observation")
        )
        reward = _numbers("reward", reward, by_move, by_move[:2], by_move[2:])
        initial = _numbers("initial", initial, ("state",))
        m, _, n = transition.shape
        actions, states = _Axis("action", m, action_names), _Axis("state", n, state_names)
        reached = states._replace(role="next state")
        observations = _Axis("observation", emission.shape[-1], observation_names)

        self.transition = _rows("transition", transition, actions, states, reached)
        self.initial = _rows("initial", initial, states)

        with_action = (actions,) if emission.ndim == 3 else ()
        emission = _rows("emission", emission, *with_action, states, observations)
        self.emission = np.broadcast_to(emission, (m, n, observations.size))

        axes = {1: (reached,), 2: (actions, states), 3: (actions, states, reached)}[reward.ndim]
        _check_sizes("reward", reward, axes)
        _refuse(
            "reward",
            reward,
            ~(np.abs(reward) <= np.finfo(np.float32).max),
            axes,
            "rewards are finite in float32",
        )
        reward.setflags(write=False)
        self.reward = np.broadcast_to(reward[:, :, None] if reward.ndim == 2 else reward, (m, n, n))

        if initial_emission is None:
            if (self.emission != self.emission[0]).any():
                raise ValueError(
                    "emission depends on the action, and no action precedes the first observation; "
                    "give initial_emission[state, observation]"
                )
            initial_emission = self.emission[0]
        initial_emission = _numbers("initial_emission", initial_emission, ("state", "observation"))
        self.initial_emission = _rows("initial_emission", initial_emission, states, observations)

        self.discount = float(_numbers("discount", discount, ()))
        if not 0 <= self.discount <= 1:
            raise ValueError(f"discount is {self.discount:g}; it must lie in [0, 1]")

    @property
    def n_states(self) -> int:
        return self.transition.shape[-1]

    @property
    def n_actions(self) -> int:
        return self.transition.shape[0]

    @property
    def n_observations(self) -> int:
        return self.emission.shape[-1]

    def draw_initial(self, key: PRNGKeyArray) -> tuple[Int[Array, ""], Int[Array, ""]]:
        """The first state and the first observation."""
        first, emit = jax.random.split(key)
        state = _draw(first, self.initial)
        return state, _draw(emit, self.initial_emission, state)

    def draw_step(
        self, key: PRNGKeyArray, state: Int[Array, ""], action: Int[Array, ""]
    ) -> tuple[Int[Array, ""], Int[Array, ""], Float[Array, ""]]:
        """The state reached, the observation made there and the reward of the move."""
        move, emit = jax.random.split(key)
        reached = _draw(move, self.transition, action, state)
        observation = _draw(emit, self.emission, action, reached)
        return reached, observation, jnp.asarray(self.reward, jnp.float32)[action, state, reached]

    def simulate(self, key: PRNGKeyArray, actions: Int[Array, " T"]) -> Trajectory:
        """The run under the given actions, chosen beforehand: T + 1 states and observations, T rewards.
        Raises ValueError naming an action that the model does not have."""
        refuse_outside("actions", actions, self.n_actions)
        return self._simulate(key, actions)

    @eqx.filter_jit
    def _simulate(self, key: PRNGKeyArray, actions: Int[Array, " T"]) -> Trajectory:
        first, rest = jax.random.split(key)

        def step(state, key_and_action):
            key, action = key_and_action
            drawn = self.draw_step(key, state, action)
            return drawn[0], drawn

        state, observation = self.draw_initial(first)
        keys = jax.random.split(rest, len(actions))
        _, (states, observations, rewards) = jax.lax.scan(step, state, (keys, actions))
        return Trajectory(
            jnp.concatenate([state[None], states]),
            jnp.concatenate([observation[None], observations]),
            rewards,
        )


def as_pomdp(model: HMM | POMDP) -> POMDP:
    """The model itself, or the POMDP of one action, 0, and no reward that an HMM is."""
    if isinstance(model, POMDP):
        return model
    if not isinstance(model, HMM):
        raise TypeError(f"a filter is made from an HMM or a POMDP, not from {type(model).__name__}")
    none = np.zeros((1, model.n_states))
    return POMDP(model.transition[None], model.emission, none, model.initial, discount=1.0)


def refuse_outside(name: str, indices: ArrayLike, size: int) -> None:
    """Raise ValueError naming the first index that is not one of 0 ... size - 1, and its place. Not where a
    trace hides them."""
    if not isinstance(indices, Tracer):
        array = np.asarray(indices)
        refuse(name, array, (array < 0) | (array >= size), "must be one of 0 ...", size - 1)


def deterministic_of(matrix: Float[np.ndarray, "n n"]) -> Int[np.ndarray, " n"] | None:
    """The map f of a row-stochastic matrix that is deterministic: f[s] follows s. None if it is not."""
    if not np.isin(matrix, (0, 1)).all() or (matrix.sum(axis=1) != 1).any():
        return None
    return matrix.argmax(axis=1)


def permutation_of(matrix: Float[np.ndarray, "n n"]) -> Int[np.ndarray, " n"] | None:
    """Where each new state comes from under a row-stochastic matrix that is a permutation, else None.

    For logits l over the current state, the logits over the next are (P l)[i] = l[source[i]].
    """
    if deterministic_of(matrix) is None or (matrix.sum(axis=0) != 1).any():
        return None
    return matrix.argmax(axis=0)


def _draw(key: PRNGKeyArray, table: Any, *index: Int[Array, ""]) -> Int[Array, ""]:
    """A draw from the row ``table[index]``; an outcome of probability 0 has logit -inf and is never drawn."""
    row = jnp.asarray(table, jnp.float32)[index]
    return jax.random.categorical(key, jnp.log(row)).astype(jnp.int32)


class _Axis(NamedTuple):
    """What an axis of a table runs over: its role and size, and the names to use in messages."""

    role: str
    size: int
    names: Names

    def label(self, index: int) -> str:
        return str(index) if self.names is None else repr(self.names[index])


def _numbers(name: str, value: Any, *layouts: tuple[str, ...]) -> np.ndarray:
    """A float64 copy of ``value``, whose axes must have the roles of one of the layouts."""
    try:
        array = np.asarray(value)
        if np.iscomplexobj(array):
            raise TypeError("it is complex")
        array = np.array(array, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is not an array of real numbers: {error}") from error
    if array.ndim not in map(len, layouts):
        expected = " or ".join(f"[{', '.join(layout)}]" for layout in layouts)
        raise ValueError(f"{name} has shape {array.shape}; expected axes {expected}")
    if array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}, which is empty; every axis needs an entry")
    return array


def _check_sizes(name: str, table: np.ndarray, axes: tuple[_Axis, ...]) -> None:
    sizes = tuple(axis.size for axis in axes)
    if table.shape != sizes:
        roles = ", ".join(axis.role for axis in axes)
        raise ValueError(f"{name} has shape {table.shape}; expected [{roles}] = {sizes}")
    for axis in axes:
        if axis.names is not None and len(axis.names) != axis.size:
            raise ValueError(
                f"{name} has {axis.size} {axis.role}s but {len(axis.names)} names were given for them"
            )


def _refuse(name: str, table: np.ndarray, bad: Bool[np.ndarray, "..."], axes: tuple, rule: str) -> None:
    """Raise, naming the first bad entry, if there is one."""
    if bad.any():
        index = tuple(map(int, np.argwhere(bad)[0]))
        place = ", ".join(axis.label(i) for axis, i in zip(axes, index, strict=True))
        raise ValueError(f"{name}[{place}] is {table[index]:g}; {rule}")


def _rows(name: str, table: np.ndarray, *axes: _Axis) -> np.ndarray:
    """The table, made read-only, once its shape is right and its last axis holds distributions."""
    _check_sizes(name, table, axes)
    in_range = (table >= 0) & (table <= 1 + ROW_TOLERANCE)
    _refuse(name, table, ~in_range, axes, "probabilities lie in [0, 1]")
    sums = table.sum(axis=-1)
    wrong = np.argwhere(np.abs(sums - 1) > ROW_TOLERANCE)
    if len(wrong):
        index = tuple(map(int, wrong[0]))
        formats = ("[{}]", " row {}")[-len(index) :] if index else ()
        labels = [axis.label(i) for axis, i in zip(axes, index, strict=False)]
        place = "".join(form.format(label) for form, label in zip(formats, labels, strict=True))
        raise ValueError(f"{name}{place} sums to {sums[index]:.6g}; rows must sum to 1")
    table.setflags(write=False)
    return table

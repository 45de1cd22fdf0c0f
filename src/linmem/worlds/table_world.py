"""Any finite POMDP as a world."""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from .base import AbstractWorld, Outcome
from .spaces import Discrete
from .tables import POMDP


class TableState(NamedTuple):
    """hidden: index of the hidden state. time: steps taken in this episode."""

    hidden: Int[Array, ""]
    time: Int[Array, ""]


class TableWorld(AbstractWorld):
    """A POMDP with an end to its episodes.

    pomdp:          the tables.
    episode_length: an episode is truncated after this many steps; None means never.
    terminal:       (n,) bool; arriving in such a state terminates the episode. Default: no state does.

    The tables must say the same as ``terminal``, so that values computed from them hold in this world: a
    terminal state is never left, earns nothing, and is no initial state. Raises ValueError naming the entry
    that disagrees.
    """

    pomdp: POMDP
    terminal: Bool[np.ndarray, " n"]
    episode_length: int | None = eqx.field(static=True)

    def __init__(
        self,
        pomdp: POMDP,
        episode_length: int | None = None,
        terminal: Bool[np.ndarray, " n"] | None = None,
    ):
        if episode_length is not None and episode_length < 1:
            raise ValueError(f"episode_length is {episode_length}; an episode has at least 1 step")
        terminal = np.zeros(pomdp.n_states, bool) if terminal is None else np.array(terminal, bool)
        if terminal.shape != (pomdp.n_states,):
            raise ValueError(f"terminal has shape {terminal.shape}; expected [state] = {(pomdp.n_states,)}")
        for s in map(int, np.flatnonzero(terminal)):
            for a in range(pomdp.n_actions):
                stay, earned = pomdp.transition[a, s, s], pomdp.reward[a, s, s]
                if stay != 1:
                    raise ValueError(
                        f"state {s} is terminal, but transition[{a}, {s}, {s}] is {stay:g}; make it 1"
                    )
                if earned != 0:
                    raise ValueError(
                        f"state {s} is terminal, but reward[{a}, {s}, {s}] is {earned:g}; make it 0"
                    )
            if pomdp.initial[s] != 0:
                raise ValueError(
                    f"state {s} is terminal, but initial[{s}] is {pomdp.initial[s]:g}; make it 0"
                )
        self.pomdp = pomdp
        self.terminal = terminal
        self.episode_length = episode_length

    @property
    def observation_space(self) -> Discrete:
        return Discrete(self.pomdp.n_observations)

    @property
    def action_space(self) -> Discrete:
        return Discrete(self.pomdp.n_actions)

    def init(self, key: PRNGKeyArray) -> tuple[TableState, Int[Array, ""]]:
        hidden, observation = self.pomdp.draw_initial(key)
        return TableState(hidden, jnp.zeros((), jnp.int32)), observation

    def step(
        self, key: PRNGKeyArray, state: TableState, action: Int[Array, ""]
    ) -> tuple[TableState, Outcome]:
        hidden, observation, reward = self.pomdp.draw_step(key, state.hidden, action)
        time = state.time + 1
        terminated = jnp.asarray(self.terminal)[hidden]
        over = jnp.asarray(False) if self.episode_length is None else time >= self.episode_length
        return TableState(hidden, time), Outcome(observation, reward, terminated, over & ~terminated)

    def tables(self) -> POMDP:
        return self.pomdp

    def hidden(self, state: TableState) -> Int[Array, ""]:
        return state.hidden


class AbstractTabled(AbstractWorld):
    """A world that is a ``TableWorld`` with a name: it makes ``world``, and behaves as that does."""

    world: eqx.AbstractVar[TableWorld]

    @property
    def observation_space(self) -> Discrete:
        return self.world.observation_space

    @property
    def action_space(self) -> Discrete:
        return self.world.action_space

    def init(self, key: PRNGKeyArray) -> tuple[TableState, Int[Array, ""]]:
        return self.world.init(key)

    def step(
        self, key: PRNGKeyArray, state: TableState, action: Int[Array, ""]
    ) -> tuple[TableState, Outcome]:
        return self.world.step(key, state, action)

    def tables(self) -> POMDP:
        return self.world.tables()

    def hidden(self, state: TableState) -> Int[Array, ""]:
        return self.world.hidden(state)

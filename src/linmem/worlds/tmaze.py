"""T-maze: a sign read at one end of a corridor says which arm to take at the other.

| what       | here                                                                                     |
|------------|------------------------------------------------------------------------------------------|
| hidden     | the goal arm and the place: cells 0 (the sign) to ``length`` (the junction)              |
| observed   | three numbers: 011 or 110 at the sign (goal north, south), 101 in the corridor, 010 at   |
|            | the junction; with ``noise`` a0b in the corridor, a and b uniform in [0, 1]              |
| actions    | 0 north, 1 east, 2 south, 3 west                                                         |
| reward     | 4 for the goal arm, -0.1 for the other, -0.1 for walking against a wall, else 0          |
| end        | an arm; cut off after ``limit`` steps                                                    |
| best       | 4                                                                                        |
| memoryless | 1.95 = (4 - 0.1) / 2: at the junction both goals look alike                              |

A passive maze begins at the sign. An ``active`` one begins a step to its east, where nothing is shown: the
agent must go and look, away from the goal.

No memoryless policy earns more by staying away from the junction when the sign says the goal it would miss:
in the corridor it cannot know the goal, and at the sign staying costs 0.1 a step, as much as the wrong arm.

Source: B. Bakker, "Reinforcement Learning with Long Short-Term Memory", NIPS 2001, section 4 (passive, and
the noisy corridor). Active: T. Ni et al., "When Do Transformers Shine in RL?", 2023, arXiv:2307.03864.
Departures: the limit, and Bakker's rewards in the active maze too.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .base import AbstractWorld, Card, Outcome
from .spaces import Box, Discrete

NORTH, EAST, SOUTH, WEST = range(4)


class Place(NamedTuple):
    """cell: from 0 (the sign) to length (the junction).  north: it is the goal.  t: steps taken."""

    cell: Int[Array, ""]
    north: Bool[Array, ""]
    t: Int[Array, ""]


class TMaze(AbstractWorld):
    """The world above."""

    length: int = eqx.field(static=True)
    active: bool = eqx.field(static=True)
    noise: bool = eqx.field(static=True)
    limit: int = eqx.field(static=True)
    observation_space = Box((3,), 0.0, 1.0)
    action_space = Discrete(4)

    def __init__(self, length: int = 10, active: bool = False, noise: bool = False, limit: int = 100):
        shortest = length + 1 + 2 * active
        if length < 2:
            raise ValueError(f"length is {length}; a corridor has at least one cell between its ends, so 2")
        if limit < shortest:
            raise ValueError(f"limit is {limit}; the goal is {shortest} steps away at least")
        self.length, self.active, self.noise, self.limit = length, active, noise, limit

    def init(self, key: PRNGKeyArray) -> tuple[Place, Float[Array, "3"]]:
        goal, seen = jax.random.split(key)
        place = Place(jnp.int32(self.active), jax.random.bernoulli(goal), jnp.zeros((), jnp.int32))
        return place, self._seen(seen, place)

    def _seen(self, key: PRNGKeyArray, place: Place) -> Float[Array, "3"]:
        sign = jnp.where(place.north, jnp.array([0.0, 1.0, 1.0]), jnp.array([1.0, 1.0, 0.0]))
        corridor = jnp.array([1.0, 0.0, 1.0])
        if self.noise:
            corridor = corridor * jax.random.uniform(key, (3,))
        ends = jnp.where(place.cell == 0, sign, jnp.array([0.0, 1.0, 0.0]))
        return jnp.where((place.cell > 0) & (place.cell < self.length), corridor, ends)

    def step(self, key: PRNGKeyArray, state: Place, action: Int[Array, ""]) -> tuple[Place, Outcome]:
        junction = state.cell == self.length
        arm = junction & ((action == NORTH) | (action == SOUTH))
        moved = jnp.where(action == EAST, 1, jnp.where(action == WEST, -1, 0))
        cell = jnp.clip(state.cell + moved, 0, self.length).astype(jnp.int32)
        goal = (action == NORTH) == state.north
        reward = jnp.where(arm, jnp.where(goal, 4.0, -0.1), jnp.where(cell == state.cell, -0.1, 0.0))
        state = Place(cell, state.north, state.t + 1)
        cut = (state.t >= self.limit) & ~arm
        return state, Outcome(self._seen(key, state), reward.astype(jnp.float32), arm, cut)

    def card(self) -> Card:
        return Card(4.0, (4.0 - 0.1) / 2, self.limit)

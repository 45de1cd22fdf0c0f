"""POPGym's games on a hidden board: only the tile that was asked for is answered.

| world       | hidden              | observed                     | reward of asking for a tile          |
|-------------|---------------------|------------------------------|--------------------------------------|
| Battleship  | ships, shots so far | whether it is a new hit      | hit 1/S, else -1/(n^2 - S)           |
| MineSweeper | mines, tiles seen   | mines on and around the tile | new 1/L, seen before -0.5/(L - 2),   |
|             |                     |                              | mine -0.5 - 1/L                      |

S tiles have ships, L tiles have no mine. Best attainable: below 1, as chance decides early shots; 1 in
Battleship for one who knows the ships. Best memoryless: below 0, as tiles are asked for again. Battleship
ends when all ships are hit, and is cut off after n^2 shots; MineSweeper ends at a mine or when all is seen,
and is cut off after L steps.

Tiles are numbered row by row (the package takes pairs). Ships lie as if places were drawn until one is free:
each free place is equally likely.

Source: S. Morad et al., "POPGym", 2023, arXiv:2303.01859, and the package `popgym`.
"""

from functools import cache
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from .base import AbstractWorld, Outcome
from .levels import at_level
from .spaces import Discrete


class Sea(NamedTuple):
    """ship: tiles with one.  shot: tiles shot at.  t: steps taken."""

    ship: Bool[Array, " tiles"]
    shot: Bool[Array, " tiles"]
    t: Int[Array, ""]


class Battleship(AbstractWorld):
    """Find the ships of a board of ``size`` x ``size`` tiles."""

    size: int = eqx.field(static=True)
    ships: tuple[int, ...] = eqx.field(static=True)
    action_space: Discrete
    observation_space = Discrete(2)

    def __init__(self, size: int = 8, ships: tuple[int, ...] = (2, 3, 3, 4)):
        if max(ships) > size:
            raise ValueError(f"a ship of {max(ships)} tiles does not fit on a board of size {size}")
        self.size, self.ships, self.action_space = size, ships, Discrete(size * size)

    def begin(self, ship: Bool[Array, " tiles"]) -> tuple[Sea, Int[Array, ""]]:
        return Sea(ship, jnp.zeros_like(ship), jnp.zeros((), jnp.int32)), jnp.zeros((), jnp.int32)

    def init(self, key):
        board = jnp.zeros(self.size**2, bool)
        for length, k in zip(self.ships, jax.random.split(key, len(self.ships)), strict=True):
            places = jnp.asarray(_places(self.size, length))
            free = ~(places & board).any(axis=1)
            board |= places[jax.random.categorical(k, jnp.where(free, 0.0, -jnp.inf))]
        return self.begin(board)

    def step(self, key, state, action):
        tiles, ship_tiles = self.size**2, sum(self.ships)
        hit = state.ship[action] & ~state.shot[action]
        state = Sea(state.ship, state.shot.at[action].set(True), state.t + 1)
        sunk = ~(state.ship & ~state.shot).any()
        reward = jnp.where(hit, 1 / ship_tiles, -1 / (tiles - ship_tiles)).astype(jnp.float32)
        return state, Outcome(hit.astype(jnp.int32), reward, sunk, (state.t >= tiles) & ~sunk)


@cache
def _places(size: int, length: int) -> np.ndarray:
    """Every way a ship can lie, as tiles: (places, size * size)."""
    boards = []
    for line in range(size):
        for start in range(size - length + 1):
            board = np.zeros((size, size), bool)
            board[line, start : start + length] = True
            boards += [board.ravel(), board.T.ravel()]
    return np.stack(boards)


class Field(NamedTuple):
    """mine, seen: tiles with a mine, tiles asked for.  t: steps taken."""

    mine: Bool[Array, " tiles"]
    seen: Bool[Array, " tiles"]
    t: Int[Array, ""]


class MineSweeper(AbstractWorld):
    """Ask for all tiles without a mine of a board of ``size`` x ``size``."""

    size: int = eqx.field(static=True)
    mines: int = eqx.field(static=True)
    action_space: Discrete
    observation_space: Discrete

    def __init__(self, size: int = 4, mines: int = 2):
        if not 0 < mines < size**2 - 2:
            raise ValueError(f"mines is {mines}; a board of size {size} takes 1 to {size**2 - 3}")
        self.size, self.mines = size, mines
        self.action_space, self.observation_space = Discrete(size * size), Discrete(min(mines + 1, 10))

    def begin(self, mine: Bool[Array, " tiles"]) -> tuple[Field, Int[Array, ""]]:
        return Field(mine, jnp.zeros_like(mine), jnp.zeros((), jnp.int32)), jnp.zeros((), jnp.int32)

    def init(self, key):
        chosen = jax.random.choice(key, self.size**2, (self.mines,), replace=False)
        return self.begin(jnp.zeros(self.size**2, bool).at[chosen].set(True))

    def step(self, key, state, action):
        safe = self.size**2 - self.mines
        row, column = action // self.size, action % self.size
        rows, columns = jnp.arange(self.size)[:, None], jnp.arange(self.size)[None]
        near = (abs(rows - row) <= 1) & (abs(columns - column) <= 1)
        count = jnp.sum(near.ravel() & state.mine, dtype=jnp.int32)
        exploded, again = state.mine[action], state.seen[action]
        reward = jnp.where(exploded, -0.5 - 1 / safe, jnp.where(again, -0.5 / (safe - 2), 1 / safe))
        state = Field(state.mine, state.seen.at[action].set(True), state.t + 1)
        over = exploded | (state.mine | state.seen).all()
        outcome = Outcome(count, reward.astype(jnp.float32), over, (state.t == safe) & ~over)
        return state, outcome


def battleship(level: str = "easy") -> Battleship:
    return Battleship(at_level(level, 8, 10, 12))


def minesweeper(level: str = "easy") -> MineSweeper:
    return MineSweeper(*at_level(level, (4, 2), (6, 6), (8, 10)))

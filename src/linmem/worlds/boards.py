"""POPGym's games on a hidden board: only the tile that was asked for is answered.

| world       | hidden              | observed                     | reward of asking for a tile          |
|-------------|---------------------|------------------------------|--------------------------------------|
| Battleship  | ships, shots so far | whether it is a new hit      | hit 1/S, else -1/(n^2 - S)           |
| MineSweeper | mines, tiles seen   | mines on and around the tile | new 1/L, seen before -0.5/(L - 2),   |
|             |                     |                              | mine -0.5 - 1/L                      |

S tiles have ships, L tiles have no mine. Best attainable: below 1, as chance decides early shots; 1 for one
who knows the board. Best memoryless: below 0, as tiles are asked for again; ``card`` gives what chance earns
(in MineSweeper: among the number of tiles where it earns most). Battleship ends when all ships are hit, and
is cut off after n^2 shots; MineSweeper ends at a mine or when all is seen, and is cut off after L steps.

Tiles are numbered row by row (the package takes pairs). Ships lie as if places were drawn until one is free:
each free place is equally likely.

Source: S. Morad et al., "POPGym", 2023, arXiv:2303.01859, and the package `popgym`.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Bool, Float, Int, UInt32

from .base import AbstractWorld, Card, Outcome
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
        if not ships or min(ships) < 1:
            raise ValueError(f"ships is {ships}; name at least one, each of at least 1 tile")
        if max(ships) > size:
            raise ValueError(f"a ship of {max(ships)} tiles does not fit on a board of size {size}")
        self.size, self.ships, self.action_space = size, ships, Discrete(size * size)

    def begin(self, ship: Bool[Array, " tiles"]) -> tuple[Sea, Int[Array, ""]]:
        return Sea(ship, jnp.zeros_like(ship), jnp.zeros((), jnp.int32)), jnp.zeros((), jnp.int32)

    def init(self, key):
        # A line of tiles is one integer, a bit for each tile: rows, then columns. All copies begin an episode
        # in every step of a rollout, whether it is used or not, so this must not cost more than a step.
        lines = jnp.zeros(2 * self.size, jnp.uint32)
        for length, chance in zip(self.ships, jax.random.uniform(key, (len(self.ships),)), strict=True):
            lines = _place(lines, self.size, length, chance)
        tiles = (lines[: self.size, None] >> jnp.arange(self.size, dtype=jnp.uint32)) & 1
        return self.begin(tiles.ravel() > 0)

    def step(self, key, state, action):
        tiles, ship_tiles = self.size**2, sum(self.ships)
        hit = state.ship[action] & ~state.shot[action]
        state = Sea(state.ship, state.shot.at[action].set(True), state.t + 1)
        sunk = ~(state.ship & ~state.shot).any()
        reward = jnp.where(hit, 1 / ship_tiles, -1 / (tiles - ship_tiles)).astype(jnp.float32)
        return state, Outcome(hit.astype(jnp.int32), reward, sunk, (state.t >= tiles) & ~sunk)

    def card(self) -> Card:
        tiles, ship_tiles = self.size**2, sum(self.ships)
        hit = np.arange(ship_tiles + 1) / tiles  # the chance of a new hit, by ship tiles left
        gain = hit / ship_tiles - (1 - hit) / (tiles - ship_tiles)
        value = np.zeros(ship_tiles + 1)
        for _ in range(tiles):  # shots at random, the last one first
            value[1:] = (gain + (1 - hit) * value)[1:] + hit[1:] * value[:-1]
        return Card(1.0, float(value[-1]), tiles, exact=False)


def _place(
    lines: UInt32[Array, " two_sizes"], size: int, length: int, chance: Float[Array, ""]
) -> UInt32[Array, " two_sizes"]:
    """Lay a ship on the free place whose rank is ``chance`` in [0, 1): bit b of line i is a tile, line i
    a row, line size + i a column."""
    blocked = jnp.zeros_like(lines)
    for i in range(length):
        blocked |= lines >> i
    free = ~blocked & ((1 << (size - length + 1)) - 1)  # bit b: a ship that begins there fits
    upto = jnp.cumsum(jax.lax.population_count(free).astype(jnp.int32))
    rank = jnp.floor(chance * upto[-1]).astype(jnp.int32)
    line = jnp.sum(upto <= rank)
    chosen = jnp.arange(2 * size) == line
    starts = jnp.sum(jnp.where(chosen, free, 0), dtype=jnp.uint32)
    later = jnp.sum(jnp.where(chosen, upto, 0)) - rank - 1  # free places after it in its line
    before = jax.lax.population_count(starts).astype(jnp.int32) - 1 - later
    for i in range(size - length):
        starts = jnp.where(i < before, starts & (starts - 1), starts)  # drops the lowest bit
    ship = (starts & (~starts + 1)) * ((1 << length) - 1)
    # Its tiles in the lines that cross it: one bit in each.
    place = jnp.arange(2 * size, dtype=jnp.uint32)
    crossing = (place >= size) == (line < size)
    number = line.astype(jnp.uint32) % size
    across = ((ship >> (place % size)) & 1) << number
    return lines | jnp.where(chosen, ship, 0) | jnp.where(crossing, across, 0)


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
        # Floyd's draw of distinct tiles (Bentley 1987, Programming Pearls, CACM 30(9)): no sorting, because
        # all copies begin an episode in every step of a rollout, whether it is used or not.
        tiles = self.size**2
        chances = jax.random.uniform(key, (self.mines,))
        board = jnp.zeros(tiles, bool)
        for last, chance in zip(range(tiles - self.mines, tiles), chances, strict=True):
            drawn = jnp.arange(tiles) == jnp.floor(chance * (last + 1)).astype(jnp.int32)
            board |= jnp.where((board & drawn).any(), jnp.arange(tiles) == last, drawn)
        return self.begin(board)

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

    def card(self) -> Card:
        tiles, safe = self.size**2, self.size**2 - self.mines
        return Card(1.0, max(self.by_chance(k) for k in range(1, tiles + 1)), safe, exact=False)

    def by_chance(self, among: int) -> float:
        """Expected return of one who asks for any of ``among`` fixed tiles at every step."""
        tiles, safe = self.size**2, self.size**2 - self.mines
        clear = np.arange(among + 1)[:, None]  # of them without a mine
        seen = np.arange(among + 1)[None]
        new, again, mine = (np.clip(x / among, 0, 1) for x in (clear - seen, seen, among - clear))
        gain = new / safe - again * 0.5 / (safe - 2) - mine * (0.5 + 1 / safe)
        value = np.zeros((among + 1, among + 2))  # by clear, seen
        for _ in range(safe):  # all is seen after the last step at the earliest
            value[:, :-1] = gain + again * value[:, :-1] + new * value[:, 1:]
        return float(scipy.stats.hypergeom.pmf(clear[:, 0], tiles, safe, among) @ value[:, 0])


def battleship(level: str = "easy") -> Battleship:
    return Battleship(at_level(level, 8, 10, 12))


def minesweeper(level: str = "easy") -> MineSweeper:
    return MineSweeper(*at_level(level, (4, 2), (6, 6), (8, 10)))

"""POPGym's labyrinths: leave a maze, or walk over all of it, seeing only the squares around.

| what       | here                                                                                     |
|------------|------------------------------------------------------------------------------------------|
| hidden     | the maze, the place in it, and the squares visited                                       |
| observed   | the 3 x 3 squares around (0 free, 1 wall, 2 start, 3 goal), the last action (4: none)    |
| actions    | 0 left, 1 right, 2 up, 3 down; one against a wall does nothing                           |
| reward     | escape: -1/1024 a step, and 1 at the goal; explore: 1/free on a square for the first     |
|            | time, else -1/1024                                                                       |
| end        | the goal; all squares visited; cut off after 1023 steps                                  |
| best       | bounds: escape by the shortest way, explore without stepping on a square twice           |
| memoryless | at least what "keep a wall at your right hand" earns, which needs the last action only,  |
|            | and that is observed: memory is worth little here (the package itself warns of it)       |

At the upper and left border the squares shown begin at the border, so the agent is not in their middle. So
does the package.

Mazes are made by the hunt-and-kill algorithm, as the package's are (by `mazelib`). Departure: an episode
draws its maze from ``mazes`` that were made beforehand, because all copies begin one in every step of a
rollout, whether it is used or not.

Source: S. Morad et al., "POPGym", 2023, arXiv:2303.01859, and the package `popgym`.
"""

import functools
from collections import deque
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from .base import AbstractWorld, Card, Outcome
from .levels import at_level
from .spaces import Discrete, MultiDiscrete

FREE, WALL, START, GOAL = range(4)
NOTHING = 4
"""In the place of the last action, at the first step."""
MOVES = np.array([(0, -1), (0, 1), (-1, 0), (1, 0)])
"""(row, column) of left, right, up, down."""
STEPS = 1024
SAMPLE = 200
"""Mazes that ``card`` measures."""


class Walk(NamedTuple):
    """wall: of each square.  start, goal, at: (row, column).  seen: squares visited.  t: steps taken."""

    wall: Bool[Array, "n n"]
    start: Int[Array, "2"]
    goal: Int[Array, "2"]
    at: Int[Array, "2"]
    seen: Bool[Array, "n n"]
    t: Int[Array, ""]


class Labyrinth(AbstractWorld):
    """A maze of ``size`` x ``size`` squares and their border, to ``explore`` or to escape from.

    mazes, seed: how many mazes there are, and from what they are made.
    """

    walls: Bool[np.ndarray, "mazes n n"]
    explore: bool = eqx.field(static=True)
    observation_space = MultiDiscrete((5,) * 10, (10,))
    action_space = Discrete(4)

    def __init__(self, size: int = 10, explore: bool = False, mazes: int = 512, seed: int = 0):
        if size < 4 or size % 2:
            raise ValueError(f"size is {size}; it must be even and at least 4")
        self.walls = _mazes(size // 2, mazes, seed)
        self.explore = explore

    def init(self, key: PRNGKeyArray) -> tuple[Walk, Int[Array, "10"]]:
        maze, side, doors = jax.random.split(key, 3)
        n = self.walls.shape[1]
        wall = jnp.asarray(self.walls)[jax.random.randint(maze, (), 0, len(self.walls))]
        # Start and goal are on opposite sides, each at an odd place.
        first, last = 1 + 2 * jax.random.randint(doors, (2,), 0, n // 2)
        start, goal = jnp.stack([jnp.int32(0), first]), jnp.stack([jnp.int32(n - 1), last])
        turn, swap = jax.random.bernoulli(side, shape=(2,))
        start, goal = (jnp.where(turn, door[::-1], door) for door in (start, goal))
        return self.begin(wall, jnp.where(swap, goal, start), jnp.where(swap, start, goal))

    def begin(
        self, wall: Bool[Array, "n n"], start: Int[Array, "2"], goal: Int[Array, "2"]
    ) -> tuple[Walk, Int[Array, "10"]]:
        """An episode in this maze; ``wall`` is True at both doors."""
        wall = wall.at[start[0], start[1]].set(False)
        if not self.explore:
            wall = wall.at[goal[0], goal[1]].set(False)
        seen = jnp.zeros_like(wall).at[start[0], start[1]].set(True)
        state = Walk(wall, start, goal, start, seen, jnp.zeros((), jnp.int32))
        return state, self._seen(state, jnp.int32(NOTHING))

    def _seen(self, state: Walk, action: Int[Array, ""]) -> Int[Array, "10"]:
        n = state.wall.shape[0]
        corner = jnp.maximum(state.at - 1, 0)
        rows, columns = (corner[axis] + np.arange(3) for axis in (0, 1))
        inside = (rows <= state.at[0] + 1) & (rows < n), (columns <= state.at[1] + 1) & (columns < n)
        # Squares beyond the end are gathered as anything, and shown as walls.
        wall = state.wall[jnp.minimum(rows, n - 1)[:, None], jnp.minimum(columns, n - 1)]
        kind = jnp.where(wall, WALL, FREE)
        for place, shown in ((state.start, START), *(() if self.explore else ((state.goal, GOAL),))):
            kind = jnp.where((rows == place[0])[:, None] & (columns == place[1]), shown, kind)
        kind = jnp.where(inside[0][:, None] & inside[1], kind, WALL)
        return jnp.append(kind.ravel(), action).astype(jnp.int32)

    def step(self, key: PRNGKeyArray, state: Walk, action: Int[Array, ""]) -> tuple[Walk, Outcome]:
        n = state.wall.shape[0]
        to = jnp.clip(state.at + jnp.asarray(MOVES, jnp.int32)[action], 0, n - 1)
        at = jnp.where(state.wall[to[0], to[1]], state.at, to)
        new = ~state.seen[at[0], at[1]]
        seen = state.seen.at[at[0], at[1]].set(True)
        if self.explore:
            free = jnp.sum(~state.wall) - 1  # the start counts as visited
            reward = jnp.where(new, 1 / free, -1 / STEPS)
            over = (seen | state.wall).all()
        else:
            over = (at == state.goal).all()
            reward = jnp.where(over, 1.0, 0.0) - 1 / STEPS
        state = state._replace(at=at, seen=seen, t=state.t + 1)
        outcome = Outcome(
            self._seen(state, action), reward.astype(jnp.float32), over, (state.t == STEPS - 1) & ~over
        )
        return state, outcome

    def card(self) -> Card:
        """Measured on mazes of its own."""
        rng = np.random.default_rng(1)
        n = self.walls.shape[1]
        best, handrail = [], []
        for _ in range(SAMPLE):
            wall = self.walls[rng.integers(len(self.walls))].copy()
            start, goal = (0, 1 + 2 * int(rng.integers(n // 2))), (n - 1, 1 + 2 * int(rng.integers(n // 2)))
            if rng.random() < 0.5:
                start, goal = goal, start
            wall[start] = False
            if self.explore:
                free = int((~wall).sum()) - 1
                best.append(1.0)
                steps = _handrail_steps(wall, start, None)
                handrail.append(1.0 - (steps - free) / STEPS)
            else:
                wall[goal] = False
                best.append(1 - _shortest(wall, start, goal) / STEPS)
                handrail.append(1 - _handrail_steps(wall, start, goal) / STEPS)
        return Card(float(np.mean(best)), float(np.mean(handrail)), STEPS - 1, exact=False)


RIGHT_OF = (2, 3, 1, 0)
"""Where the right hand is for one who walks left, right, up, down."""
BEHIND = (1, 0, 3, 2)


def turns(heading: int) -> tuple[int, int, int, int]:
    """The directions that a right hand on the wall tries, in order: right, ahead, left, back."""
    right = RIGHT_OF[heading]
    return right, heading, BEHIND[right], BEHIND[heading]


def _handrail_steps(wall: np.ndarray, start: tuple[int, int], goal: tuple[int, int] | None) -> int:
    """Steps of one who keeps a wall at the right hand, never back to the start, until the goal, or until all
    is visited."""
    n, at = len(wall), start
    heading = 3 if start[0] == 0 else 2  # down from the upper border, up from the lower
    seen, free, steps = {start}, int((~wall).sum()), 0
    while at != goal if goal is not None else len(seen) < free:
        for direction in turns(heading):
            to = (at[0] + int(MOVES[direction][0]), at[1] + int(MOVES[direction][1]))
            if 0 <= to[0] < n and 0 <= to[1] < n and not wall[to] and to != start:
                break
        at, heading, steps = to, direction, steps + 1
        seen.add(at)
    return steps


def _shortest(wall: np.ndarray, start: tuple[int, int], goal: tuple[int, int]) -> int:
    """Steps of the shortest way, by breadth-first search."""
    queue, distance = deque([start]), {start: 0}
    while (at := queue.popleft()) != goal:
        for row, column in MOVES:
            to = (at[0] + int(row), at[1] + int(column))
            if 0 <= min(to) and max(to) < len(wall) and not wall[to] and to not in distance:
                distance[to] = distance[at] + 1
                queue.append(to)
    return distance[goal]


@functools.cache
def _mazes(cells: int, mazes: int, seed: int) -> Bool[np.ndarray, "mazes n n"]:
    rng = np.random.default_rng(seed)
    walls = np.stack([hunt_and_kill(cells, rng) for _ in range(mazes)])
    walls.flags.writeable = False  # all worlds of these settings share it
    return walls


def hunt_and_kill(cells: int, rng: np.random.Generator) -> Bool[np.ndarray, "n n"]:
    """The walls of a maze of ``cells`` x ``cells`` cells, at odd places, with border: n = 2 cells + 1.

    Walk at random from cell to closed cell, opening the way, until there is none beside; hunt an open cell
    that has one, each equally likely, and walk on from there, until all are open. (mazelib gives up hunting
    after n^2 draws, which seldom leaves a cell closed.)
    """
    n = 2 * cells + 1
    wall = np.ones((n, n), bool)

    def beside(at: tuple[int, int]) -> list[tuple[int, int]]:
        row, column = at
        there = ((row - 2, column), (row + 2, column), (row, column - 2), (row, column + 2))
        return [(r, c) for r, c in there if 0 < r < n and 0 < c < n and wall[r, c]]

    def one(places: list[tuple[int, int]]) -> tuple[int, int]:
        return places[int(rng.random() * len(places))]

    at = one([(row, column) for row in range(1, n, 2) for column in range(1, n, 2)])
    wall[at] = False
    opened = [at]
    while opened:
        while closed := beside(at):
            to = one(closed)
            wall[to] = wall[(at[0] + to[0]) // 2, (at[1] + to[1]) // 2] = False
            opened.append(to)
            at = to
        opened = [cell for cell in opened if beside(cell)]
        if opened:
            at = one(opened)
    return wall


def escape(level: str = "easy") -> Labyrinth:
    return Labyrinth(at_level(level, 10, 14, 18))


def explore(level: str = "easy") -> Labyrinth:
    return Labyrinth(at_level(level, 10, 14, 18), explore=True)

"""Classic problems of any size: RockSample and the T-maze."""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import scipy.sparse as sp

from ..rules import ANY, Rules
from ..sparse import CSR, SparsePOMDP

Cell = tuple[int, int]


def rock_sample(
    size: int,
    rocks: Sequence[Cell],
    start: Cell,
    *,
    half_distance: float = 20.0,
    discount: float = 0.95,
) -> SparsePOMDP:
    """A rover knows where the rocks are on a grid, but not which of them are good.

    Checking a rock from distance d tells its kind with probability (1 + 2 ** (-d / half_distance)) / 2.
    Sampling pays 10 for a good rock, which turns bad, and -10 for a bad one. Leaving the grid to the east
    pays 10 and ends. Leaving it elsewhere, or sampling where no rock is, pays -100 and ends.

    States: x, y, rocks (1 is good) in this order, then the end. Observations: good, bad; only a check can
    tell bad.

    Source: T. Smith, R. Simmons, "Heuristic Search Value Iteration for POMDPs", UAI 2004, section 7.
    Forbidden moves are taken as in the authors' ZMDP problem files, where they end the episode with -100.
    """
    kinds: list[tuple[int, ...]] = list(itertools.product((0, 1), repeat=len(rocks)))
    cells = size * size
    n = cells * len(kinds) + 1
    end, number = n - 1, {kind: i for i, kind in enumerate(kinds)}
    moves = {"north": (0, 1), "east": (1, 0), "south": (0, -1), "west": (-1, 0)}
    names = [*moves, *(f"check{i}" for i in range(len(rocks))), "sample"]

    def state(x: int, y: int, kind: tuple[int, ...]) -> int:
        return (x * size + y) * len(kinds) + number[kind]

    reached = np.tile(np.arange(n), (len(names), 1))
    accuracy = np.ones((len(names), n))  # probability of observing good
    rules: list[tuple[tuple[int, int, int, int], float]] = []
    for x, y, kind in itertools.product(range(size), range(size), kinds):
        s = state(x, y, kind)
        for a, (dx, dy) in enumerate(moves.values()):
            inside = 0 <= x + dx < size and 0 <= y + dy < size
            reached[a, s] = state(x + dx, y + dy, kind) if inside else end
            if not inside:
                rules.append(((a, s, ANY, ANY), 10.0 if x + dx == size else -100.0))
        for i, rock in enumerate(rocks):
            right = (1 + 2 ** (-math.dist((x, y), rock) / half_distance)) / 2
            accuracy[len(moves) + i, s] = right if kind[i] else 1 - right
        sample = len(names) - 1
        if (x, y) in rocks:
            i = list(rocks).index((x, y))
            reached[sample, s] = state(x, y, (*kind[:i], 0, *kind[i + 1 :]))
            rules.append(((sample, s, ANY, ANY), 10.0 if kind[i] else -10.0))
        else:
            reached[sample, s] = end
            rules.append(((sample, s, ANY, ANY), -100.0))
    initial = np.zeros(n)
    initial[[state(*start, kind) for kind in kinds]] = 1 / len(kinds)
    return SparsePOMDP(
        tuple(_moves(row, n) for row in reached),
        tuple(sp.csr_array(np.stack([good, 1 - good], axis=1)) for good in accuracy),
        _rules(rules),
        initial,
        discount,
        None,
        tuple(names),
        ("good", "bad"),
    )


def t_maze(length: int, *, discount: float = 0.9) -> SparsePOMDP:
    """A sign at the beginning of a corridor says at which arm of the junction at its end the reward lies.

    Cells 0 (the sign), 1 ... length, length + 1 (the junction), for each of the two goals, then the end.
    Actions: north, south, east, west; one against a wall does nothing. At the junction north or south ends: 4
    at the goal, else -0.1. Observations: up, down (the sign, read on arriving or staying at cell 0),
    corridor, junction, end. Since nothing is observed before the first action, reading the sign costs one
    step: the optimal value is 4 discount^(length + 2).

    Source: B. Bakker, "Reinforcement Learning with Long Short-Term Memory", NIPS 2001, section 4; noiseless,
    bumps free.
    """
    if length < 0:
        raise ValueError(f"length is {length}; it must not be negative")
    cells = length + 2
    n = 2 * cells + 1
    reached = np.tile(np.arange(n), (4, 1))
    seen = np.full(n, 2)
    rules: list[tuple[tuple[int, int, int, int], float]] = []
    for goal in (0, 1):
        first, junction = goal * cells, goal * cells + cells - 1
        reached[2, first:junction] += 1
        reached[3, first + 1 : junction + 1] -= 1
        reached[:2, junction] = n - 1
        seen[first], seen[junction] = goal, 3
        rules += [((arm, junction, ANY, ANY), 4.0 if arm == goal else -0.1) for arm in (0, 1)]
    seen[-1] = 4
    initial = np.zeros(n)
    initial[[0, cells]] = 1 / 2
    emission = sp.csr_array((np.ones(n), (np.arange(n), seen)), shape=(n, 5))
    return SparsePOMDP(
        tuple(_moves(row, n) for row in reached),
        (emission,) * 4,
        _rules(rules),
        initial,
        discount,
        None,
        ("north", "south", "east", "west"),
        ("up", "down", "corridor", "junction", "end"),
    )


def _moves(reached: np.ndarray, n: int) -> CSR:
    return sp.csr_array((np.ones(n), (np.arange(n), reached)), shape=(n, n))


def _rules(rules: list[tuple[tuple[int, int, int, int], float]]) -> Rules:
    index, value = zip(*rules, strict=True)
    return Rules(np.array(index, np.int32), np.array(value))


GENERATED: dict[str, Callable[[], SparsePOMDP]] = {
    # Published values of the 4 by 4 instance are for accuracy (1 + exp(-distance)) / 2.
    "rocksample-4-4.POMDP": lambda: rock_sample(
        4, [(3, 1), (2, 1), (1, 3), (1, 0)], (0, 2), half_distance=math.log(2)
    ),
    "rocksample-7-8.POMDP": lambda: rock_sample(
        7, [(2, 0), (0, 1), (3, 1), (6, 3), (2, 4), (3, 4), (5, 5), (1, 6)], (0, 3)
    ),
    "tmaze-5.POMDP": lambda: t_maze(5),
}

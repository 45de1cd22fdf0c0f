"""Boards are laid as likely as their definitions say: frequencies against the exact probabilities."""

import itertools
from collections import Counter

import jax
import numpy as np

from linmem.worlds.boards import Battleship, MineSweeper

DRAWS = 20_000


def frequencies(world, tiles):
    boards = jax.jit(jax.vmap(lambda key: tiles(world.init(key)[0])))(
        jax.random.split(jax.random.key(0), DRAWS)
    )
    return Counter(frozenset(map(int, np.flatnonzero(board))) for board in np.asarray(boards))


def agree(counts, probabilities):
    """No board that cannot be, and every frequency within five standard errors."""
    assert set(counts) <= set(probabilities)
    assert abs(sum(probabilities.values()) - 1) < 1e-9
    for board, p in probabilities.items():
        assert abs(counts[board] / DRAWS - p) < 5 * np.sqrt(p * (1 - p) / DRAWS), (sorted(board), p)


def ships(size, lengths):
    """The probability of each board when each ship takes any free place, one ship after another."""
    if not lengths:
        return {frozenset(): 1.0}
    result = Counter()
    for board, p in ships(size, lengths[:-1]).items():
        places = []
        for line, start in itertools.product(range(size), range(size - lengths[-1] + 1)):
            along = range(start, start + lengths[-1])
            places += [{line * size + i for i in along}, {i * size + line for i in along}]
        free = [board | place for place in places if not board & place]
        for laid in free:
            result[laid] += p / len(free)
    return dict(result)


def test_every_sea_is_as_likely_as_if_each_ship_took_any_free_place():
    agree(frequencies(Battleship(3, (2, 3)), lambda state: state.ship), ships(3, (2, 3)))
    agree(frequencies(Battleship(4, (4, 2)), lambda state: state.ship), ships(4, (4, 2)))


def test_every_field_of_mines_is_equally_likely():
    fields = [frozenset(mines) for mines in itertools.combinations(range(9), 3)]
    agree(
        frequencies(MineSweeper(3, 3), lambda state: state.mine),
        {field: 1 / len(fields) for field in fields},
    )

"""Iterated integrals are what their definitions say."""

import itertools

import numpy as np

from linmem.evidence.signature import explained, integrals

STEPS = np.random.default_rng(0).normal(size=(3, 6, 2))


def test_iterated_integrals_are_sums_over_ordered_steps():
    for path, (area, bracket) in zip(STEPS, integrals(STEPS), strict=True):
        x, y = path.T

        def word(*letters):
            chosen = itertools.combinations(range(6), len(letters))
            return sum(np.prod([step[k] for step, k in zip(letters, ks, strict=True)]) for ks in chosen)

        np.testing.assert_allclose(area, (word(x, y) - word(y, x)) / 2)
        np.testing.assert_allclose(bracket, word(x, x, y) - 2 * word(x, y, x) + word(y, x, x))


def test_the_signed_area_of_a_square_is_its_area():
    square = np.array([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]])
    assert integrals(square)[0, 0] == 1


def test_explained_is_one_for_a_linear_target_and_near_zero_for_noise():
    rng = np.random.default_rng(1)
    states = rng.normal(size=(2000, 5))
    linear, noise = states @ rng.normal(size=5), rng.normal(size=2000)
    scores = explained(states, np.stack([linear, noise], 1))
    assert scores[0] > 0.999 and abs(scores[1]) < 0.05

"""Reordering sorts tokens by importance, and learns what importance is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linmem.tasks.reordering import ImportanceOrder

XS = jax.random.normal(jax.random.key(1), (7, 3))


def test_at_low_temperature_the_tokens_are_sorted_by_score():
    order = ImportanceOrder(3, 1e-4, key=jax.random.key(0))
    scores = np.asarray(XS @ order.weight)
    np.testing.assert_allclose(order(XS), XS[np.argsort(-scores)], atol=1e-5)


def test_the_order_of_arrival_does_not_matter():
    order = ImportanceOrder(3, 0.5, key=jax.random.key(0))
    np.testing.assert_allclose(order(XS), order(jnp.flip(XS, 0)), atol=1e-6)


def test_the_scores_are_learned():
    order = ImportanceOrder(3, 0.5, key=jax.random.key(0))
    gradient = jax.grad(lambda order: order(XS)[0, 0])(order).weight
    assert jnp.isfinite(gradient).all() and jnp.abs(gradient).max() > 1e-3


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match="temperature is 0"):
        ImportanceOrder(3, 0.0, key=jax.random.key(0))

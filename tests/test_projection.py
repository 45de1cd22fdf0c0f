"""A projection of whole sequences is a product of matrices, in value and in derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linmem.core.projection import project


@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 5, 3)])
def test_a_projection_has_the_values_and_derivatives_of_a_product(float64, shape):
    rng = np.random.default_rng(0)
    x, w, g = rng.normal(size=shape), rng.normal(size=(3, 4)), rng.normal(size=(*shape[:-1], 4))
    y, pull = jax.vjp(project, jnp.asarray(x), jnp.asarray(w))
    g_x, g_w = pull(jnp.asarray(g))
    np.testing.assert_allclose(y, x @ w, rtol=1e-12)
    np.testing.assert_allclose(g_x, np.einsum("...c,dc->...d", g, w), rtol=1e-12)
    np.testing.assert_allclose(g_w, np.einsum("nd,nc->dc", x.reshape(-1, 3), g.reshape(-1, 4)), rtol=1e-12)


def test_sequences_side_by_side_share_the_weights_derivative(float64):
    rng = np.random.default_rng(1)
    x, w, g = rng.normal(size=(2, 5, 3)), rng.normal(size=(3, 4)), rng.normal(size=(2, 5, 4))

    def loss(w):
        return jnp.sum(jax.vmap(project, (0, None))(jnp.asarray(x), w) * g)

    np.testing.assert_allclose(jax.grad(loss)(jnp.asarray(w)), np.einsum("btd,btc->dc", x, g), rtol=1e-12)

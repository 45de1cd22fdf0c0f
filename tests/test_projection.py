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


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_batch_axis_may_stand_anywhere(float64, axis):
    rng = np.random.default_rng(2)
    x, w = rng.normal(size=(2, 5, 3)), rng.normal(size=(3, 4))
    batched = jnp.moveaxis(jnp.asarray(x), 0, axis)
    y = jax.vmap(project, (axis, None))(batched, jnp.asarray(w))
    np.testing.assert_allclose(y, x @ w, rtol=1e-12)


def test_steps_under_vmap_over_time_and_actors_make_one_product_for_the_weights(float64):
    """A gradient per step or sequence would be an array of as many matrices; g^T x is the slow way."""
    rng = np.random.default_rng(3)
    x, w, g = rng.normal(size=(5, 2, 3)), rng.normal(size=(3, 4)), rng.normal(size=(5, 2, 4))

    def loss(w):
        one_by_one = jax.vmap(jax.vmap(project, (0, None)), (1, None), 1)
        return jnp.sum(one_by_one(jnp.asarray(x), w) * g)

    gradient = jax.grad(loss)
    np.testing.assert_allclose(gradient(jnp.asarray(w)), np.einsum("tbd,tbc->dc", x, g), rtol=1e-12)
    made = [v.aval for e in jax.make_jaxpr(gradient)(jnp.asarray(w)).eqns for v in e.outvars]
    assert max(array.size for array in made) == g.size
    assert (4, 3) not in {array.shape for array in made}


def test_seeds_with_weights_of_their_own_do_not_mix(float64):
    rng = np.random.default_rng(4)
    x, w, g = rng.normal(size=(6, 2, 5, 3)), rng.normal(size=(6, 3, 4)), rng.normal(size=(6, 2, 5, 4))

    def loss(w, x, g):
        return jnp.sum(jax.vmap(project, (0, None))(x, w) * g)

    expected = np.einsum("sbtd,sbtc->sdc", x, g)
    of_seeds = jax.vmap(jax.grad(loss))(*map(jnp.asarray, (w, x, g)))
    np.testing.assert_allclose(of_seeds, expected, rtol=1e-12)
    of_all = jax.grad(lambda w: jnp.sum(jax.vmap(loss)(w, jnp.asarray(x), jnp.asarray(g))))(jnp.asarray(w))
    np.testing.assert_allclose(of_all, expected, rtol=1e-12)


@pytest.mark.parametrize("of_x, of_w", [("float16", "float32"), ("float32", "complex64")])
def test_operands_of_two_types_get_derivatives_of_their_own(of_x, of_w):
    x, w = jnp.ones((2, 3), of_x), jnp.ones((3, 4), of_w)
    both = lambda x, w: (jnp.sum(project(x, w)) + jnp.sum(x * x)).real  # noqa: E731
    plain = lambda x, w: (jnp.sum(x @ w) + jnp.sum(x * x)).real  # noqa: E731
    for got, expected in zip(jax.grad(both, (0, 1))(x, w), jax.grad(plain, (0, 1))(x, w), strict=True):
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)


def test_shapes_that_do_not_fit_are_named_and_no_width_at_all_is_fine():
    with pytest.raises(TypeError, match=r"\(5, 7\) and \(3, 4\)"):
        jax.eval_shape(project, jnp.ones((5, 7)), jnp.ones((3, 4)))
    assert jax.grad(lambda w: jnp.sum(project(jnp.ones((5, 0)), w)))(jnp.ones((0, 4))).shape == (0, 4)


def test_a_projection_is_differentiable_forwards_and_twice(float64):
    rng = np.random.default_rng(5)
    x, w, to_x, to_w = (jnp.asarray(rng.normal(size=size)) for size in ((5, 3), (3, 4), (5, 3), (3, 4)))
    y, moved = jax.jvp(project, (x, w), (to_x, to_w))
    np.testing.assert_allclose(y, x @ w, rtol=1e-12)
    np.testing.assert_allclose(moved, to_x @ w + x @ to_w, rtol=1e-12)
    twice = jax.hessian(lambda w: jnp.sum(project(x, w) ** 2))(w)
    np.testing.assert_allclose(twice, jax.hessian(lambda w: jnp.sum((x @ w) ** 2))(w), rtol=1e-12)

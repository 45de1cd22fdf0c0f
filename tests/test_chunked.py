"""Chunked kernels: the same recurrence as stepping, derivatives too, with starts anywhere and little
memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linmem.core.chunked.decay import Decay
from linmem.core.chunked.delta import DeltaInputs, DeltaRule
from linmem.core.chunked.kernel import unroll, walk
from linmem.core.chunked.normalised import Normalised, NormalisedInputs, NormalisedState, products
from linmem.core.chunked.scalar_decay import ScalarDecay, ScalarInputs
from linmem.core.chunked.triangular import solve_unit_lower
from linmem.core.chunked.vector_decay import VectorDecay, VectorInputs
from linmem.core.chunked.vector_delta import VectorDelta, VectorDeltaInputs
from linmem.memories.eigenvalue_range import log_decay

T, C, DK, DV, N = 43, 16, 3, 5, 2
STARTS = np.isin(np.arange(T), [0, 7, 8, 32, 40])  # inside chunks, two in a row, at a border, in the rest
KERNELS = ("scalar", "vector", "vector, gentle", "normalised", "delta", "products with decay", "vector delta")


def example(kind, rng, dtype):
    """A kernel, a state that is not empty, and inputs whose decays go from exp(-20) to 1, of either sign."""
    f = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)  # noqa: E731

    def decay(*shape):
        log = -20 * rng.uniform(size=shape) ** 8
        return Decay(jnp.asarray(log, dtype), jnp.asarray(rng.choice([-1.0, 1.0], shape), dtype))

    def unit(*shape):
        return (x := f(*shape)) / jnp.linalg.norm(x, axis=-1, keepdims=True)

    q, k, v, state = f(T, DK), f(T, DK), f(T, DV), f(DK, DV)
    match kind:
        case "scalar":
            return ScalarDecay(), state, ScalarInputs(q, k, v, decay(T))
        case "vector":
            return VectorDecay(), state, VectorInputs(q, k, v, decay(T, DK))
        case "vector, gentle":
            return VectorDecay(steepest=1.0), state, VectorInputs(q, k, v, decay(T, DK))
        case "normalised":
            state = NormalisedState(state, f(DK), f())
            return Normalised(), state, NormalisedInputs(q, k, v, 9 * f(T), decay(T))
        case "delta":
            beta = jnp.asarray(rng.uniform(0, 2, (T, 1)), dtype)
            return DeltaRule(), state, DeltaInputs(q, unit(T, 1, DK), f(T, 1, DV), beta, None)
        case "products with decay":
            beta = jnp.asarray(rng.uniform(0, 2, (T, N)), dtype)
            return DeltaRule(), state, DeltaInputs(q, unit(T, N, DK), f(T, N, DV), beta, decay(T))
        case _:
            a = unit(T, DK)
            b = -a * jnp.asarray(rng.uniform(size=(T, DK)), dtype)
            return VectorDelta(), state, VectorDeltaInputs(q, k, v, a, b, decay(T, DK))


def everything(run, kernel, state, xs, starts):
    """Outputs, last state, and the derivatives of a weighted sum of both in inputs and initial state."""

    def loss(state, xs):
        last, ys = run(kernel, state, xs, starts)
        weighted = [
            jnp.sum(jnp.cos(jnp.arange(x.size)).reshape(x.shape) * x) for x in jax.tree.leaves((last, ys))
        ]
        return sum(weighted), (last, ys)

    return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(state, xs)


def in_chunks(*arguments):
    return unroll(*arguments, length=C)


def compare(got, expected, tolerance):
    for g, e in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(g, e, rtol=0, atol=tolerance * np.abs(e).max(initial=1.0))


@pytest.mark.parametrize("kind", KERNELS)
def test_chunks_give_values_and_derivatives_of_the_recurrence(kind, float64):
    starts = jnp.asarray(STARTS)
    exact = everything(walk, *example(kind, np.random.default_rng(0), jnp.float64), starts)
    got = everything(in_chunks, *example(kind, np.random.default_rng(0), jnp.float64), starts)
    compare(got, exact, 1e-9)
    short = everything(in_chunks, *example(kind, np.random.default_rng(0), jnp.float32), starts)
    compare(short, exact, 1e-4)


@pytest.mark.parametrize("kind", ["scalar", "vector", "products with decay"])
def test_nan_stays_in_its_episode_and_is_not_hidden_there(kind):
    kernel, state, xs = example(kind, np.random.default_rng(1), jnp.float32)
    broken = xs._replace(v=xs.v.at[34].set(jnp.nan))
    starts = jnp.asarray(STARTS)
    run = jax.jit(lambda xs, starts: in_chunks(kernel, state, xs, starts))
    _, clean = run(xs, starts)
    last, ys = run(broken, starts)
    assert np.isnan(ys[34:40]).all()
    np.testing.assert_array_equal(ys[:34], clean[:34])
    np.testing.assert_array_equal(ys[40:], clean[40:])
    assert np.isfinite(last).all()


@pytest.mark.parametrize("size", [1, 5, 13])
def test_a_unit_lower_triangular_system_is_solved_with_its_derivative(size, float64):
    rng = np.random.default_rng(2)
    n, d_n = jnp.asarray(np.tril(rng.normal(size=(2, size, size)), -1))
    r, d_r = jnp.asarray(rng.normal(size=(2, size, 3)))
    (w, d_w), step = jax.jvp(solve_unit_lower, (n, r), (d_n, d_r)), 1e-6
    solved = [np.linalg.solve(np.eye(size) + n + s * d_n, r + s * d_r) for s in (0, step, -step)]
    np.testing.assert_allclose(w, solved[0], atol=1e-9 * np.abs(solved[0]).max())
    differences = (solved[1] - solved[2]) / (2 * step)
    np.testing.assert_allclose(d_w, differences, atol=1e-6 * (1 + np.abs(differences).max()))


@pytest.mark.parametrize("log", [-1e3, -1e6, -1e30])
def test_what_follows_a_decay_that_leaves_nothing_keeps_its_digits(log):
    rng = np.random.default_rng(3)
    q, k, v = (jnp.asarray(rng.normal(size=(24, 4)), jnp.float32) for _ in range(3))
    xs = ScalarInputs(q, k, v, Decay(jnp.full(24, -0.3).at[3].set(log).at[14].set(log)))
    arguments = ScalarDecay(), jnp.ones((4, 4)), xs, jnp.zeros(24, bool)
    compare(jax.jit(lambda: in_chunks(*arguments))(), walk(*arguments), 1e-5)


def test_an_empty_normalised_state_has_the_type_of_its_inputs(float64):
    kernel, _, xs = example("normalised", np.random.default_rng(0), jnp.float64)
    last, _ = walk(kernel, kernel.init(xs.k.shape[-1], xs.v.shape[-1]), xs, jnp.asarray(STARTS))
    assert {leaf.dtype for leaf in last} == {jnp.dtype("float64")}


def test_no_state_is_kept_for_every_step():
    steps, d = 4096, 32
    f = jnp.ones((steps, 1, d))
    xs = DeltaInputs(f[:, 0], f, f, jnp.ones((steps, 1)), None)
    starts = jnp.zeros(steps, bool)

    def loss(xs):
        return jnp.sum(unroll(DeltaRule(), jnp.zeros((d, d)), xs, starts)[1])

    kept = jax.jit(jax.grad(loss)).lower(xs).compile().memory_analysis().temp_size_in_bytes
    assert kept < steps * d * d * 4 / 2, f"{kept} bytes"


def test_a_decay_is_mapped_to_two_a_minus_one_with_slope_two(float64):
    for a in (1.0, 1 - 1e-9, 0.75, 0.5, 0.3, 1e-9):
        value, slope = jax.value_and_grad(lambda a: log_decay(jnp.log(a), True).value())(a)
        assert abs(value - (2 * a - 1)) < 1e-15
        assert abs(slope - 2) < 1e-6


def test_decays_that_round_to_zero_are_finite_with_finite_slopes():
    half = np.float32(np.log(0.5))
    logs = [half]
    for towards in (-np.inf, np.inf):
        log = half
        for _ in range(20):
            log = np.nextafter(log, np.float32(towards))
            logs.append(log)
    value = lambda log: log_decay(log, True).value()  # noqa: E731
    for function in (value, jax.grad(value)):
        assert np.isfinite(jax.vmap(function)(jnp.asarray(logs))).all()
    assert np.abs(jax.vmap(value)(jnp.asarray(logs))).max() < 1e-5


def test_the_compiler_does_not_see_an_empty_state_as_a_constant():
    """With jaxlib 0.10 on a CPU, queries times a broadcast zero read memory that is not theirs."""
    ones = jnp.ones((8, 4))

    def outputs(q):
        kernel = ScalarDecay()
        xs = ScalarInputs(q, ones, ones, Decay(jnp.zeros(8)))
        return unroll(kernel, kernel.init(4, 4), xs, jnp.zeros(8, bool))[1]

    assert "optimization_barrier" in jax.jit(outputs).lower(ones).as_text()


def test_products_of_nearly_orthogonal_vectors_keep_their_digits(float64):
    rng = np.random.default_rng(0)
    k = rng.normal(size=(9, 64))
    across = rng.normal(size=(9, 64))
    across -= k * (across * k).sum(1, keepdims=True) / (k**2).sum(1, keepdims=True)
    q, k = jnp.asarray(1e3 * across + 1e-2 * k, jnp.float32), jnp.asarray(k, jnp.float32)
    exact = np.asarray(q, np.float64) @ np.asarray(k, np.float64).T
    error, plain = np.diag(np.abs(products(q, k) - exact)), np.diag(np.abs(q @ k.T - exact))
    assert 0 < error.max() < plain.max() / 16  # half of the bits at least

    def slopes(product, *operands):
        return jax.grad(lambda q, k: jnp.sum(jnp.sin(jnp.arange(81).reshape(9, 9)) * product(q, k)), (0, 1))(
            *operands
        )

    q, k = (x.astype(jnp.float64) for x in (q, k))
    for got, right in zip(slopes(products, q, k), slopes(lambda q, k: q @ k.T, q, k), strict=True):
        np.testing.assert_allclose(got, right, rtol=1e-12)

"""Compiled kernels give what their twins in JAX do, derivatives too, in whatever batch they are called."""

import contextlib
import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linmem.core.chunked.decay import Decay
from linmem.core.chunked.delta import DeltaInputs, DeltaRule
from linmem.core.chunked.kernel import unroll_heads, vmap_heads, walk
from linmem.core.chunked.normalised import Normalised, NormalisedInputs, NormalisedState
from linmem.core.chunked.scalar_decay import ScalarDecay, ScalarInputs
from linmem.core.chunked.vector_decay import VectorDecay, VectorInputs
from linmem.core.chunked.vector_delta import VectorDelta, VectorDeltaInputs
from linmem.core.native import library
from linmem.core.native.convolution import convolution
from linmem.core.native.dictionary import recur as recur_mixed
from linmem.core.native.gru import recur
from linmem.core.native.selective import exponential_scan, implicit_scan
from linmem.core.native.traces import recur as recur_traces
from linmem.core.selective_scan import selective_scan
from linmem.memories import CONFORMING
from linmem.memories.ffm import FFM
from linmem.memories.gru import GRU
from linmem.memories.mamba import Mamba
from linmem.memories.matrix_memory import AbstractMatrixMemory
from linmem.memories.sd_ssm import SDSSM
from linmem.memories.selective import AbstractSelective
from linmem.memories.short_convolution import ShortConvolution
from linmem.memories.slice import DiagonalSLiCE, HadamardSLiCE, LowRankSLiCE
from linmem.memories.turning import AbstractTurning
from test_chunked import compare

if not shutil.which("c++"):  # nothing was built, and nothing is promised
    pytest.skip("no C++ compiler", allow_module_level=True)
assert library.loaded()

T, HEADS, BATCH = 70, 3, 2  # longer than two of the spans that backward does again
STARTS = np.isin(np.arange(T), [7, 8, 40, 64])
KINDS = ("scalar", "vector", "normalised", "delta", "delta, scaled", "products with decay", "vector delta")
SIZES = (
    (3, 5),
    (16, 32),
    (40, 9),
)  # rows of numbers that are no whole vector; of 2 and 4 vectors; of 5 and 2


def example(kind, sizes, dtype):
    """A kernel with states, inputs and head axes, of ``BATCH`` sequences."""
    (dk, dv), rng = sizes, np.random.default_rng(0)

    def f(*shape):
        return jnp.asarray(rng.normal(size=(BATCH, *shape)), dtype)

    def uniform(*shape):
        return jnp.asarray(rng.uniform(size=(BATCH, *shape)), dtype)

    def decay(*shape):
        sign = rng.choice([-1.0, 1.0], (BATCH, *shape))
        return Decay(-20 * uniform(*shape) ** 8, jnp.asarray(sign, dtype))

    def unit(*shape):
        return (x := f(*shape)) / jnp.linalg.norm(x, axis=-1, keepdims=True)

    q, k, v, state = f(T, HEADS, dk) / dk**0.5, f(T, HEADS, dk), f(T, HEADS, dv), f(HEADS, dk, dv)
    match kind:
        case "scalar":  # queries and keys that the heads share
            axes = ScalarInputs(None, None, 0, 0)
            return ScalarDecay(), state, ScalarInputs(q[:, :, 0], k[:, :, 0], v, decay(T, HEADS)), axes
        case "vector":
            return VectorDecay(), state, VectorInputs(q, k, v, decay(T, HEADS, dk)), 0
        case "normalised":
            state = NormalisedState(state, f(HEADS, dk), f(HEADS))
            return Normalised(), state, NormalisedInputs(q, k, v, 9 * f(T, HEADS), decay(T, HEADS)), 0
        case "delta, scaled":
            xs = DeltaInputs(q, f(T, HEADS, 2, dk), f(T, HEADS, 2, dv), uniform(T, HEADS, 2), None)
            return DeltaRule(scales=True), state, xs, 0
        case "delta":
            xs = DeltaInputs(q, unit(T, HEADS, 1, dk), f(T, HEADS, 1, dv), 2 * uniform(T, HEADS, 1), None)
            return DeltaRule(), state, xs, 0
        case "products with decay":
            beta = 2 * uniform(T, HEADS, 2)
            xs = DeltaInputs(q, unit(T, HEADS, 2, dk), f(T, HEADS, 2, dv), beta, decay(T, HEADS))
            return DeltaRule(), state, xs, 0
        case _:
            a = unit(T, HEADS, dk)
            xs = VectorDeltaInputs(q, k, v, a, -a * uniform(T, HEADS, dk), decay(T, HEADS, dk))
            return VectorDelta(), state, xs, 0


def compiled(kernel, state, xs, starts, axes):
    assert library.serves(state, xs)
    return unroll_heads(kernel, state, xs, starts, axes)


def stepped(kernel, state, xs, starts, axes):
    return vmap_heads(lambda *a: walk(kernel, *a), state, xs, starts, axes)


def weighted(outputs):
    return sum(jnp.sum(jnp.cos(jnp.arange(x.size)).reshape(x.shape) * x) for x in jax.tree.leaves(outputs))


def with_derivatives(function, *arguments):
    """What ``function`` gives, and the derivatives in all arguments of a weighted sum of it."""

    def loss(arguments):
        outputs = function(*arguments)
        return weighted(outputs), outputs

    return jax.jit(jax.grad(loss, has_aux=True))(arguments)


def of_matrices(run, kernel, state, xs, axes):
    starts = jnp.asarray(STARTS)
    return with_derivatives(jax.vmap(lambda state, xs: run(kernel, state, xs, starts, axes)), state, xs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", SIZES)
def test_matrix_states_are_those_of_stepping(kind, sizes, float64):
    kernel, state, xs, axes = example(kind, sizes, jnp.float32)
    same = jax.tree.map(
        lambda x: x.astype(jnp.float64), (state, xs)
    )  # rounding inputs moves some answers more
    exact = of_matrices(stepped, kernel, *same, axes)
    compare(of_matrices(compiled, kernel, *same, axes), exact, 1e-9)
    compare(of_matrices(compiled, kernel, state, xs, axes), exact, 1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_nan_and_its_derivatives_stay_in_their_episode(kind):
    kernel, state, xs, axes = example(kind, (3, 5), jnp.float32)
    run = jax.jit(lambda state, xs: of_matrices(compiled, kernel, state, xs, axes))
    (to_state, to_xs), (last, ys) = run(state, xs)
    broken = jax.tree.map(lambda x: x.at[:, 50].set(jnp.nan), xs)  # in the episode of steps 40 to 63
    (to_state_, to_xs_), (last_, ys_) = run(state, broken)
    assert np.isnan(ys_[:, 50:64]).all()
    for clean, got in zip(jax.tree.leaves((ys, to_xs)), jax.tree.leaves((ys_, to_xs_)), strict=True):
        np.testing.assert_array_equal(clean[:, :40], got[:, :40])
        np.testing.assert_array_equal(clean[:, 64:], got[:, 64:])
    for clean, got in zip(
        jax.tree.leaves((last, to_state)), jax.tree.leaves((last_, to_state_)), strict=True
    ):
        np.testing.assert_array_equal(clean, got)


def test_a_stabiliser_of_whole_numbers_loses_no_digit(float64):
    """Gates that add up to thousands: exponents are differences of large numbers."""
    kernel, state, xs, axes = example("normalised", (3, 5), jnp.float64)
    xs = xs._replace(input=200 * xs.input, forget=xs.forget._replace(log=40 * xs.forget.log))
    cast = jax.tree.map(lambda x: x.astype(jnp.float32), (state, xs))
    again = jax.tree.map(lambda x: x.astype(jnp.float64), cast)
    exact = of_matrices(stepped, kernel, *again, axes)[1][1]
    compare(of_matrices(compiled, kernel, *cast, axes)[1][1], exact, 1e-4)


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize(("width", "steps"), [(4, T), (1, 9), (4, 2)])
def test_the_convolution_is_that_of_jax(width, steps, silu, float64):
    rng = np.random.default_rng(1)
    f = lambda *shape: jnp.asarray(rng.normal(size=shape))  # noqa: E731
    weight, window, xs = f(width, 5), f(BATCH, width - 1, 5), f(BATCH, steps, 5)
    starts = jnp.asarray(np.isin(np.arange(BATCH * steps), [1, 7, 8, 40, 75]).reshape(BATCH, steps))

    def twin(weight, window, xs, starts):
        with library.without():
            layer = ShortConvolution(5, width, silu, key=jax.random.key(0))
            return type(layer).unroll(with_weight(layer, weight), window, xs, starts)[1]

    def batched(one):
        return lambda weight, window, xs: jax.vmap(one, (None, 0, 0, 0))(weight, window, xs, starts)

    got = with_derivatives(batched(functools.partial(convolution, silu)), weight, window, xs)
    compare(got, with_derivatives(batched(twin), weight, window, xs), 1e-12)


@pytest.mark.parametrize("decays", ["exponential", "of both signs", "implicit"])
@pytest.mark.parametrize(
    "channels", [5, 130]
)  # 130: two parts of a sequence, whose rows are no whole vectors
def test_the_selective_scan_is_that_of_jax(decays, channels, float64):
    rng, n = np.random.default_rng(3), 3
    f = lambda *shape: jnp.asarray(rng.normal(size=shape))  # noqa: E731
    rate = -jnp.exp(f(n, channels))
    delta, value = (jnp.abs(f(BATCH, T, channels)) for _ in range(2))
    key, query, initial = f(BATCH, T, n), f(BATCH, T, n), f(BATCH, n, channels)
    p, r = form = jnp.asarray([2.0, -1.0] if decays == "of both signs" else [1.0, 0.0])
    if decays == "implicit":  # as Longhorn's, whose decays lie between 0 and 1
        delta = delta / (1 + delta * jnp.sum(key**2, axis=-1, keepdims=True))

    def ours(rate, delta, key, query, value, initial):
        starts, as_typed = jnp.asarray(STARTS), form.astype(rate.dtype)
        if decays == "implicit":
            scan = lambda *a: implicit_scan(*a[:4], starts, a[4])  # noqa: E731
        else:
            scan = lambda *a: exponential_scan(rate, *a[:4], as_typed, starts, a[4])  # noqa: E731
        return jax.vmap(scan)(delta, key, query, value, initial)

    def twin(rate, delta, key, query, value, initial):
        def decay(delta, key):
            return 1 - jnp.outer(key**2, delta) if decays == "implicit" else p * jnp.exp(delta * rate) + r

        scan = lambda *a: selective_scan(decay, a[4], *a[:4], jnp.asarray(STARTS))  # noqa: E731
        return jax.vmap(scan)(delta, key, query, value, initial)

    arguments = rate, delta, key, query, value, initial
    exact = with_derivatives(twin, *arguments)
    compare(with_derivatives(ours, *arguments), exact, 1e-11)
    compare(with_derivatives(ours, *(x.astype(jnp.float32) for x in arguments)), exact, 2e-5)


def mixed(exponent, dictionary, weights, entering, starts, initial):
    """What ``recur_mixed`` does, literally, of one sequence."""
    x, states = initial, []
    for w, u, start in zip(weights, entering, starts, strict=True):
        M = jnp.tensordot(w, dictionary, 1)
        norms = jnp.sum((jnp.abs(M) + 1e-12) ** exponent, 0) ** (1 / exponent)
        x = (M / norms) @ jnp.where(start, 0.0, x) + u
        states.append(x)
    return jnp.stack(states)


@pytest.mark.parametrize(("exponent", "n"), [(1.2, 5), (2.5, 17)])  # rows of no whole vectors, of 1 and of 3
def test_a_transition_mixed_from_a_dictionary_is_that_of_the_paper(exponent, n, float64):
    """Two seeds, each with a dictionary of its own and two sequences of 11 steps, which are not runs of 4.
    Entries down to 1e-9, and in one step all are 0."""
    rng = np.random.default_rng(6)
    f = lambda *shape: jnp.asarray(rng.normal(size=(BATCH, *shape)))  # noqa: E731
    dictionary, weights = f(3, n, n) * 10.0 ** -jnp.asarray(rng.integers(0, 10, (n, n))), f(2, 11, 3)
    weights = weights.at[:, 0, 5].set(0.0)
    entering, initial = f(2, 11, n), f(2, n)
    starts = jnp.asarray(rng.uniform(size=(BATCH, 2, 11)) < 0.2)

    def run(one, *a):
        sequences = jax.vmap(one, (None, 0, 0, 0, 0))
        return with_derivatives(lambda d, w, u, h: jax.vmap(sequences)(d, w, u, starts, h), *a)

    arguments = dictionary, weights, entering, initial
    exact = run(functools.partial(mixed, exponent), *arguments)
    ours = functools.partial(recur_mixed, exponent, 1e-12)
    compare(run(ours, *arguments), exact, 1e-9)
    compare(run(ours, *(x.astype(jnp.float32) for x in arguments)), exact, 2e-5)


def test_a_nan_in_a_mixed_state_ends_at_its_start():
    starts = jnp.zeros(9, bool).at[6].set(True)
    weights, entering = jnp.full((9, 2), 0.5), jnp.ones((9, 3)).at[3].set(jnp.nan)
    dictionary = jnp.arange(18.0).reshape(2, 3, 3)

    def loss(entering):
        states = recur_mixed(1.2, 1e-12, dictionary, weights, entering, starts, jnp.zeros(3))
        return jnp.sum(states[6:]), states

    to_entering, states = jax.grad(loss, has_aux=True)(entering)
    assert np.isfinite(states[:3]).all() and np.isnan(states[3:6]).all() and np.isfinite(states[6:]).all()
    assert np.isfinite(to_entering).all() and not np.asarray(to_entering[:6]).any()
    # a norm of a column of the transition that is NaN makes all of the state NaN, as in the twin
    broken = dictionary.at[0, 0, 0].set(jnp.nan)
    states = recur_mixed(1.2, 1e-12, broken, weights[:1], jnp.ones((1, 3)), starts[:1], jnp.zeros(3))
    assert np.isnan(states).all()


STRUCTURES = (
    LowRankSLiCE(3, 5, 2, key=jax.random.key(0)),
    DiagonalSLiCE(3, 5, key=jax.random.key(0)),
    HadamardSLiCE(3, 2, key=jax.random.key(0)),
    HadamardSLiCE(3, 32, key=jax.random.key(0)),
)


@pytest.mark.parametrize("layer", STRUCTURES, ids=lambda layer: f"{type(layer).__name__} {len(layer.init())}")
def test_states_of_mean_square_1_are_those_of_jax(layer, float64):
    """Two seeds, each with weights of its own and 11 sequences, of which the first begins with a state too
    small to be scaled."""
    rng = np.random.default_rng(7)
    f = lambda *shape: jnp.asarray(rng.normal(size=(BATCH, *shape)))  # noqa: E731
    weights, n = [f(*leaf.shape) for leaf in jax.tree.leaves(layer)], len(layer.init())
    xs, state = f(11, 20, 3), f(11, n).at[:, 0].multiply(1e-12)
    starts = jnp.asarray(rng.uniform(size=(BATCH, 11, 20)) < 0.1).at[:, 0].set(False)

    def run(way, *a):
        def one(weights, x, state, start):
            with way():
                return jax.tree.unflatten(jax.tree.structure(layer), weights).unroll(state, x, start)

        sequences = jax.vmap(one, (None, 0, 0, 0))
        return with_derivatives(lambda w, xs, state: jax.vmap(sequences)(w, xs, state, starts), *a)

    exact = run(library.without, weights, xs, state)
    compare(run(contextlib.nullcontext, weights, xs, state), exact, 1e-10)
    single = jax.tree.map(lambda x: x.astype(jnp.float32), (weights, xs, state))
    compare(run(contextlib.nullcontext, *single), exact, 2e-4)


def with_weight(layer, weight):
    return jax.tree.unflatten(jax.tree.structure(layer), [weight])


def gru(make, weights, xs, state, starts):
    """``BATCH`` seeds, each with weights of its own and 11 sequences: a whole group and a part of one."""

    def one(weights, x, state, start):
        memory = jax.tree.unflatten(jax.tree.structure(GRU(3, 5, key=jax.random.key(0))), weights)
        with make():
            return memory.unroll(state, x, start)[1]

    return jax.vmap(jax.vmap(one, (None, 0, 0, 0)))(weights, xs, state, starts)


def test_the_gated_unit_is_that_of_jax(float64):
    rng = np.random.default_rng(2)
    f = lambda *shape: jnp.asarray(rng.normal(size=(BATCH, *shape)))  # noqa: E731
    weights = [f(*leaf.shape) for leaf in jax.tree.leaves(GRU(3, 5, key=jax.random.key(0)))]
    xs, state = 3 * f(11, 20, 3), f(11, 5)
    starts = jnp.asarray(rng.uniform(size=(BATCH, 11, 20)) < 0.1)
    run = lambda make: with_derivatives(lambda *a: gru(make, *a, starts), weights, xs, state)  # noqa: E731
    exact = run(library.without)
    compare(run(contextlib.nullcontext), exact, 1e-7)  # the twin's sigmoid is a tanh
    weights, xs, state = jax.tree.map(lambda x: x.astype(jnp.float32), (weights, xs, state))
    compare(run(contextlib.nullcontext), exact, 1e-4)


def traces(gamma, entering, starts, initial):
    """What ``recur_traces`` does, literally, of sequences side by side."""
    gamma, h = (jax.lax.complex(x[..., 0, :], x[..., 1, :]) for x in (gamma, initial))
    states = []
    for v, start in zip(entering, starts, strict=True):
        h = gamma * jnp.where(start[:, None], 0.0, h) + jnp.repeat(v, h.shape[-1] // v.shape[-1], axis=-1)
        states.append(jnp.stack([h.real, h.imag], -2))
    return jnp.stack(states)


def test_traces_that_turn_are_those_of_complex_numbers(float64):
    """Two seeds, each with decays of its own and three sequences side by side; 5 traces of 4 states, so that
    a row ends within a vector."""
    rng = np.random.default_rng(5)
    f = lambda *shape: jnp.asarray(rng.normal(size=(BATCH, *shape)))  # noqa: E731
    gamma, entering, initial = 0.6 * f(2, 20), f(19, 3, 5), f(3, 2, 20)
    starts = jnp.asarray(rng.uniform(size=(BATCH, 19, 3)) < 0.1)
    run = lambda way, *a: with_derivatives(  # noqa: E731
        lambda *a: jax.vmap(way)(a[0], a[1], starts, a[2]), *a
    )
    exact = run(traces, gamma, entering, initial)
    compare(run(recur_traces, gamma, entering, initial), exact, 1e-12)
    compare(run(recur_traces, *(x.astype(jnp.float32) for x in (gamma, entering, initial))), exact, 2e-5)


def test_a_nan_among_traces_ends_at_its_start():
    starts = jnp.zeros((6, 2), bool).at[4, 0].set(True)

    def run(entering):
        states, pull = jax.vjp(lambda v: recur_traces(gamma, v, starts, initial), entering)
        return states, pull(states)[0]

    gamma, initial = jnp.full((2, 3), 0.5), jnp.ones((2, 2, 3))
    clean, (states, to_entering) = run(jnp.ones((6, 2, 3))), run(jnp.ones((6, 2, 3)).at[2, 0].set(jnp.nan))
    broken = np.zeros((6, 2), bool)
    broken[2:4, 0] = True  # and the steps before, whose derivative goes through them
    np.testing.assert_array_equal(np.isnan(states).any((-2, -1)), broken)
    broken[:2, 0] = True
    np.testing.assert_array_equal(np.isnan(to_entering).any(-1), broken)
    np.testing.assert_array_equal(states[~np.isnan(states)], clean[0][~np.isnan(states)])
    np.testing.assert_array_equal(to_entering[~broken], clean[1][~broken])


def test_a_gate_of_nan_is_nan_until_the_next_start():
    nan = np.uint32(0x7FC00001).view(np.float32)  # its last bit would reach the exponent of a careless e^x
    entering = jnp.zeros((6, 3)).at[2].set(nan)
    starts = jnp.arange(6) == 4
    states = recur(jnp.ones((3, 1)), jnp.zeros(1), entering, starts, jnp.ones(1))
    np.testing.assert_array_equal(np.isnan(states[:, 0]), [False, False, True, True, False, False])


def test_gates_that_are_shut_or_open_are_finite_and_right():
    entering = jnp.asarray([[x] * 3 for x in (-1e30, -200.0, -88.0, -1e-3, 0.0, 1e-3, 88.0, 200.0, 1e30)])
    w, zero, starts = jnp.zeros((3, 1)), jnp.zeros(1), jnp.ones(len(entering), bool)
    states = jax.jit(recur)(w, zero, entering, starts, zero)[:, 0]
    x = np.asarray(entering[:, 0], np.float64)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(states, np.tanh(x) / (1 + np.exp(x)), atol=1e-7)


@pytest.mark.parametrize(
    "layer",
    [
        c
        for c in CONFORMING
        if issubclass(c, (AbstractMatrixMemory, AbstractSelective, AbstractTurning, GRU, SDSSM))
        or issubclass(c, (DiagonalSLiCE, LowRankSLiCE))
    ],
)
def test_layers_are_the_same_without_compiled_kernels(layer):
    memory, xs = layer.example(jax.random.key(0), 20)
    starts = jnp.arange(20) == 7
    run = jax.jit(lambda xs: memory.unroll(memory.init(), xs, starts)[1])
    assert "linmem_" in run.lower(xs).as_text()
    with library.without():
        twin = jax.jit(lambda xs: memory.unroll(memory.init(), xs, starts)[1])
        assert "linmem_" not in twin.lower(xs).as_text()
        expected = twin(xs)
    np.testing.assert_allclose(run(xs), expected, atol=2e-5)


def test_types_that_kernels_do_not_take_go_the_other_way():
    assert not library.serves(jnp.zeros((), jnp.bfloat16))
    memory, xs = GRU.example(jax.random.key(0), 4)
    memory, xs = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (memory, xs))
    _, ys = memory.unroll(memory.init().astype(jnp.bfloat16), xs, jnp.zeros(4, bool))
    assert ys.dtype == jnp.bfloat16


@pytest.mark.parametrize("layer", [FFM, GRU, Mamba, ShortConvolution])
def test_numbers_of_two_types_go_the_other_way(layer, float64):
    """A kernel would read the memory of one as the other."""
    x = jnp.asarray(np.random.default_rng(4).normal(size=(6, 3)))
    starts = jnp.zeros(6, bool)
    sizes = {FFM: (3, 5, 4, 2), GRU: (3, 5)}.get(layer, (3,))
    memory = layer(*sizes, key=jax.random.key(0))
    memory = jax.tree.map(lambda w: w.astype(jnp.float32), memory)
    got = memory.unroll(memory.init(), x, starts)[1]
    with library.without():
        np.testing.assert_array_equal(got, memory.unroll(memory.init(), x, starts)[1])

"""What the sequence layers promise beyond the conformance suite: forms agree, identities hold."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad
from scipy.special import eval_legendre

from linmem.evidence import hippo_prophecy
from linmem.memories import (
    FFM,
    GRU,
    RTF,
    S5,
    STU,
    HippoProphecy,
    LearnedTrace,
    SpaceTime,
    StateOffset,
    Trace,
    Window,
)
from linmem.memories.causal_filter import causal_filter
from linmem.memories.ls4 import LS4, moments
from linmem.memories.power_series import quotient
from linmem.memories.prophecy import derivative_readout
from linmem.memories.state_feedback import feedback_states
from linmem.memories.stu import hankel_filters

KEY = jax.random.key(3)


def begin(steps: int) -> np.ndarray:
    return np.arange(steps) == 0


@pytest.mark.parametrize(("p", "q", "length"), [(1, 1, 1), (4, 3, 2), (2, 6, 37)])
def test_a_quotient_of_series_times_the_denominator_is_the_numerator(p, q, length):
    rng = np.random.default_rng(0)
    a = np.concatenate([[1.0], rng.uniform(-0.3, 0.3, q - 1)])
    b = rng.standard_normal(p)
    k = np.asarray(quotient(jnp.asarray(b), jnp.asarray(a), length))
    expected = np.pad(b, (0, length))[:length]
    assert np.convolve(k, a)[:length] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("layer", [RTF, SpaceTime])
def test_convolution_gives_what_the_recurrence_gives(layer):
    memory, xs = layer.example(KEY, 37)
    assert eqx.filter_jit(memory.convolve)(xs) == pytest.approx(memory.reference(xs, begin(37)), abs=2e-5)


def test_a_stable_transfer_function_stays_finite_where_the_free_one_grows_without_bound():
    memory, xs = RTF.example(KEY, 200)
    wild = eqx.tree_at(lambda m: m.denominator, memory, 30 * memory.denominator)
    free, stable = wild, RTF(3, 5, stable=True, key=KEY)
    stable = eqx.tree_at(
        lambda m: (m.numerator, m.denominator, m.d), stable, (wild.numerator, wild.denominator, wild.d)
    )
    unroll = eqx.filter_jit(lambda memory: memory.unroll(memory.init(), xs, jnp.asarray(begin(200)))[1])
    assert not np.isfinite(unroll(free)).all()
    expected = stable.reference(xs, begin(200))
    assert np.abs(expected).max() < 1e3
    assert unroll(stable) == pytest.approx(expected, abs=1e-4)
    assert eqx.filter_jit(stable.convolve)(xs) == pytest.approx(expected, abs=1e-3)


def test_training_moves_the_readout_of_prophecy_and_not_its_dynamics():
    memory, xs = HippoProphecy.example(KEY, 20)
    loss = lambda memory: jnp.sum(memory.unroll(memory.init(), xs, jnp.asarray(begin(20)))[1] ** 2)  # noqa: E731
    gradient = eqx.filter_jit(eqx.filter_grad(loss))(memory)
    assert not gradient.a.any() and not gradient.b.any()
    assert gradient.c.any()


def test_the_kernel_of_a_transfer_function_is_its_companion_systems_impulse_response(float64):
    memory, _ = RTF.example(KEY, 1)
    a, b, h_0 = (np.asarray(x, np.float64) for x in (memory.denominator, memory.numerator, memory.d))
    expected = np.zeros((50, 3))
    for channel in range(3):
        companion = np.vstack([-a[channel], np.eye(4, 5)])
        state = np.eye(5)[0]
        for t in range(1, 50):
            expected[t, channel] = b[channel] @ state
            state = companion @ state
    expected[0] = h_0
    assert eqx.filter_jit(memory.kernel)(50) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("steps", [5, 16, 45])
def test_a_filter_sums_over_its_own_episode_whatever_stands_in_others(steps):
    rng = np.random.default_rng(steps)
    kernel, xs = rng.standard_normal((11, 2, 3)), rng.standard_normal((steps, 3))
    starts = np.isin(np.arange(steps), [3, 4, 20, 37])
    expected, first = np.zeros((steps, 2)), 0
    for t in range(steps):
        first = t if starts[t] else first
        for s in range(max(first, t - 10), t + 1):
            expected[t] += kernel[t - s] @ xs[s]
    poisoned = np.where((np.arange(steps) < first)[:, None], np.nan, xs)
    for inputs, rows in ((xs, slice(None)), (poisoned, slice(first, None))):
        ys = jax.jit(causal_filter)(jnp.asarray(kernel, "f4"), jnp.asarray(inputs, "f4"), jnp.asarray(starts))
        assert np.asarray(ys)[rows] == pytest.approx(expected[rows], abs=2e-5)


def test_spectral_filters_are_the_top_eigenvectors_of_the_moments_of_decays():
    def moment(i, j):  # of (1 - alpha) alpha^i over alpha in [0, 1]
        return quad(lambda alpha: (1 - alpha) ** 2 * alpha ** (i + j), 0, 1)[0]

    length, count = 9, 3
    moments = np.array([[moment(i, j) for j in range(length)] for i in range(length)])
    filters = hankel_filters(count, length)
    for k, one in enumerate(filters[:count]):
        size = np.linalg.norm(one)
        assert moments @ one == pytest.approx(size**4 * one, abs=1e-10)  # sigma = (sigma^(1/4))^4
        assert size**4 == pytest.approx(np.sort(np.linalg.eigvalsh(moments))[::-1][k])
    assert filters[count:] == pytest.approx(filters[:count] * (-1.0) ** np.arange(length))


def test_a_spectral_unit_learns_its_mix_and_not_its_filters():
    memory, xs = STU.example(KEY, 20)
    starts = jnp.asarray(begin(20))
    loss = lambda m: jnp.sum(m.unroll(m.init(), xs, starts)[1] ** 2)  # noqa: E731
    gradient = eqx.filter_jit(eqx.filter_grad(loss))(memory)
    assert not np.any(gradient.filters)
    assert np.all(np.asarray(gradient.mix) != 0)


def test_a_companion_state_space_holds_an_autoregression_and_forecasts_it_closed_loop(float64):
    order, steps = 4, 30
    weights = np.array([0.5, -0.2, 0.1, 0.4])
    memory = SpaceTime(1, 6, key=KEY)
    coefficients = (jnp.zeros((1, 6)), jnp.eye(6)[:1], jnp.pad(jnp.asarray(weights), (0, 2))[None])
    memory = eqx.tree_at(lambda m: (m.last, m.b, m.feedback), memory, coefficients)
    u = np.random.default_rng(0).standard_normal(steps)
    expected = list(u)
    for _ in range(720):
        expected.append(weights @ expected[: -order - 1 : -1])
    state, _ = eqx.filter_jit(memory.unroll)(
        memory.init(), jnp.asarray(u)[:, None], jnp.asarray(begin(steps))
    )
    ahead, _ = eqx.filter_jit(memory.forecast)(state, 720)
    assert np.asarray(ahead)[:, 0] == pytest.approx(expected[steps:], abs=1e-9)
    assert float(memory.predict_next(jnp.asarray(u)[:, None])[-1, 0]) == pytest.approx(expected[steps])


def test_the_prophecy_readout_is_the_derivative_of_any_polynomial():
    size = 6
    signal = np.polynomial.Polynomial(np.random.default_rng(0).standard_normal(size))
    now = 0.7
    state = [
        quad(lambda s, n=n: np.sqrt(2 * n + 1) * eval_legendre(n, 1 - 2 * s) * signal(now - s), 0, 1)[0]
        for n in range(size)
    ]
    assert derivative_readout(size) @ state == pytest.approx(signal.deriv()(now))


def test_an_untrained_prophecy_beats_persistence_the_more_the_larger_its_state():
    found = hippo_prophecy.measure("pendulum", seed=5)
    assert found["16"] < 0.5 * found["8"] < 0.25 * found["4"]


def test_feedback_sends_errors_back_by_the_fixed_diagonal_and_nothing_else(float64):
    steps, feedback = 12, 0.5
    memory, xs = GRU.example(KEY, steps)
    starts = jnp.asarray(np.isin(np.arange(steps), [0, 7]))
    weights = jnp.cos(jnp.arange(steps * 5.0)).reshape(steps, 5)
    first = jnp.full(5, 0.3)

    def loss(memory, first, xs):
        states = feedback_states(memory, first, xs, starts, feedback)
        return jnp.sum(weights * states) + jnp.sum(states[-1] ** 3)

    hs = [first]
    for x, start in zip(xs, starts, strict=True):
        hs.append(memory.step(hs[-1], x, start)[0])
    g, in_memory, in_xs = 3 * hs[-1] ** 2, None, []  # g: what the steps after t say of h_t
    for t in reversed(range(steps)):
        _, pull = jax.vjp(lambda m, h, x, t=t: m.step(h, x, starts[t])[0], memory, hs[t], xs[t])
        both, _, in_x = pull(weights[t] + g)
        in_memory = both if in_memory is None else jax.tree.map(jnp.add, in_memory, both)
        in_xs.append(in_x)
        g = jnp.where(starts[t], 0.0, feedback * (weights[t] + g))
    expected = (in_memory, g, jnp.stack(in_xs[::-1]))
    found = jax.jit(jax.grad(loss, (0, 1, 2)))(memory, first, xs)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one == pytest.approx(np.asarray(other), abs=1e-6)


def test_feedback_equal_to_the_true_jacobian_gives_the_exact_gradient():
    memory, xs = Trace(3, (0.9,)), jax.random.normal(KEY, (20, 3))  # pyright: ignore[reportArgumentType]
    starts = jnp.asarray(np.isin(np.arange(20), [0, 8]))

    def loss(xs, unroll):
        return jnp.sum(unroll(memory.init(), xs) ** 3)

    exact = eqx.filter_jit(jax.grad(loss))(xs, lambda h, xs: memory.unroll(h, xs, starts)[1])
    sent = eqx.filter_jit(jax.grad(loss))(xs, lambda h, xs: feedback_states(memory, h, xs, starts, 0.9))
    truncated = eqx.filter_jit(jax.grad(loss))(xs, lambda h, xs: feedback_states(memory, h, xs, starts, 0.0))
    assert sent == pytest.approx(np.asarray(exact), abs=1e-5)
    assert np.abs(truncated - exact).max() > 0.01


def test_an_offset_of_the_state_moves_outputs_for_ever_and_an_initial_state_does_not():
    steps = 2000
    memory, xs = S5.example(KEY, steps)
    starts = jnp.zeros(steps, bool)
    wrapped = StateOffset(memory)
    base = eqx.filter_jit(wrapped.unroll)(wrapped.init(), xs, starts)[1]
    shift = jnp.array([1.0, -2.0, 0.5])

    def moved(offset, first):
        tuned = eqx.tree_at(lambda m: m.offset, wrapped, offset)
        return eqx.filter_jit(tuned.unroll)(first, xs, starts)[1] - base

    def best(parameters):
        """What is left of the shift by the best setting of 4 complex numbers, by least squares."""
        columns = [parameters(unit) for unit in jnp.eye(8).reshape(8, 2, 4)]
        matrix = np.stack([np.asarray(c).ravel() for c in columns], axis=1)
        target = np.tile(np.asarray(shift), steps)
        return np.mean((matrix @ np.linalg.lstsq(matrix, target, rcond=None)[0] - target) ** 2)

    zero = wrapped.init()
    assert best(lambda unit: moved(unit, zero)) < 1e-6
    assert best(lambda unit: moved(wrapped.offset, jax.lax.complex(*unit))) > 0.5
    trained, frozen = eqx.partition(wrapped, wrapped.tunable())
    assert sum(leaf.size for leaf in jax.tree.leaves(trained)) == 8
    assert len(jax.tree.leaves(frozen)) == len(jax.tree.leaves(memory))


def test_an_offset_of_a_complex_state_is_found_by_gradient_descent():
    memory, xs = S5.example(KEY, 50)
    starts, wrapped = jnp.zeros(50, bool), StateOffset(memory)
    features = lambda tuned: tuned.unroll(tuned.init(), xs, starts)[1]  # noqa: E731
    right = features(eqx.tree_at(lambda m: m.offset, wrapped, jax.random.normal(KEY, (2, 4))))

    @jax.jit
    def descend(offset):
        loss = lambda o: jnp.mean((features(eqx.tree_at(lambda m: m.offset, wrapped, o)) - right) ** 2)  # noqa: E731
        value, slope = jax.value_and_grad(loss)(offset)
        return value, offset - 0.05 * slope

    first, offset = descend(wrapped.offset)
    for _ in range(300):
        last, offset = descend(offset)
    assert last < 1e-3 * first


def test_the_scale_of_a_latent_model_has_a_logarithm_however_small_it_is():
    raw = jnp.array([0.0, -200.0, -14.0, -16.0, 3.0])
    log_scale, slope = jax.vmap(jax.value_and_grad(lambda r: moments(jnp.stack([r, r]))[1][0]))(raw)
    exact = np.log(np.log1p(np.exp(np.float64(raw))))
    np.testing.assert_allclose(log_scale, exact, rtol=1e-6)
    np.testing.assert_allclose(slope[1], 1.0)


def test_a_latent_model_bounds_by_the_likelihood_less_the_divergence():
    """With networks cut to their last biases every part is known: the bound is a sum of Gaussian formulas."""
    model = LS4(1, 1, 4, key=KEY)
    outputs = [n.leave for n in (model.prior, model.decoder, model.posterior)]
    cut = [eqx.tree_at(lambda l: l.weight, layer, jnp.zeros_like(layer.weight)) for layer in outputs]
    biases = [jnp.array([0.5, 0.2]), jnp.array([0.3]), jnp.array([-0.1, -0.4])]
    cut = [eqx.tree_at(lambda l: l.bias, layer, bias) for layer, bias in zip(cut, biases, strict=True)]
    where = lambda m: [m.prior.leave, m.decoder.leave, m.posterior.leave, m.log_noise]  # noqa: E731
    model = eqx.tree_at(where, model, [*cut, jnp.array([0.6])])
    xs = jax.random.normal(KEY, (6, 1))
    likelihood = stats.norm.logpdf(np.asarray(xs)[:, 0], 0.3, np.exp(0.6))
    q, p = stats.norm(-0.1, np.log1p(np.exp(-0.4))), stats.norm(0.5, np.log1p(np.exp(0.2)))
    divergence = quad(lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), -8, 8)[0]
    bounds = eqx.filter_jit(model.elbo)(xs, jnp.asarray(begin(6)), KEY)
    assert bounds == pytest.approx(likelihood - divergence, abs=1e-5)


def test_a_latent_model_samples_what_its_density_expects():
    """Seen from the networks run over whole series, what was drawn step by step is standard normal noise."""
    steps = 3000
    model = LS4(2, 3, 4, key=KEY)
    xs, zs = eqx.filter_jit(model.sample)(steps, jax.random.key(1))
    starts = jnp.asarray(begin(steps))

    def before(values):
        return jnp.concatenate([jnp.zeros_like(values[:1]), values[:-1]])

    mean, log_scale = moments(model.prior(before(zs), starts))
    expected = model.decoder(jnp.concatenate([zs, before(xs)], axis=1), starts)
    for noise in ((zs - mean) / jnp.exp(log_scale), xs - expected):
        assert np.mean(noise, axis=0) == pytest.approx(0, abs=5 / steps**0.5)
        assert np.std(noise, axis=0) == pytest.approx(1, abs=5 / (2 * steps) ** 0.5)


def test_what_a_latent_model_says_of_a_series_does_not_depend_on_the_one_before():
    model = LS4(2, 3, 4, key=KEY)
    xs, starts = jax.random.normal(KEY, (12, 2)), jnp.asarray(np.isin(np.arange(12), [0, 7]))
    poisoned = jnp.where((jnp.arange(12) < 7)[:, None], jnp.nan, xs)
    clean, dirty = (eqx.filter_jit(model.elbo)(x, starts, KEY) for x in (xs, poisoned))
    assert np.array_equal(clean[7:], dirty[7:])


def test_a_context_of_ffm_turns_once_in_its_period():
    periods = (4.0, 7.0, 16.0)
    memory = FFM(2, 5, 4, 3, periods, key=KEY)
    gamma = memory.encode(jnp.ones(2), jnp.asarray(False)).transition.reshape(4, 3)
    turned = (gamma / jnp.abs(gamma)) ** jnp.array(periods)
    np.testing.assert_allclose(turned, np.ones((4, 3)), atol=1e-5)
    for wrong in ((4.0, 7.0), (4.0, 7.0, 0.0), (4.0, 7.0, math.nan)):
        with pytest.raises(ValueError, match="need 3 positive"):
            FFM(2, 5, 4, 3, wrong, key=KEY)


def test_a_sum_of_a_learned_trace_turns_once_in_its_period_or_never():
    memory = LearnedTrace(2, 5, 4, (3.0, math.inf), key=KEY)
    gamma = memory.encode(jnp.ones(2), jnp.asarray(False)).transition.reshape(4, 2)
    phase = gamma / jnp.abs(gamma)
    np.testing.assert_allclose(phase[:, 0] ** 3, np.ones(4), atol=1e-5)
    assert (jnp.abs(phase[:, 0] - 1) > 1).all()
    assert (phase[:, 1] == 1).all()
    for wrong in ((), (4.0, 0.0), (4.0, math.nan)):
        with pytest.raises(ValueError, match="need positive"):
            LearnedTrace(2, 5, 4, wrong, key=KEY)


def test_a_window_gives_the_last_inputs_newest_first_and_zeros_for_those_before_a_start():
    window, xs = Window(1, 3), jnp.arange(1.0, 6.0)[:, None]  # pyright: ignore[reportCallIssue]
    starts = jnp.asarray([True, False, False, False, True])
    _, frames = window.unroll(window.init(), xs, starts)
    assert frames.tolist() == [[1, 0, 0], [2, 1, 0], [3, 2, 1], [4, 3, 2], [5, 0, 0]]
    with pytest.raises(ValueError, match="length is 0; it holds at least the present input"):
        Window(1, 0)  # pyright: ignore[reportCallIssue]

"""State spaces: HiPPO bases, what diagonal layers share, and the two forms of each layer."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm
from scipy.special import eval_legendre

from linmem.memories import DSS, LRU, LSSL, S4, S4D, S5, diagonal, hippo
from linmem.memories.convolution import convolve, fast_length
from linmem.memories.promises import STARTS, unroll_is_the_reference

KEY = jax.random.key(0)


# --- HiPPO --------------------------------------------------------------------------------------------------


def test_the_state_of_legs_holds_coefficients_of_warped_legendre_polynomials():
    a, b, _, _ = hippo.legs(9)
    n = np.arange(9)
    for s in (0.0, 0.3, 2.0):
        basis = np.sqrt(2 * n + 1) * eval_legendre(n, 2 * np.exp(-s) - 1) * np.exp(-s)
        np.testing.assert_allclose(expm(s * a) @ b, basis, atol=1e-12)


def test_legt_read_at_the_end_of_its_window_delays_by_one():
    a, b, _, _ = hippo.legt(16)
    end = b * (-1.0) ** np.arange(16)
    for w in (0.5, 3.0):
        np.testing.assert_allclose(
            end @ np.linalg.solve(1j * w * np.eye(16) - a, b), np.exp(-1j * w), atol=1e-9
        )


def test_fout_read_at_the_end_of_its_window_delays_by_one_better_with_every_doubling():
    errors = []
    for size in (16, 32, 64):
        a, b, p, _ = hippo.fout(size)
        end = p[:, 0] / np.sqrt(2)
        w = 3.0
        delayed = 2 * end @ np.linalg.solve(1j * w * np.eye(size) - a, b) - 1
        errors.append(abs(delayed - np.exp(-1j * w)))
    assert errors[0] < 0.1 and errors[1] < 0.6 * errors[0] and errors[2] < 0.6 * errors[1]


@pytest.mark.parametrize("name", hippo.HIPPO)
def test_a_hippo_matrix_is_its_spectrum_minus_its_low_rank(name):
    one = hippo.HIPPO[name](8)
    eigenvalues, p, b, vectors = hippo.dplr(one)
    full = np.concatenate([vectors, vectors.conj()], axis=1)
    spectrum = np.concatenate([eigenvalues, eigenvalues.conj()])
    low_rank = np.concatenate([p, p.conj()])
    rebuilt = full @ (np.diag(spectrum) - low_rank @ low_rank.conj().T) @ full.conj().T
    np.testing.assert_allclose(rebuilt, one.a, atol=1e-12)
    np.testing.assert_allclose(2 * (vectors @ b).real, one.b, atol=1e-12)


@pytest.mark.parametrize("name", hippo.HIPPO)
def test_the_timescale_is_the_mean_of_the_window(name):
    """A kernel is basis times window, and the constant basis function leaves the window itself; for a window
    with a sharp end the series only comes near it."""
    a, b, _, timescale = hippo.HIPPO[name](32)
    s = np.linspace(0, 30, 6001)
    step = expm((s[1] - s[0]) * a)
    x, window = b, []
    for _ in s:
        window.append(x[0])
        x = step @ x
    window = np.array(window)
    mean = np.trapezoid(s * window, s) / np.trapezoid(window, s)
    np.testing.assert_allclose(mean, timescale, rtol=0.02)


def test_a_step_range_makes_the_state_look_back_as_far_as_asked():
    smallest, largest = hippo.step_range(0.5, shortest=10.0, longest=1000.0)
    assert (0.5 / largest, 0.5 / smallest) == (10, 1000)
    with pytest.raises(ValueError, match="shortest"):
        hippo.step_range(1.0, 5.0, 2.0)


def test_zero_order_hold_integrates_a_constant_input_even_where_a_is_singular():
    a, b = np.array([[0.0, 1.0], [0.0, 0.0]]), np.array([0.0, 2.0])  # position and speed
    transition, into = hippo.zoh(a, b, 0.5)
    np.testing.assert_allclose(transition, [[1, 0.5], [0, 1]], atol=1e-15)
    np.testing.assert_allclose(into, [0.25, 1.0], atol=1e-15)


def test_the_generalised_rule_is_euler_tustin_and_backward_euler():
    a, b = np.array([[-2.0]]), np.array([3.0])
    for alpha, expected in ((0.0, (0.8, 0.3)), (0.5, (0.9 / 1.1, 0.3 / 1.1)), (1.0, (1 / 1.2, 0.3 / 1.2))):
        transition, into = hippo.generalised_bilinear(a, b, 0.1, alpha)
        np.testing.assert_allclose([transition[0, 0], into[0]], expected, rtol=1e-12)


def test_odd_sizes_are_refused_with_the_reason():
    for make in (hippo.fout, lambda n: hippo.dplr(hippo.legs(n)), lambda n: diagonal.lin(n, KEY)):
        with pytest.raises(ValueError, match="size is 7; conjugate pairs"):
            make(7)


# --- initialisations and maps -------------------------------------------------------------------------------


def test_s4d_lin_and_inv_follow_their_formulas():
    np.testing.assert_allclose(diagonal.lin(6, KEY).eigenvalues, -0.5 + 1j * np.pi * np.array([0, 1, 2]))
    np.testing.assert_allclose(
        diagonal.inv(6, KEY).eigenvalues, -0.5 + 1j * 6 / np.pi * np.array([5.0, 1.0, 0.2])
    )


@pytest.mark.parametrize("name", diagonal.INITS)
def test_every_basis_gives_a_real_state_back(name):
    basis = diagonal.INITS[name](12, KEY)
    x = np.random.default_rng(0).standard_normal(12)
    np.testing.assert_allclose(2 * np.real(basis.back @ (basis.into @ x)), x, atol=1e-8)


def test_ptd_is_the_eigensystem_of_a_matrix_near_hippo():
    epsilon, one = 0.05, hippo.legs(12)
    basis = diagonal.perturb_then_diagonalise(epsilon)(12, KEY)
    rebuilt = 2 * np.real(basis.back * basis.eigenvalues @ basis.into)
    np.testing.assert_allclose(np.linalg.norm(rebuilt - one.a, 2), epsilon, rtol=1e-5)
    np.testing.assert_allclose(2 * np.real(basis.back @ basis.b), one.b, atol=1e-8)


def test_the_ring_is_uniform_between_its_radii():
    eigenvalues = np.exp(diagonal.ring_between(0.6, 0.9, 1.0)(8000, KEY).eigenvalues)
    radius, phase = np.abs(eigenvalues), np.angle(eigenvalues)
    assert radius.min() >= 0.6 - 1e-6 and radius.max() <= 0.9 + 1e-6
    assert phase.min() >= 0 and phase.max() <= 1
    share = np.mean(radius**2 < (0.6**2 + 0.9**2) / 2)  # half of the area lies within the mean square
    assert abs(share - 0.5) < 5 * 0.5 / np.sqrt(4000)
    with pytest.raises(ValueError, match="unit disc"):
        diagonal.ring_between(0.5, 1.5)


@pytest.mark.parametrize("name", diagonal.DECAYS)
def test_a_decay_map_returns_to_the_rate_it_was_asked_for(name):
    decay = diagonal.DECAYS[name]
    rates = jnp.array([-0.01, -0.5, -3.0])
    np.testing.assert_allclose(decay.rate(decay.weight(rates)), rates, rtol=1e-5)


def test_only_the_direct_map_can_become_unstable():
    w = jnp.linspace(-20, 20, 401)
    unstable = {name for name, decay in diagonal.DECAYS.items() if bool(jnp.any(decay.rate(w) > 0))}
    assert unstable == {"direct"}


def test_the_best_maps_balance_their_gradients():
    for w in (-3.0, 0.2, 5.0):
        f, slope = jax.value_and_grad(diagonal.best.rate)(w)
        np.testing.assert_allclose(abs(slope) / f**2, 2 * abs(w), rtol=1e-5)
        f, slope = jax.value_and_grad(diagonal.best_of_a_step)(w)
        np.testing.assert_allclose(abs(slope) / (1 - f) ** 2, 2 * abs(w), rtol=1e-4)


def test_both_discretisations_agree_with_those_of_matrices():
    eigenvalues, b = np.array([-0.5 + 2j, -1.0 - 3j]), np.array([1.0 + 1j, 2.0])
    for name, dense in (("zoh", hippo.zoh), ("bilinear", hippo.bilinear)):
        transition, gain = diagonal.DISCRETISE[name](jnp.asarray(eigenvalues), jnp.array(0.3))
        expected, into = dense(np.diag(eigenvalues), b, 0.3)
        np.testing.assert_allclose(transition, np.diag(expected), rtol=1e-5)
        np.testing.assert_allclose(gain * b, into, rtol=1e-5)


def test_a_polarised_layer_holds_one_channel_at_zero_and_one_at_one():
    held = diagonal.polarised(jnp.array([[0.3, 0.5j, 0.7], [0.1, 0.2, 0.3]]))
    np.testing.assert_array_equal(held, np.array([[0, 0.5j, 1], [0, 0.2, 1]], np.complex64))
    for layer in (S5(3, 8, key=KEY, hold=diagonal.polarised), LRU(3, 5, key=KEY, hold=diagonal.polarised)):
        transition = layer.encode(jnp.ones(3), jnp.array(False)).transition
        assert (transition[0], transition[-1]) == (0, 1)


def test_every_initialisation_and_map_makes_a_diagonal_layer_that_runs():
    xs, starts = jax.random.normal(KEY, (5, 3)), jnp.arange(5) == 0
    for layer in (S5, S4D):
        options = [{"init": init} for init in diagonal.INITS.values()]
        options += [{"decay": decay} for decay in diagonal.DECAYS.values()]
        options += [{"discretise": rule} for rule in diagonal.DISCRETISE.values()]
        for option in options:
            memory = layer(3, 8, key=KEY, **option)
            assert np.isfinite(eqx.filter_jit(memory.unroll)(memory.init(), xs, starts)[1]).all(), option


# --- two forms of each layer --------------------------------------------------------------------------------


def test_convolution_is_the_sum_it_stands_for():
    rng = np.random.default_rng(0)
    kernel, xs = rng.standard_normal((2, 11, 3)).astype(np.float32)
    expected = [sum(kernel[s] * xs[t - s] for s in range(t + 1)) for t in range(11)]
    np.testing.assert_allclose(convolve(jnp.asarray(kernel), jnp.asarray(xs)), expected, atol=1e-5)
    assert fast_length(8191) == 8192


def test_the_kernel_of_a_diagonal_system_is_its_powers():
    rng = np.random.default_rng(0)
    a = 0.9 * np.exp(1j * rng.uniform(0, 6, (2, 4)))
    a[:, 0] = 0  # as a polarised layer has
    weight = rng.standard_normal((2, 4)) + 1j * rng.standard_normal((2, 4))
    for length in (1, 7, 30):
        expected = [2 * np.sum(weight * a**l, axis=1).real for l in range(length)]
        np.testing.assert_allclose(
            diagonal.kernel(jnp.asarray(a), jnp.asarray(weight), length), expected, atol=1e-5
        )


LAYERS = {
    "S4": lambda: S4(3, 10, key=KEY),
    "S4, rank 2": lambda: S4(3, 10, key=KEY, init=hippo.legt),
    "S4D": lambda: S4D(3, 10, key=KEY),
    "S4D, polarised": lambda: S4D(3, 10, key=KEY, hold=diagonal.polarised),
    "DSS-exp": lambda: DSS(3, 10, key=KEY),
    "DSS-softmax": lambda: DSS(3, 10, key=KEY, length=7),
    "LSSL": lambda: LSSL(3, 5, key=KEY),
}


@pytest.mark.parametrize("name", LAYERS)
def test_recurrence_and_convolution_agree(name):
    layer = LAYERS[name]()
    for steps in (1, 37):
        xs = jax.random.normal(KEY, (steps, 3))
        _, ys = eqx.filter_jit(layer.unroll)(layer.init(), xs, jnp.arange(steps) == 0)
        np.testing.assert_allclose(eqx.filter_jit(layer.convolve)(xs), ys, atol=3e-5)


def _both_gradients(layer, options=None):
    """Leaf by leaf, that of the recurrence and that of the convolution."""
    xs = jax.random.normal(KEY, (12, 3))
    recurrence = lambda m: jnp.sum(m.unroll(m.init(), xs, jnp.arange(12) == 0)[1] ** 2)  # noqa: E731
    convolution = lambda m: jnp.sum(m.convolve(xs) ** 2)  # noqa: E731
    gradients = [
        jax.jit(jax.grad(loss), compiler_options=options)(layer) for loss in (recurrence, convolution)
    ]
    return zip(*map(jax.tree.leaves, gradients), strict=True)


def test_gradients_of_recurrence_and_convolution_agree():
    # Compiled as users have it: the tests' own flags treble the rounding of the step sizes' gradient.
    for one, other in _both_gradients(LAYERS["S4"](), {"xla_cpu_use_fusion_emitters": True}):
        np.testing.assert_allclose(one, other, atol=1e-4 * max(1, float(jnp.abs(one).max())))


def test_in_float64_gradients_of_recurrence_and_convolution_are_the_same(float64):
    layer = jax.tree.map(lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, jnp.float64)), LAYERS["S4"]())
    for one, other in _both_gradients(layer):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["S4, rank 2", "DSS-exp"])
def test_the_variants_of_a_layer_keep_to_its_recurrence_too(name):
    layer = LAYERS[name]()
    xs = jax.random.normal(KEY, (len(STARTS), 3))
    _, ys = eqx.filter_jit(layer.unroll)(layer.init(), xs, jnp.asarray(STARTS))
    np.testing.assert_allclose(ys, layer.reference(xs, STARTS), atol=2e-5)


def test_dss_softmax_is_a_row_softmax_over_positions():
    layer = LAYERS["DSS-softmax"]()
    eigenvalues = -np.exp(np.float64(layer.log_decay)) + 1j * np.float64(layer.frequency)
    for h in range(3):
        rows = np.exp(np.outer(eigenvalues, np.arange(7)) * np.exp(np.float64(layer.log_step[h])))
        w = np.float64(layer.w[0, h]) + 1j * np.float64(layer.w[1, h])
        expected = ((w / eigenvalues) @ (rows / rows.sum(1, keepdims=True))).real
        np.testing.assert_allclose(eqx.filter_jit(layer.kernel)(7)[:, h], expected, rtol=1e-3, atol=1e-4)


def test_a_slow_mode_is_held_with_all_digits_and_so_is_its_derivative():
    rates = np.array([1e-6, 1e-4, 1e-2, 1.0, 20.0, 29.0, 31.0, 1e3])  # 30 is where the series ends
    for turn in (0.0, 5.0):
        z = 1e-3 * (-rates + 1j * turn)
        gain = lambda rate: diagonal.zoh(jax.lax.complex(-rate, turn), jnp.float32(1e-3))[1]  # noqa: B023, E731
        got, slope = jax.jvp(jax.vmap(gain), (jnp.float32(rates),), (jnp.ones(8),))
        exact = 1e-3 * np.where(abs(z) < 1e-3, 1 + z / 2 + z**2 / 6, np.expm1(z) / z)
        np.testing.assert_allclose(got, exact, rtol=1e-5)
        # d/dz (e^z - 1) / z = ((z - 1) e^z + 1) / z^2
        by_z = np.where(abs(z) < 1e-3, 0.5 + z / 3 + z**2 / 8, ((z - 1) * np.exp(z) + 1) / z**2)
        np.testing.assert_allclose(slope, -1e-6 * by_z, rtol=1e-3)


def test_timescales_that_are_no_range_are_refused():
    with pytest.raises(ValueError, match=r"begin between 0\.0 and 0\.1"):
        S4D(2, 4, key=KEY, steps=(0.0, 0.1))


def test_s5_with_ptd_keeps_to_the_recurrence():
    class Perturbed(S5):
        @classmethod
        def example(cls, key, steps):
            return cls(3, 8, key=key, init=diagonal.ptd), jax.random.normal(key, (steps, 3))

    unroll_is_the_reference(Perturbed)


@pytest.mark.parametrize("init", [hippo.legs, hippo.legt])
def test_lssl_begins_with_the_matrix_of_its_init_and_discretises_it(init, float64):
    layer, own = LSSL(2, 20, key=KEY, init=init, alpha=0.3), init(20)
    layer = eqx.tree_at(lambda m: m.log_step, layer, np.log(np.array([1e-3, 0.1])))
    layer = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), layer)
    for transition, into, step in zip(*layer.system(), (1e-3, 0.1), strict=True):
        ahead = np.linalg.inv(np.eye(20) - 0.3 * step * own.a)
        np.testing.assert_allclose(transition, ahead @ (np.eye(20) + 0.7 * step * own.a), atol=1e-5)
        np.testing.assert_allclose(into, ahead @ (step * own.b), atol=1e-5)


def test_lssl_refuses_a_matrix_without_its_structure():
    with pytest.raises(ValueError, match="as LegS and LegT are"):
        LSSL(2, 4, key=KEY, init=hippo.fout)


def test_half_the_timescale_makes_lssl_see_a_signal_of_twice_the_samples_as_the_same():
    layer = eqx.tree_at(lambda m: m.d, LSSL(2, 6, key=KEY), jnp.zeros(2))
    finer = eqx.tree_at(lambda m: m.log_step, layer, layer.log_step - np.log(2))

    def sampled(rate):
        t = np.arange(5 * rate) / rate
        return jnp.asarray(np.stack([np.sin(t), np.sin(t) ** 2], axis=1), jnp.float32)

    once, twice = eqx.filter_jit(layer.convolve)(sampled(40)), sampled(80)
    scale = float(jnp.abs(once).max())
    assert float(jnp.abs(once - finer.convolve(twice)[::2]).max()) < 0.05 * scale
    assert float(jnp.abs(once - eqx.filter_jit(layer.convolve)(twice)[::2]).max()) > 0.2 * scale

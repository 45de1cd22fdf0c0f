"""What the selective and state-tracking layers promise beyond what every memory does."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

from linmem.core.checkpointed import KEPT, checkpointed_scan, scan_states
from linmem.core.registry import UnknownName
from linmem.core.selective_scan import over_states, selective_scan
from linmem.memories import (
    GLA,
    MEMORIES,
    MLSTM,
    RWKV7,
    S7,
    SDSSM,
    BlockSLiCE,
    ComplexSLiCE,
    DeltaNet,
    DeltaProduct,
    FixedPointRNN,
    GatedDeltaNet,
    HadamardSLiCE,
    Mamba,
    Mamba2,
    SparseSLiCE,
)
from linmem.memories.longhorn import implicit_update
from linmem.memories.short_convolution import ShortConvolution
from linmem.memories.slice import walsh_hadamard
from linmem.worlds import RingWorld

KEY = jax.random.key(0)


def test_a_convolution_of_bfloat16_has_gradients_of_bfloat16():
    layer, xs = ShortConvolution(3, 2, silu=False, key=jax.random.key(0)), jnp.ones((5, 3), jnp.bfloat16)
    starts = jnp.zeros(5, bool)
    slope = jax.grad(lambda x: layer.unroll(layer.init(), x * xs, starts)[1].astype(float).sum())(xs[0])
    assert slope.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        slope.astype(float), 5 * layer.weight[0] + 4 * layer.weight[1], rtol=0.03, atol=0.02
    )


def test_checkpointed_scan_is_scan_with_any_chunk_and_any_remainder():
    def step(carry, x):
        carry = jnp.sin(carry + x)
        return carry, carry * x

    xs = jax.random.normal(KEY, (11, 3))

    def total(run, xs):
        carry, ys = run(step, jnp.ones(3), xs)
        return jnp.sum(carry) + jnp.sum(ys**2)

    expected = jax.jit(jax.value_and_grad(lambda xs: total(jax.lax.scan, xs)))(xs)
    for chunk in (None, 1, 4, 11, 20):

        def run(step, carry, xs, chunk=chunk):
            return checkpointed_scan(step, carry, xs, chunk)

        got = jax.jit(jax.value_and_grad(lambda xs, run=run: total(run, xs)))(xs)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, expected)


def test_checkpointed_scan_keeps_few_of_its_states():
    """A state of 1000 numbers over 400 steps: between the passes 20 of them are kept, not 400."""
    steps, size = 400, 1000

    def loss(xs):
        def step(state, x):
            state = jnp.tanh(state + x)
            return state, state[0]

        return jnp.sum(checkpointed_scan(step, jnp.zeros(size), xs)[1])

    _, pull = jax.eval_shape(lambda xs: jax.vjp(loss, xs), jnp.ones(steps))
    kept = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(pull))
    assert 20 * size <= kept <= 25 * size


@pytest.mark.parametrize("named", [False, True])
def test_scan_states_keeps_its_states_and_of_a_step_what_is_named(named):
    """A state of 20 numbers over 50 steps, each of which makes matrices of 20 x 20."""
    steps, size = 50, 20

    def loss(xs):
        def advance(state, x):
            matrix = jnp.sin(jnp.outer(state, x))
            return jnp.tanh((checkpoint_name(matrix, KEPT) if named else matrix) @ state)

        last, states = scan_states(advance, jnp.ones(size), xs)
        return jnp.sum(last) + jnp.sum(states)

    _, pull = jax.eval_shape(lambda xs: jax.vjp(loss, xs), jnp.ones((steps, size)))
    kept = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(pull))
    matrices = steps * size**2 if named else 0
    assert steps * size <= kept - matrices <= 3 * steps * size


@pytest.mark.parametrize("of_keys", [False, True])
def test_selective_scan_is_its_recurrence_with_derivatives(of_keys, float64):
    """With a decay that closes over weights, as Mamba's, and one made of the keys, as Longhorn's."""
    T, n, c = 11, 3, 5
    keys = jax.random.split(KEY, 8)
    weights, initial = jax.random.normal(keys[0], (n, c)), jax.random.normal(keys[1], (n, c))
    timed = tuple(jax.random.normal(k, (T, s)) for k, s in zip(keys[2:6], (c, n, n, c), strict=True))
    starts = jnp.isin(jnp.arange(T), jnp.array([4, 8, 9]))
    weighted = jax.random.normal(keys[6], (T, c)), jax.random.normal(keys[7], (n, c))

    def decay_of(weights):
        if of_keys:
            return lambda delta, key: weights - (key**2)[:, None] @ delta[None]
        return lambda delta, key: jnp.exp(over_states(delta, n) * weights)

    def literal(weights, initial, timed):
        h, ys = initial, []
        for delta, key, query, value, start in zip(*timed, starts, strict=True):
            a = weights - jnp.outer(key**2, delta) if of_keys else jnp.exp(delta * weights)
            h = a * jnp.where(start, 0.0, h) + jnp.outer(key, value)
            ys.append(query @ h)
        return h, jnp.stack(ys)

    def total(run, arguments):
        h, ys = run(*arguments)
        return jnp.sum(weighted[0] * ys) + jnp.sum(weighted[1] * h)

    arguments = (weights, initial, timed)
    expected = jax.jit(jax.value_and_grad(lambda a: total(literal, a)))(arguments)
    for chunk in (None, 4):

        def run(weights, initial, timed, chunk=chunk):
            return selective_scan(decay_of(weights), initial, *timed, starts, chunk)

        got = jax.jit(jax.value_and_grad(lambda a, run=run: total(run, a)))(arguments)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), got, expected)


def test_selective_scan_lets_nothing_through_a_start():
    """Neither values nor derivatives: what stands before the start is not a number."""
    ones = jnp.ones((6, 2)).at[:3].set(jnp.nan)
    starts = jnp.arange(6) == 3

    def late(x):
        _, ys = selective_scan(lambda delta, key: jnp.outer(key, delta), x[:2], x, x, x, x, starts, 2)
        return jnp.sum(ys[3:])

    value, gradient = jax.jit(jax.value_and_grad(late))(ones)
    assert jnp.isfinite(value) and jnp.isfinite(gradient[3:]).all()


def test_rwkv7_learns_with_seeds_side_by_side():
    """Weights and sequences of several seeds in one program: XLA's CPU compiler crashed here."""
    memories = eqx.filter_vmap(lambda key: RWKV7(16, key=key))(jax.random.split(KEY, 2))
    xs, starts = jax.random.normal(KEY, (2, 8, 16, 16)), jnp.arange(16) == 0

    def loss(memory, xs):
        return jnp.sum(jax.vmap(lambda x: memory.unroll(memory.init(), x, starts)[1])(xs) ** 2)

    together = eqx.filter_jit(eqx.filter_vmap(eqx.filter_grad(loss)))(memories, xs)
    alone = eqx.filter_jit(eqx.filter_grad(loss))
    for seed in range(2):
        memory = jax.tree.map(lambda leaf, seed=seed: leaf[seed] if eqx.is_array(leaf) else leaf, memories)
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone(memory, xs[seed])), strict=True):
            np.testing.assert_allclose(a[seed], b, rtol=0, atol=1e-4 * max(1.0, float(jnp.abs(b).max())))


def test_negative_eigenvalues_reach_minus_one_and_positive_ones_do_not():
    rate, key = jnp.linspace(-9.0, 9.0, 8), jnp.zeros(2)
    for negative, lowest in ((False, 0.0), (True, -1.0)):
        memory = Mamba(4, 2, 8, negative_eigenvalues=negative, key=KEY)
        decays = memory.decay()(memory.write_strength(rate, key), key)
        assert lowest <= decays.min() < lowest + 1e-3
        assert 1 - 1e-3 < decays.max() <= 1


SIGNED = {
    "mamba": Mamba,
    "mamba2": Mamba2,
    "gla": GLA,
    "mlstm": MLSTM,
    "deltanet": DeltaNet,
    "gated_deltanet": GatedDeltaNet,
    "deltaproduct": DeltaProduct,
}


@pytest.mark.parametrize("name", SIGNED)
def test_a_name_sets_the_range_of_eigenvalues_and_without_it_holds_the_layers_own(name):
    def made(option):
        return MEMORIES[name + option].make(RingWorld(), 8, KEY).memory.memory

    _, layer_key, _ = jax.random.split(KEY, 3)  # of encoder, layer and block
    by_hand = lambda **options: SIGNED[name](8, key=layer_key, **options)  # noqa: E731
    assert eqx.tree_equal(made(""), by_hand())
    for negative in (True, False):
        layer = made(f"@negative_eigenvalues={negative}")
        assert layer.negative_eigenvalues == negative
        assert eqx.tree_equal(layer, by_hand(negative_eigenvalues=negative))


@pytest.mark.parametrize("name", sorted(set(MEMORIES.names()) - set(SIGNED)))
def test_a_memory_whose_eigenvalues_have_one_range_refuses_another(name):
    with pytest.raises(UnknownName, match=f"memory '{name}' has no option 'negative_eigenvalues'; .*known: "):
        MEMORIES[f"{name}@negative_eigenvalues=True"]


def test_aligned_mamba_moves_a_token_only_along_itself():
    """The first refinement: C_t^T B_t > 0, so that what a token adds to its own output has its sign."""
    memory = Mamba(4, 3, 6, aligned=True, key=KEY)
    selected = jax.random.normal(KEY, (100, 3))
    key, query = memory.keys_and_queries(selected)
    assert (jnp.sum(key * query, axis=1) >= 0.7 * jnp.sum(selected**2, axis=1)).all()
    starts = jnp.zeros(5, bool).at[0].set(True)
    _, ys = eqx.filter_jit(memory.unroll)(memory.init(), jax.random.normal(KEY, (5, 4)), starts)
    assert ys.shape == (5, 4) and jnp.isfinite(ys).all()


def test_longhorns_implicit_update_minimises_its_objective(float64):
    s, k, x, beta = (
        jax.random.normal(key, shape, jnp.float64)
        for key, shape in zip(jax.random.split(KEY, 4), ((3, 5), (5,), (3,), (3,)), strict=True)
    )
    beta = jnp.exp(beta)
    best = np.asarray(implicit_update(s, beta, k, x))
    for row, old, value, weight in zip(best, s, x, beta, strict=True):
        # the minimiser of |S - s|^2 + beta (S k - x)^2 as a least-squares problem
        a = np.vstack([np.eye(5), np.sqrt(weight) * k])
        b = np.concatenate([old, [np.sqrt(weight) * value]])
        np.testing.assert_allclose(row, np.linalg.lstsq(a, b, rcond=None)[0], atol=1e-10)


def test_s7_keeps_its_eigenvalues_inside_the_unit_circle_and_its_gradients_bounded():
    steps = 4096
    memory, starts = S7(3, 8, key=KEY), jnp.arange(steps) == 0
    xs = 5 * jax.random.normal(KEY, (steps, 3))
    assert (jnp.abs(jax.vmap(memory.encode)(xs, starts).transition) < 1).all()

    @jax.jit
    @jax.grad
    def gradient(base, steps):
        memory_ = eqx.tree_at(lambda m: m.base, memory, base)
        _, ys = memory_.unroll(memory_.init(), xs / 5, starts)
        return jnp.sum(jnp.where(jnp.arange(len(ys)) == steps - 1, ys[:, 0], 0.0))

    late, early = gradient(memory.base, steps), gradient(memory.base, 64)
    assert jnp.isfinite(late).all()
    assert jnp.abs(late).max() < 100 * jnp.abs(early).max()


def test_the_fixed_point_is_a_dense_recurrence(float64):
    """Without feedback of the state to the mixer, many iterations solve the docstring's dense recurrence."""
    memory = FixedPointRNN(3, 4, iterations=40, mixers=2, key=KEY)
    memory = jax.tree.map(lambda x: x.astype(jnp.float64), memory)
    memory = eqx.tree_at(lambda m: (m.u_state, m.c_state), memory, replace_fn=jnp.zeros_like)
    xs, state = jax.random.normal(KEY, (6, 3), jnp.float64), memory.init().astype(float)
    for x in xs:
        state, _ = memory.step(state, x, jnp.asarray(False))

    h, identity = np.zeros(4), np.eye(4)
    for x in np.asarray(xs):
        rates, gated, directions, strengths, _ = map(np.asarray, memory._enter(jnp.asarray(x)))
        mixer = identity
        for u, alpha in zip(directions.reshape(2, 4), strengths, strict=True):
            mixer = (identity - alpha * np.outer(u, u) / (u @ u + 1e-6)) @ mixer
        left = identity - (1 - rates)[:, None] * (identity - mixer)
        h = np.linalg.solve(left, rates * h + (1 - rates) * (mixer @ gated))
    np.testing.assert_allclose(state[-1], h, atol=1e-8)


def test_dictionary_transitions_have_columns_of_norm_one():
    memory = SDSSM(3, 5, 4, exponent=1.3, key=KEY)
    weights, entering = memory._enter(jnp.array([1.0, -2.0, 0.5]))
    columns = jax.vmap(lambda e: memory._advance(e, weights, 0 * entering, jnp.asarray(False)))(jnp.eye(5))
    np.testing.assert_allclose(jnp.sum(jnp.abs(columns) ** 1.3, axis=1), 1, rtol=1e-5)


def test_the_walsh_hadamard_transform_is_symmetric_and_its_own_inverse():
    matrix = jax.vmap(walsh_hadamard)(jnp.eye(8))
    np.testing.assert_allclose(matrix, matrix.T)
    np.testing.assert_allclose(matrix @ matrix, jnp.eye(8), atol=1e-6)


@pytest.mark.parametrize(
    "make, wrong",
    [
        (lambda: BlockSLiCE(3, 10, 4, key=KEY), "multiple of 4"),
        (lambda: ComplexSLiCE(3, 5, key=KEY), "multiple of 2"),
        (lambda: HadamardSLiCE(3, 6, key=KEY), "power of 2"),
        (lambda: SparseSLiCE(3, 6, 7, key=KEY), "1 to 6"),
        (lambda: SDSSM(3, 6, exponent=0.5, key=KEY), "at least 1"),
        (lambda: FixedPointRNN(3, 6, 0, key=KEY), "iterations is 0"),
    ],
)
def test_impossible_sizes_are_refused_with_what_is_possible(make, wrong):
    with pytest.raises(ValueError, match=wrong):
        make()

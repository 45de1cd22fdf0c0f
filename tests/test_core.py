"""The recurrence: algebra laws, three ways to scan against a literal loop, the derivative, starts, memory."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linmem.core.algebra import (
    BlockDiagonal,
    Dense,
    Diagonal,
    Element,
    LogSumExp,
    MaxPlus,
    Ordinary,
    Permutation,
    Permuted,
    Switch,
    Switched,
)
from linmem.core.matrices import inverse, orthogonal, tridiagonal_product, tridiagonal_solve, unitary
from linmem.core.registry import Registry, UnknownName
from linmem.core.scan import scan

T, B, N, K = 23, 3, 4, 2
METHODS = ("sequential", "associative", "chunked")
READINGS = (Ordinary(), LogSumExp(), MaxPlus())
KINDS = ("diagonal", "permutation", "dense", "blocks", "switched")


def example(kind, reading, rng):
    """An algebra, elements and an initial state with sizes that all differ."""
    f = lambda *shape: jnp.asarray(rng.normal(size=shape))  # noqa: E731
    state = (K, N) if kind == "blocks" else (N,)
    algebra, transition = {
        "diagonal": lambda: (Diagonal(reading), f(T, B, N)),
        "permutation": lambda: (
            Permutation(reading),
            Permuted(jnp.asarray(rng.permuted(np.tile(np.arange(N), (T, B, 1)), axis=-1)), f(T, B, N)),
        ),
        "dense": lambda: (Dense(reading), 0.5 * f(T, B, N, N)),
        "blocks": lambda: (BlockDiagonal(reading), 0.5 * f(T, B, K, N, N)),
        "switched": lambda: (
            Switched(of=Dense(reading)),
            Switch(0.5 * f(1, 1, 5, N, N), jnp.asarray(rng.integers(0, 5, (T, B))), 0.5 * f(T, B, N)),
        ),
    }[kind]()
    return algebra, Element(transition, f(T, B, *state)), f(B, *state)


def matrix(kind, transition, t, b):
    """A_t of one sequence as a float64 matrix (per block), in any reading."""
    if kind == "switched":
        return transition.table[0, 0, transition.index[t, b]], transition.scale[t, b]
    return jax.tree.map(lambda x: x[t, b], transition)


@functools.cache
def literal_case(kind, reading):
    """(algebra, elements, initial, starts) and the states that the literal recurrence gives of them."""
    assert jax.config.jax_enable_x64, "made once for all: ask for float64"
    rng = np.random.default_rng(0)
    algebra, elements, initial = example(kind, reading, rng)
    starts = random_starts(rng)
    return (algebra, elements, initial, starts), literal(kind, reading, elements, initial, starts)


def literal(kind, reading, elements, initial, starts):
    """h_t = A_t ⊗ h_{t-1} ⊕ b_t, entry by entry in NumPy."""
    plus, times, zero = {
        Ordinary: (np.sum, lambda a, b: a * b, 0.0),
        LogSumExp: (np.logaddexp.reduce, lambda a, b: a + b, -np.inf),
        MaxPlus: (np.max, lambda a, b: a + b, -np.inf),
    }[type(reading)]
    out = np.zeros((T, *initial.shape))
    for b in range(B):
        h = np.asarray(initial[b])
        for t in range(T):
            h = np.full_like(h, zero) if starts[t, b] else h
            A, inp = matrix(kind, elements.transition, t, b), np.asarray(elements.input[t, b])
            match kind:
                case "diagonal":
                    new = [plus([times(A[i], h[i]), inp[i]]) for i in range(N)]
                case "permutation":
                    new = [plus([times(A.scale[i], h[A.source[i]]), inp[i]]) for i in range(N)]
                case "dense":
                    new = [plus([*(times(A[i, j], h[j]) for j in range(N)), inp[i]]) for i in range(N)]
                case "blocks":
                    new = [
                        [plus([*(times(A[k, i, j], h[k, j]) for j in range(N)), inp[k, i]]) for i in range(N)]
                        for k in range(K)
                    ]
                case "switched":
                    A, scale = A
                    new = [
                        plus([*(times(scale[i], times(A[i, j], h[j])) for j in range(N)), inp[i]])
                        for i in range(N)
                    ]
            h = np.array(new, float)
            out[t, b] = h
    return out


def random_starts(rng):
    starts = rng.random((T, B)) < 0.15
    starts[7] = True
    return starts


def stepping(algebra, elements, initial, starts):
    """The same recurrence as a loop that JAX differentiates by itself."""

    def step(h, t):
        element = jax.tree.map(lambda x: x[t] if x.shape[0] == T else x[0], elements)
        start = starts[t].reshape((B,) + (1,) * (h.ndim - 1))
        h = algebra.act(element, jnp.where(start, algebra.reading.zero, h))
        return h, h

    return jax.lax.scan(step, initial, jnp.arange(T))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("reading", READINGS, ids=lambda r: type(r).__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_every_way_to_scan_gives_the_literal_recurrence_in_float64(float64, kind, reading, method):
    (algebra, elements, initial, starts), expected = literal_case(kind, reading)
    last, states = jax.jit(functools.partial(scan, algebra, method=method))(elements, initial, starts)
    np.testing.assert_allclose(states, expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(last, states[-1])


def differentiable(kind, reading):
    """(algebra, elements, their floats, initial, loss): loss(run, floats, initial) scans with ``run``."""
    rng = np.random.default_rng(1)
    algebra, elements, initial = example(kind, reading, rng)
    starts = jnp.asarray(random_starts(rng))
    weights = jnp.asarray(rng.normal(size=elements.input.shape))
    floats = [leaf for leaf in jax.tree.leaves(elements) if jnp.issubdtype(leaf.dtype, jnp.floating)]

    def fill(floats):
        given = iter(floats)
        return jax.tree.map(lambda x: next(given) if jnp.issubdtype(x.dtype, jnp.floating) else x, elements)

    def loss(run, floats, initial):
        last, states = run(fill(floats), initial, starts)
        return jnp.sum(weights * jnp.tanh(states)) + jnp.sum(jnp.sin(last))

    return algebra, elements, floats, initial, loss


@functools.cache
def derivative_of_the_loop(kind, reading):
    assert jax.config.jax_enable_x64, "made once for all: ask for float64"
    algebra, _, floats, initial, loss = differentiable(kind, reading)
    run = functools.partial(stepping, algebra)
    return jax.jit(jax.grad(functools.partial(loss, run), (0, 1)))(floats, initial)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("reading", READINGS, ids=lambda r: type(r).__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_the_derivative_is_that_of_the_loop(float64, kind, reading, method):
    algebra, elements, floats, initial, loss = differentiable(kind, reading)
    wide = functools.partial(scan, algebra, method=method)
    axes = jax.tree.map(lambda x: 1 if x.shape[1] == B else None, elements)
    inner = jax.vmap(wide, in_axes=(axes, 0, 1), out_axes=(0, 1))

    def vmapped(elements, initial, starts):
        alone = jax.tree.map(lambda x: x if x.shape[1] == B else x[:, 0], elements)
        return inner(alone, initial, starts)

    def gradients(floats, initial):  # both in one program, which takes less compiling than two
        return {
            name: jax.grad(functools.partial(loss, run), (0, 1))(floats, initial)
            for name, run in (("wide", wide), ("vmapped", vmapped))
        }

    expected = derivative_of_the_loop(kind, reading)
    for name, got in jax.jit(gradients)(floats, initial).items():
        close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9, err_msg=name)
        jax.tree.map(close, got, expected)


@pytest.mark.parametrize("kind", ["diagonal", "permutation", "dense", "blocks"])
@pytest.mark.parametrize("reading", READINGS, ids=lambda r: type(r).__name__)
def test_combine_is_associative_and_acts_as_one_after_the_other(float64, kind, reading):
    algebra, elements, h = example(kind, reading, np.random.default_rng(2))
    e, f, g = (jax.tree.map(lambda x, t=t: x[t], elements) for t in range(3))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)
    jax.tree.map(
        close,
        algebra.combine(algebra.combine(e, f), g),
        algebra.combine(e, algebra.combine(f, g)),
    )
    close(algebra.act(algebra.combine(e, f), h), algebra.act(f, algebra.act(e, h)))


def test_complex_states_scan_and_differentiate_as_the_loop_does(float64):
    rng = np.random.default_rng(3)
    f = lambda *s: jnp.asarray(rng.normal(size=s) + 1j * rng.normal(size=s))  # noqa: E731
    a, b, h, w = f(T, B, N) / 2, f(T, B, N), f(B, N), f(T, B, N)
    starts = jnp.asarray(random_starts(rng))

    def loss(run, a, b, h):
        return jnp.sum(jnp.real(w * run(Element(a, b), h, starts)[1] ** 2))

    def gradients(run):
        return jax.jit(jax.grad(functools.partial(loss, run), (0, 1, 2)))(a, b, h)

    expected = gradients(functools.partial(stepping, Diagonal()))
    for method in METHODS:
        got = gradients(functools.partial(scan, Diagonal(), method=method))
        jax.tree.map(lambda g, e: np.testing.assert_allclose(g, e, rtol=1e-9, atol=1e-9), got, expected)


@pytest.mark.parametrize("method", METHODS)
def test_poison_before_a_start_changes_no_bit_after_it(method):
    rng = np.random.default_rng(4)
    algebra, elements, initial = example("diagonal", Ordinary(), rng)
    elements, initial = jax.tree.map(lambda x: x.astype(jnp.float32), (elements, initial))
    starts = jnp.zeros((T, B), bool).at[9].set(True)
    past = np.arange(T)[:, None, None] < 9
    poisoned = jax.tree.map(lambda x: jnp.where(past, jnp.nan, x), elements)

    @jax.jit
    def after(elements, initial):
        def loss(later):
            whole = jax.tree.map(lambda x, y: jnp.concatenate([x[:9], y]), elements, later)
            states = scan(algebra, whole, initial, starts, method)[1][9:]
            return jnp.sum(states**2), states

        return jax.value_and_grad(loss, has_aux=True)(jax.tree.map(lambda x: x[9:], elements))

    clean, dirty = after(elements, initial), after(poisoned, jnp.full_like(initial, jnp.nan))
    jax.tree.map(np.testing.assert_array_equal, dirty, clean)


def test_ordinary_and_log_readings_coincide_for_permutations(float64):
    rng = np.random.default_rng(5)
    algebra, elements, initial = example("permutation", Ordinary(), rng)
    logits = elements.input
    linear = Element(elements.transition._replace(scale=jnp.ones_like(logits)), logits)
    belief = Element(elements.transition._replace(scale=logits), jnp.full_like(logits, -jnp.inf))
    np.testing.assert_allclose(
        scan(algebra, linear, initial)[1], scan(Permutation(LogSumExp()), belief, initial)[1], rtol=1e-12
    )


def test_a_projective_state_keeps_its_largest_logit_at_zero_and_its_differences():
    rng = np.random.default_rng(6)
    log_T = jnp.log(jnp.asarray(rng.dirichlet(np.ones(N), N).T, jnp.float32))
    long = 5000
    scale = jnp.asarray(rng.normal(-60, 5, (long, N)), jnp.float32)  # evidence near 1e-26 at each step
    transition = Switch(log_T[None, None], jnp.zeros((1,), jnp.int32), scale)
    elements = Element(transition, jnp.full((long, N), -jnp.inf))
    _, states = scan(Switched(of=Dense(LogSumExp(projective=True))), elements, jnp.zeros(N))
    np.testing.assert_array_equal(jnp.max(states, -1), 0.0)
    l = np.zeros(N)
    for s in np.asarray(scale, np.float64)[-50:]:  # a belief forgets: 50 steps decide it
        l = s + np.logaddexp.reduce(np.asarray(log_T, np.float64) + l, axis=1)
    np.testing.assert_allclose(states[-1], l - l.max(), atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("reading", [Ordinary(shifted=True), LogSumExp(projective=True)], ids=repr)
def test_past_an_impossible_step_states_are_finite_and_exact_step_by_step_or_from_a_start(
    float64, reading, method
):
    rng, impossible, again = np.random.default_rng(8), 9, 15
    source = rng.permuted(np.tile(np.arange(N), (T, 1)), axis=-1)
    evidence, starts = rng.normal(size=(T, N)), np.isin(np.arange(T), [0, again])
    evidence[4, 1], evidence[impossible] = -np.inf, -np.inf

    def states_of(run, evidence):
        if isinstance(reading, Ordinary):
            elements = Element(Permuted(source, jnp.ones((T, N))), evidence)
        else:
            elements = Element(Permuted(source, evidence), jnp.where(starts[:, None], evidence, -jnp.inf))
        return run(elements, jnp.zeros(N), jnp.asarray(starts))[1]

    def stepping(elements, initial, starts):
        """Differentiated by JAX itself."""

        def step(h, timed):
            element, start = timed
            h = Permutation(reading).act(element, jnp.where(start, reading.zero, h))
            return h, h

        return jax.lax.scan(step, initial, (elements, starts))

    h, expected = np.zeros(N), []
    for t in range(T):
        h = evidence[t] if starts[t] else h[source[t]] + evidence[t]
        h = np.zeros(N) if t == impossible else h - h.max()
        expected.append(h)
    run = functools.partial(scan, Permutation(reading), method=method)
    sure = slice(None) if method == "sequential" else np.r_[: impossible + 1, again:T]
    states = np.asarray(jax.jit(functools.partial(states_of, run))(evidence))
    np.testing.assert_allclose(states[sure], np.stack(expected)[sure], atol=1e-12)
    assert np.isfinite(states[impossible:]).all()

    def slopes(run):
        weights = np.cos(np.arange(T * N)).reshape(T, N)
        loss = lambda e: jnp.sum(weights * jnp.tanh(states_of(run, e)))  # noqa: E731
        return jax.jit(jax.grad(loss))(jnp.asarray(evidence))

    got = slopes(run)
    assert np.isfinite(got).all() and not got[impossible].any()
    np.testing.assert_allclose(got[sure], slopes(stepping)[sure], atol=1e-12)


def test_bfloat16_inputs_accumulate_in_float32():
    ones = jnp.ones((3000, 1), jnp.bfloat16)
    last, states = scan(Diagonal(), Element(ones, ones), jnp.zeros(1))
    assert states.dtype == jnp.bfloat16 and last.dtype == jnp.float32
    assert float(last[0]) == 3000.0  # a bfloat16 sum of ones stops at 256


@pytest.mark.parametrize("method", METHODS)
def test_real_inputs_of_a_complex_recurrence_give_complex_states_and_right_gradients(method):
    inputs = jnp.ones((4, 1))
    transition = jnp.full((4, 1), 0.5 + 0.5j)
    last, states = scan(Diagonal(), Element(transition, inputs), jnp.zeros(1, complex), method=method)
    np.testing.assert_allclose(states[:, 0], [1, 1.5 + 0.5j, 1.5 + 1j, 1.25 + 1.25j])
    assert last == states[-1]

    def end(angle, inputs):
        elements = Element(jnp.exp(1j * angle) * jnp.ones((4, 1)), inputs)
        return jnp.real(scan(Diagonal(), elements, jnp.zeros(1, complex), method=method)[0][0])

    by_angle, by_input = jax.grad(end, (0, 1))(0.7, inputs)
    assert by_angle == pytest.approx(-sum(k * np.sin(0.7 * k) for k in range(4)), rel=1e-5)
    np.testing.assert_allclose(by_input[:, 0], np.cos(0.7 * np.arange(4)[::-1]), rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_of_bfloat16_inputs_have_their_type(method):
    half = lambda x: jnp.full((5, 3), x, jnp.bfloat16)  # noqa: E731
    by_input = jax.grad(
        lambda w: scan(Diagonal(), Element(half(0.5), w * half(1)), jnp.zeros(3), method=method)[0].sum()
    )(jnp.ones(3, jnp.bfloat16))
    assert by_input.dtype == jnp.bfloat16
    np.testing.assert_allclose(by_input.astype(float), 1.9375)


def test_a_constant_transition_is_stored_once_and_its_gradient_is_summed():
    a, b = jnp.full((1, B, N), 0.5), jnp.ones((T, B, N))
    loss = lambda a: jnp.sum(scan(Diagonal(), Element(a, b), jnp.zeros((B, N)))[1])  # noqa: E731
    spread = lambda a: jnp.sum(  # noqa: E731
        scan(Diagonal(), Element(jnp.broadcast_to(a, b.shape), b), jnp.zeros((B, N)))[1]
    )
    np.testing.assert_allclose(jax.grad(loss)(a), jax.grad(spread)(a), rtol=1e-6)


def test_forward_and_backward_keep_no_copies_beyond_inputs_and_outputs():
    shape = (2048, 64)
    array = jax.ShapeDtypeStruct(shape, jnp.float32)

    def both(a, b, g):
        states, pull = jax.vjp(lambda a, b: scan(Diagonal(), Element(a, b), jnp.zeros(shape[1:]))[1], a, b)
        return states, pull(g)

    temporary = jax.jit(both).lower(array, array, array).compile().memory_analysis().temp_size_in_bytes
    assert (
        temporary <= 3 * 4 * shape[0] * shape[1]
    )  # g_t and h_{t-1}; a tree of composed elements keeps 11 levels


@pytest.mark.parametrize("algebra", [Diagonal(), Dense(), Dense(LogSumExp(projective=True))], ids=repr)
def test_no_step_copies_the_whole_sequence(algebra):
    """It would cost T^2."""
    steps, size = 997, 3
    inputs = jax.ShapeDtypeStruct((steps, size), jnp.float32)
    transition = jnp.zeros((1, size) if isinstance(algebra, Diagonal) else (1, size, size))
    run = lambda b: scan(algebra, Element(transition, b), jnp.zeros(size))  # noqa: E731
    for program in (run, jax.grad(lambda b: jnp.sum(jnp.cos(run(b)[1])))):
        text = jax.jit(program).lower(inputs).compile().as_text()
        body = re.search(r" while\(.*body=%?([\w.-]+)", text)
        assert body
        body = text[text.index(f"\n%{body[1]} ") :]
        lines = body[: body.index("\n}")].splitlines()
        assert len(lines) > 3 and not [line for line in lines if f"f32[{steps}" in line and " copy(" in line]


def test_wrong_shapes_are_refused_with_both_shapes_named():
    element = Element(jnp.ones((T, N)), jnp.ones((T, N)))
    with pytest.raises(ValueError, match=r"initial has shape \(5,\).*\(4,\)"):
        scan(Diagonal(), element, jnp.zeros(5))
    with pytest.raises(ValueError, match=r"starts has shape \(22,\).*\(23,\)"):
        scan(Diagonal(), element, jnp.zeros(N), jnp.zeros(T - 1, bool))


def test_random_matrices_are_orthogonal_and_unitary():
    for shape in ((7, 7), (3, 8), (8, 3)):
        q = np.asarray(orthogonal(jax.random.key(0), shape))
        small = q @ q.T if shape[0] <= shape[1] else q.T @ q
        np.testing.assert_allclose(small, np.eye(min(shape)), atol=1e-5)
    u = np.asarray(unitary(jax.random.key(1), 9))
    np.testing.assert_allclose(u @ u.conj().T, np.eye(9), atol=1e-5)


def test_tridiagonal_systems_are_multiplied_and_solved_as_dense_ones(float64):
    t = jax.random.normal(jax.random.key(0), (4, 3, 7)).at[:, 1].add(3.0)
    t = t.at[:, 0, 0].set(jnp.nan).at[:, 2, -1].set(jnp.nan)  # outside of the matrix
    x = jax.random.normal(jax.random.key(1), (4, 7))
    dense = np.stack([np.diag(a[0, 1:], -1) + np.diag(a[1]) + np.diag(a[2, :-1], 1) for a in np.asarray(t)])
    np.testing.assert_allclose(jax.vmap(tridiagonal_product)(t, x), np.einsum("bij,bj->bi", dense, x))
    np.testing.assert_allclose(
        jax.vmap(tridiagonal_solve)(t, x), np.linalg.solve(dense, np.asarray(x)[..., None])[..., 0], rtol=1e-9
    )
    np.testing.assert_allclose(tridiagonal_solve(t[0, :, 6:], x[0, 6:]), x[0, 6:] / t[0, 1, 6:])  # one row


def test_the_inverse_and_its_derivative_agree_with_lapack(float64):
    rng = np.random.default_rng(7)
    a = jnp.asarray(rng.normal(size=(6, 6)) + 1j * rng.normal(size=(6, 6))).at[0, 0].set(0.0)  # needs a pivot
    np.testing.assert_allclose(inverse(a), np.linalg.inv(a), rtol=1e-10)
    ours = jax.grad(lambda a: jnp.sum(jnp.abs(inverse(a)) ** 2))(a)
    theirs = jax.grad(lambda a: jnp.sum(jnp.abs(jnp.linalg.inv(a)) ** 2))(a)
    np.testing.assert_allclose(ours, theirs, rtol=1e-8)


def test_unknown_names_list_the_known_ones_and_suggest_the_nearest():
    registry = Registry("fruit")
    registry.add("apple", object, "", "")
    registry.add("pear", object, "", "")
    with pytest.raises(UnknownName, match=r"unknown fruit 'aple'; did you mean 'apple'. known: apple, pear"):
        registry["aple"]


def fruit(colour="red", size=3, ripe=False, weights=(1.0, 2.0), hidden=None):
    return colour, size, ripe, weights, hidden


def test_options_in_a_name_reach_the_maker_with_the_types_of_its_defaults():
    registry = Registry("fruit")
    registry.add("apple", fruit, "", "")
    assert registry["apple"].make() == ("red", 3, False, (1.0, 2.0), None)
    entry = registry["apple@colour=green@size=4@ripe=True@weights=3"]
    assert entry.make() == ("green", 4, True, (3.0,), None) and type(entry.make()[3][0]) is float
    assert entry.name == "apple@colour=green@size=4@ripe=True@weights=3"


def test_a_wrong_option_names_the_known_ones_and_a_wrong_value_shows_a_right_one():
    registry = Registry("fruit")
    registry.add("apple", fruit, "", "")
    for name, message in {
        "apple@color=green": r"fruit 'apple' has no option 'color'; did you mean 'colour=red'",
        "apple@hidden=2": r"no option 'hidden'; .*known: colour=red, size=3, ripe=False, weights=1.0,2.0$",
        "apple@size=big": r"option size is 'big'; write it as in size=3",
        "apple@size": r"option size is ''; write it as in size=3",
        "apple@ripe=1": r"option ripe is '1'; write it as in ripe=False",
        "apple@weights=1,x": r"option weights is '1,x'; write it as in weights=1.0,2.0",
        "apple@size=1@size=2": r"has option 'size' twice",
    }.items():
        with pytest.raises((UnknownName, ValueError), match=message):
            registry[name]

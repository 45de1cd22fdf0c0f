"""What every memory promises, as functions that anyone can run on their own layer
(``linmem check module:Class``).

A promise takes a memory class and raises ``Broken`` with a sentence if it does not hold. It works on the
class's own ``example``: a small instance whose sizes all differ, so that a transposed product cannot pass.
"""

import functools
import io
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .base import AbstractLinearMemory, AbstractMemory

STEPS = 13
LONG = 10_000
STARTS = np.isin(np.arange(STEPS), [0, 4, 5])  # at the beginning, after a few steps, and two in a row
LAST_START = 5
# float32 carries 7 digits; a few are lost over STEPS steps, one or two more over LONG steps.
TOLERANCE, LONG_TOLERANCE = 2e-5, 1e-3
EXACT = 0.0  # bit by bit


class Broken(AssertionError):
    """A promise that does not hold."""


@eqx.filter_jit
def _unroll(memory: AbstractMemory, state: Any, xs: PyTree, starts: Any) -> tuple[Any, Array]:
    return memory.unroll(state, xs, starts)


@eqx.filter_jit
def _walk(memory: AbstractMemory, state: Any, xs: PyTree, starts: Any) -> tuple[Any, Array]:
    """The same by stepping."""
    return jax.lax.scan(lambda s, x: memory.step(s, *x), state, (xs, starts))


@eqx.filter_jit
def _many(way: Callable, memory: AbstractMemory, states: Any, xs: PyTree, starts: Any) -> tuple[Any, Array]:
    return way(memory, states, xs, starts)


def _gradient(run: Callable) -> Callable:
    """(memory, xs, state, weights) -> the gradients of the features' sum by these weights, in memory, xs and
    state; (last state, features). One compiled function serves two promises."""

    @eqx.filter_jit
    def gradient(memory, xs, state, weights):
        floats, rest = eqx.partition((memory, xs, state), eqx.is_inexact_array)

        def loss(floats):
            memory, xs, state = eqx.combine(floats, rest)
            last, ys = run(memory, state, xs, STARTS)
            return jnp.sum(weights * ys), (last, ys)

        return jax.grad(loss, has_aux=True)(floats)

    return gradient


_unroll_gradient, _walk_gradient = _gradient(_unroll), _gradient(_walk)


def _weights(memory: AbstractMemory) -> Float[np.ndarray, "T out"]:
    return np.cos(np.arange(STEPS * memory.out_size, dtype=np.float32)).reshape(STEPS, memory.out_size)


@functools.cache  # making one compiles much
def _example(cls: type[AbstractMemory], steps: int = STEPS) -> tuple[AbstractMemory, PyTree]:
    """The class's example. What is done with its inputs here is NumPy's: outside jit, JAX compiles each
    operation for each shape."""
    memory, xs = cls.example(jax.random.key(7), steps)
    return memory, jax.device_get(xs)


def _same(what: str, got: Any, expected: Any, tolerance: float = TOLERANCE) -> None:
    """Equal up to ``tolerance`` relative to the largest expected entry; 0 asks for identical bits."""
    for g, e in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        g, e = np.asarray(g), np.asarray(e)
        if g.shape != e.shape:
            raise Broken(f"{what}: shapes {g.shape} and {e.shape} differ")
        if tolerance == 0:
            if not np.array_equal(g, e, equal_nan=False):
                raise Broken(f"{what}: not bit-identical; largest difference {_gap(g, e):.3g}")
            continue
        finite = np.isfinite(e)
        if not np.array_equal(np.where(finite, 0, g), np.where(finite, 0, e)):
            raise Broken(f"{what}: NaN or infinities where the other has none")
        scale = max(1.0, float(np.abs(e[finite]).max(initial=0)))
        if (gap := _gap(g[finite], e[finite])) > tolerance * scale:
            raise Broken(f"{what}: differ by {gap:.3g}, allowed {tolerance * scale:.3g}")


def _gap(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(complex) - b.astype(complex)).max(initial=0))


def unroll_is_the_reference(cls: type[AbstractMemory]) -> None:
    """unroll gives what the paper's recurrence gives in float64, also from ``init`` without a start."""
    memory, xs = _example(cls)
    for starts in (STARTS, np.zeros_like(STARTS)):
        _, ys = _unroll(memory, memory.init(), xs, starts)
        _same("unroll and reference", ys, memory.reference(xs, starts))


def unroll_is_stepping(cls: type[AbstractMemory]) -> None:
    """Learning and acting see the same features and end in the same state."""
    memory, xs = _example(cls)
    _same(
        "unroll and stepping",
        _unroll(memory, memory.init(), xs, STARTS),
        _walk(memory, memory.init(), xs, STARTS),
    )


def two_pieces_are_one(cls: type[AbstractMemory]) -> None:
    """A sequence may be cut anywhere and continued from the state."""
    memory, xs = _example(cls)
    whole = _unroll(memory, memory.init(), xs, STARTS)
    state, parts = memory.init(), []
    for piece in (slice(0, 3), slice(3, 8), slice(8, None)):  # two of a length compile once
        state, ys = _unroll(memory, state, jax.tree.map(lambda x: x[piece], xs), STARTS[piece])  # noqa: B023
        parts.append(ys)
    _same("two pieces and one", (state, np.concatenate(parts)), whole)


def no_steps_change_nothing(cls: type[AbstractMemory]) -> None:
    """A sequence of no steps gives the state that it began with, whose derivative is 1, and no features."""
    memory, xs = _example(cls)
    state, _ = _unroll(memory, memory.init(), xs, STARTS)
    floats, rest = eqx.partition(state, eqx.is_inexact_array)

    @eqx.filter_jit
    def run(memory, floats, rest, xs):
        def unroll(floats):
            last, ys = memory.unroll(eqx.combine(floats, rest), xs, jnp.zeros(0, bool))
            return eqx.filter(last, eqx.is_inexact_array), (last, ys)

        _, backward, found = jax.vjp(unroll, floats, has_aux=True)
        return *found, backward(floats)[0]

    last, ys, derivative = run(memory, floats, rest, jax.tree.map(lambda x: x[:0], xs))
    _same("the last state and the first", last, state, EXACT)
    _same("the state's derivative and 1", derivative, floats, EXACT)
    if ys.shape != (0, memory.out_size):
        raise Broken(f"no steps give features of shape {ys.shape}; must be {(0, memory.out_size)}")


def nothing_crosses_a_start(cls: type[AbstractMemory]) -> None:
    """With NaN in all that lies before a start, features, states and gradients after it keep every bit."""
    memory, xs = _example(cls)
    clean = xs, jax.device_get(memory.init())
    poisoned = jax.tree.map(_poison, xs), jax.tree.map(lambda s: _poison(s[None])[0], clean[1])
    weights = _weights(memory)
    weights[:LAST_START] = 0

    for gradient in (_unroll_gradient, _walk_gradient):

        def after(xs, state, gradient=gradient):
            (_, g, _), (last, ys) = gradient(memory, xs, state, weights)
            return jax.tree.map(lambda g: np.asarray(g)[LAST_START:], g), last, np.asarray(ys)[LAST_START:]

        name = "unroll" if gradient is _unroll_gradient else "walk"
        _same(f"after a start ({name})", after(*poisoned), after(*clean), EXACT)


def _poison(x: np.ndarray, steps: slice = slice(LAST_START)) -> np.ndarray:
    """These steps spoiled: NaN, or for integers another valid value."""
    spoiled = x.copy()
    spoiled[steps] = np.nan if np.issubdtype(x.dtype, np.inexact) else 0
    return spoiled


def the_future_does_not_reach_the_past(cls: type[AbstractMemory]) -> None:
    """With NaN in all inputs from a step on, the features before it keep every bit."""
    memory, xs = _example(cls)
    late = 3
    spoiled = jax.tree.map(lambda x: _poison(x, slice(-late, None)), xs)
    _, clean = _unroll(memory, memory.init(), xs, STARTS)
    _, dirty = _unroll(memory, memory.init(), spoiled, STARTS)
    _same("features before a change", np.asarray(dirty)[:-late], np.asarray(clean)[:-late], EXACT)


def elements_obey_the_laws(cls: type[AbstractMemory]) -> None:
    """For a linear memory's own elements, combine is associative and acts as one after the other."""
    memory, xs = _example(cls)
    if not isinstance(memory, AbstractLinearMemory):
        return

    @eqx.filter_jit
    def sides(memory, xs):
        e, f, g = (
            memory.encode(jax.tree.map(lambda x: x[t], xs), jnp.asarray(False))  # noqa: B023
            for t in range(3)
        )
        (algebra, e), (_, f), (_, g) = (memory.algebra.materialise(element) for element in (e, f, g))
        h = memory.init() + jax.random.normal(jax.random.key(0), memory.init().shape)
        return {
            "combine is associative": (
                algebra.combine(algebra.combine(e, f), g),
                algebra.combine(e, algebra.combine(f, g)),
            ),
            "act of combine": (algebra.act(algebra.combine(e, f), h), algebra.act(f, algebra.act(e, h))),
        }

    for law, (left, right) in sides(memory, xs).items():
        _same(law, left, right)


def gradients_agree_on_both_paths(cls: type[AbstractMemory]) -> None:
    """Gradients in parameters, inputs and initial state are finite, and equal for unroll and for stepping."""
    memory, xs = _example(cls)
    leaves = (memory, xs, memory.init(), _weights(memory))
    by_unroll, by_step = _unroll_gradient(*leaves)[0], _walk_gradient(*leaves)[0]
    if not all(np.isfinite(np.asarray(g)).all() for g in jax.tree.leaves(by_unroll)):
        raise Broken("gradients of unroll: not finite")
    _same("gradients of unroll and stepping", by_unroll, by_step, 1e-4)


def many_are_one_by_one(cls: type[AbstractMemory]) -> None:
    """Sequences side by side, with different starts, give what they give one by one; by ``unroll_many`` and
    by ``vmap``."""
    memory, xs = _example(cls)
    batch = jax.tree.map(lambda x: np.stack([x, np.flip(x, 0), np.roll(x, 1, 0)], axis=1), xs)
    starts = np.stack([STARTS, STARTS | (np.arange(STEPS) == 2), np.arange(STEPS) == 0], axis=1)
    states = jax.tree.map(lambda s: np.stack([s] * 3), jax.device_get(memory.init()))
    for way in {AbstractMemory.unroll_many, cls.unroll_many}:  # the first is vmap
        last, ys = jax.device_get(_many(way, memory, states, batch, starts))
        ys = np.moveaxis(ys, 1, 0)
        for b in range(3):
            alone = _unroll(memory, memory.init(), jax.tree.map(lambda x: x[:, b], batch), starts[:, b])  # noqa: B023
            _same("side by side and alone", jax.tree.map(lambda s: s[b], (last, ys)), alone)  # noqa: B023


def a_second_call_does_not_retrace(cls: type[AbstractMemory]) -> None:
    """Calling again with other values of the same shapes traces nothing, and so compiles nothing."""
    memory, xs = _example(cls)
    traced = []

    @eqx.filter_jit
    def run(memory, state, xs):
        traced.append(1)
        return memory.unroll(state, xs, jnp.asarray(STARTS))

    state, _ = _unroll(memory, memory.init(), xs, STARTS)
    run.lower(memory, memory.init(), xs)
    run.lower(memory, state, jax.tree.map(lambda x: np.flip(x, 0), xs))
    other, _ = cls.example(jax.random.key(8), STEPS)
    run.lower(other, state, xs)
    if len(traced) != 1:
        raise Broken(f"unroll was traced {len(traced)} times for equal shapes")


def types_and_structure_are_kept(cls: type[AbstractMemory]) -> None:
    """State after a step or an unroll has the form of ``init``; features are float32 of shape (out_size,)."""
    memory, xs = _example(cls)
    form = jax.eval_shape(memory.init)
    stepped, y = jax.eval_shape(memory.step, form, jax.tree.map(lambda x: x[0], xs), jnp.asarray(True))
    unrolled, ys = jax.eval_shape(memory.unroll, form, xs, STARTS)
    for name, state in (("step", stepped), ("unroll", unrolled)):
        if jax.tree.structure(state) != jax.tree.structure(form) or any(
            (a.shape, a.dtype) != (b.shape, b.dtype)
            for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(form), strict=True)
        ):
            raise Broken(f"{name} turns a state {form} into {state}")
    if (y.shape, y.dtype) != ((memory.out_size,), jnp.float32):
        raise Broken(f"step gives {y.dtype}{y.shape}, out_size is {memory.out_size}, features are float32")
    if (ys.shape, ys.dtype) != ((STEPS, memory.out_size), jnp.float32):
        raise Broken(f"unroll gives {ys.dtype}{ys.shape} for {STEPS} steps and out_size {memory.out_size}")


def saving_and_loading_changes_nothing(cls: type[AbstractMemory]) -> None:
    """Written leaves, read into another instance of the same form, give the same features, bit by bit."""
    memory, xs = _example(cls)
    other, _ = cls.example(jax.random.key(8), STEPS)
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, memory)
    file.seek(0)
    loaded = eqx.tree_deserialise_leaves(file, other)
    _same(
        "loaded and saved",
        _unroll(loaded, memory.init(), xs, STARTS)[1],
        _unroll(memory, memory.init(), xs, STARTS)[1],
        EXACT,
    )


def float32_stays_near_float64(cls: type[AbstractMemory]) -> None:
    """Over 10,000 steps without a start, features stay within 1e-3 of the float64 recurrence,
    relative to the largest."""
    memory, xs = _example(cls, LONG)
    starts = np.arange(LONG) == 0
    _, ys = _unroll(memory, memory.init(), xs, starts)
    memory = jax.device_get(memory)  # a loop reads NumPy's arrays faster
    _same("float32 and float64 over a long run", ys, memory.reference(xs, starts), LONG_TOLERANCE)


PROMISES: list[Callable[[type[AbstractMemory]], None]] = [
    types_and_structure_are_kept,
    unroll_is_the_reference,
    unroll_is_stepping,
    two_pieces_are_one,
    no_steps_change_nothing,
    nothing_crosses_a_start,
    the_future_does_not_reach_the_past,
    elements_obey_the_laws,
    gradients_agree_on_both_paths,
    many_are_one_by_one,
    a_second_call_does_not_retrace,
    saving_and_loading_changes_nothing,
    float32_stays_near_float64,
]

"""What every chunked kernel is, and how it runs over time.

A kernel holds a matrix (or a few) as its state and gives, for one sequence and one head, two forms of the
same recurrence, and a third for all heads:

    step      one step at a time: cheap to act with, and the oracle of the other forms
    chunk     C steps at once, as products of matrices
    compiled  all steps by a compiled loop, for processors whose cache holds the state (``core/native``)

``unroll`` runs chunk after chunk. Between the passes it keeps the inputs and the state at the beginning of
each chunk; what happens inside a chunk is computed again for the derivative, but for the solutions of
triangular systems (``SOLVED``). So T steps with a d x d state cost O(T (d + C) + (T / C) d^2) numbers, never
O(T d^2). Batches and heads are vmapped: the products become batched ones.
"""

import abc
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from ..native import library
from ..types import Start
from .decay import Began
from .triangular import SOLVED


class AbstractKernel(abc.ABC):
    """One recurrence in its two forms. Inputs of one step are a pytree ``x``; ``xs`` has a leading time
    axis."""

    @abc.abstractmethod
    def init(self, *sizes: int) -> PyTree:
        """The empty state, which a start brings back."""

    @abc.abstractmethod
    def step(self, state: PyTree, x: Any, start: Start) -> tuple[PyTree, Array]:
        """One step: (state, output)."""

    @abc.abstractmethod
    def chunk(self, state: PyTree, xs: Any, began: Began) -> tuple[PyTree, Array]:
        """C steps: (last state, outputs with a leading time axis). All inputs are finite."""

    @abc.abstractmethod
    def compiled(self, state: PyTree, xs: Any, starts: Bool[Array, " T"]) -> tuple[PyTree, Array]:
        """T steps of all heads: (last states, outputs (T, heads, ...)). Heads lead in ``state`` and follow
        time in ``xs``, where what they share has one."""

    def writes(self, xs: Any) -> int:
        """How many writes a step makes, if more than one."""
        return 1


def choose(platform: str, writes: int) -> int:
    """The chunk length that ``unroll`` takes. Repeat the CPU measurements with ``linmem bench kernels
    --lengths``.

    A longer chunk means fewer, larger products, and more operations (a causal product meets C / 2 steps). On
    a CPU with heads of 32 rows and columns, chunks of 32 writes were fastest or within the noise for every
    kernel, and 128 took up to twice as long. Other platforms were not measured by anyone yet: there it is the
    64 of the literature.
    """
    return max(8, (32 if platform == "cpu" else 64) // writes)


def unroll(
    kernel: AbstractKernel, state: PyTree, xs: Any, starts: Bool[Array, " T"], length: int | None = None
) -> tuple[PyTree, Array]:
    """(last state, outputs (T, ...)) of T steps; nothing passes a start, not even NaN.

    Differentiable in reverse mode, in ``state`` and ``xs``. ``length`` overrides the chunk length.
    """
    steps = len(starts)
    length = choose(jax.default_backend(), kernel.writes(xs)) if length is None else length
    length = min(length, max(steps, 1))
    count = steps // length
    whole = count * length
    # XLA must not see an empty state as a constant: jaxlib 0.10's CPU products with a broadcast constant read
    # memory that is not theirs
    state = jax.lax.optimization_barrier(state)

    @functools.partial(jax.checkpoint, policy=jax.checkpoint_policies.save_only_these_names(SOLVED))
    def body(state, chunk):
        return _contained(kernel, state, *chunk)

    chunks = jax.tree.map(lambda x: x[:whole].reshape(count, length, *x.shape[1:]), (xs, starts))
    state, ys = jax.lax.scan(body, state, chunks)
    ys = ys.reshape(whole, *ys.shape[2:])
    if whole == steps:
        return state, ys
    state, rest = body(state, jax.tree.map(lambda x: x[whole:], (xs, starts)))
    return state, jnp.concatenate([ys, rest])


def unroll_heads(
    kernel: AbstractKernel, state: PyTree, xs: Any, starts: Bool[Array, " T"], axes: PyTree = 0
) -> tuple[PyTree, Array]:
    """``unroll`` of several heads: (last states, outputs (T, heads, ...)). Heads lead in ``state`` and follow
    time in ``xs``, but for what ``axes`` says that they share (None; else 0)."""
    if len(starts) and library.serves(state, xs):
        return kernel.compiled(state, jax.tree.map(_with_heads, axes, xs, is_leaf=_is_none), starts)
    return vmap_heads(functools.partial(unroll, kernel), state, xs, starts, axes)


def vmap_heads(one: Any, state: PyTree, xs: Any, starts: Bool[Array, " T"], axes: PyTree) -> Any:
    """``one(state, xs, starts)`` of every head."""
    axes = jax.tree.map(lambda axis: axis + 1, axes)  # time stands before heads
    return jax.vmap(one, (0, axes, None), (0, 1))(state, xs, starts)


def _with_heads(axis: int | None, x: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x[:, None], x) if axis is None else x


def _is_none(x: Any) -> bool:
    return x is None


def walk(kernel: AbstractKernel, state: PyTree, xs: Any, starts: Bool[Array, " T"]) -> tuple[PyTree, Array]:
    """The same by stepping: the oracle. Its derivative keeps every state."""
    return jax.lax.scan(lambda state, x: kernel.step(state, *x), state, (xs, starts))


def _contained(kernel, state, xs, starts):
    """``kernel.chunk`` on inputs without NaN or infinities; they are put back, as NaN, where they would have
    reached.

    Inside a chunk a matrix product meets all steps, and 0 * NaN is NaN: what is not finite must not enter it.
    """
    time = jnp.arange(len(starts))
    broken = jnp.stack([_broken(x, x.ndim - 1) for x in jax.tree.leaves(xs)]).any(0)
    state_broken = jnp.stack([_broken(x, x.ndim) for x in jax.tree.leaves(state)]).any()
    began = jax.lax.cummax(jnp.where(starts, time, -1))
    spoiled = jax.lax.cummax(jnp.where(broken, time, jnp.where(state_broken, -1, -2))) >= began
    state, ys = kernel.chunk(_select(state_broken, 0.0, state), _select(broken, 0.0, xs), began)
    return _select(spoiled[-1], jnp.nan, state), _select(spoiled, jnp.nan, ys)


def _broken(x: Float[Array, "..."], axes: int) -> Bool[Array, "..."]:
    """Whether anything is NaN or infinite, over the last ``axes`` axes."""
    return ~jnp.isfinite(x).all(axis=tuple(range(x.ndim - axes, x.ndim)))


def _select(flag, value, tree):
    """``value`` where ``flag``, in every leaf."""
    return jax.tree.map(
        lambda x: jnp.where(flag.reshape(flag.shape + (1,) * (x.ndim - flag.ndim)), value, x).astype(x.dtype),
        tree,
    )

"""What all memories with a matrix for a state share: convolution, kernel, and how they step and unroll.

    x_t -> mix -> short convolution -> encode -> kernel, one per head -> decode -> y_t

A layer states ``mix`` for any number of steps, ``encode`` and ``decode`` for one. Its state is the kernel's
state of each head, and the window of the convolution.
"""

import abc
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..core.chunked.kernel import AbstractKernel, unroll_heads, vmap_heads
from .base import AbstractMemory
from .short_convolution import ShortConvolution

Run = Callable[[AbstractKernel, Any, Any, Bool[Array, " T"]], tuple[Any, Array]]
"""(kernel, state, inputs, starts) to (last state, outputs)."""


class MatrixState(NamedTuple):
    window: Float[Array, "past channels"]
    heads: Any
    """the kernel's state, with a leading axis of heads"""


class AbstractMatrixMemory(AbstractMemory):
    """``sizes``: heads, and rows and columns of each head's state. ``convolution`` is None for layers
    without."""

    convolution: eqx.AbstractVar[ShortConvolution | None]
    sizes: eqx.AbstractVar[tuple[int, int, int]]

    @property
    @abc.abstractmethod
    def kernel(self) -> AbstractKernel:
        """The recurrence of one head."""

    @abc.abstractmethod
    def mix(self, x: Float[Array, "*steps in"]) -> Float[Array, "*steps channels"]:
        """What goes through the convolution, for one step or for all."""

    @abc.abstractmethod
    def encode(self, x: Float[Array, " in"], mixed: Float[Array, " channels"]) -> tuple[Any, Any]:
        """From x_t and what left the convolution: the kernel's inputs, with a leading axis of heads (but see
        ``head_axes``), and whatever ``decode`` wants to know of them."""

    @abc.abstractmethod
    def decode(self, read: Float[Array, "heads dv"], rest: Any) -> Float[Array, " out"]:
        """The features, from what the heads read."""

    def head_axes(self) -> Any:
        """``vmap``'s in_axes over heads for the inputs of one step: None for what the heads share."""
        return 0

    def init(self):
        heads, *sizes = self.sizes
        window = jnp.zeros((0, 0)) if self.convolution is None else self.convolution.init()
        empty = self.kernel.init(*sizes)
        return MatrixState(window, jax.tree.map(lambda x: jnp.broadcast_to(x, (heads, *x.shape)), empty))

    def step(self, state, x, start):
        window, mixed = state.window, self.mix(x)
        if self.convolution is not None:
            window, mixed = self.convolution.step(window, mixed, start)
        inputs, rest = self.encode(x, mixed)
        heads, read = jax.vmap(self.kernel.step, (0, self.head_axes(), None))(state.heads, inputs, start)
        return MatrixState(window, heads), self.decode(read, rest)

    def unroll(self, state, xs, starts, run: Run | None = None):
        """``run`` is how one head runs over time, for comparisons; None takes the fastest form there is."""
        window, mixed = state.window, self.mix(xs)
        if self.convolution is not None:
            window, mixed = self.convolution.unroll(window, mixed, starts)
        inputs, rest = jax.vmap(self.encode)(xs, mixed)
        if run is None:
            heads, reads = unroll_heads(self.kernel, state.heads, inputs, starts, self.head_axes())
        else:
            one = functools.partial(run, self.kernel)
            heads, reads = vmap_heads(one, state.heads, inputs, starts, self.head_axes())
        return MatrixState(window, heads), jax.vmap(self.decode)(reads, rest)

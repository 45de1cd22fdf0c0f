"""The contract of a memory, and the half of it that every linear memory shares.

A memory turns what an agent has seen into features that its policy can use. It is one sequence at a time,
without a batch axis; the caller vmaps. The same object acts (``step``, constant cost) and learns (``unroll``,
all T at once).

Both take the start flag with the input. A belief filter must know that no action moved the state before the
first observation of an episode, so a start cannot be hidden from it by handing it a fresh state.
"""

import abc
import functools
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PRNGKeyArray, PyTree

from ..core.algebra import AbstractAlgebra, Element
from ..core.checkpointed import in_blocks
from ..core.scan import scan
from ..core.types import Start

State = Any

PER_STEP: Any = 0
ONCE: Any = None
"""``time_axes`` of a part with an entry for every step, and of one stored once."""


class AbstractMemory(eqx.Module):
    """The contract. ``out_size`` is the number of features that ``step`` gives."""

    out_size: eqx.AbstractVar[int]
    without_blocks: ClassVar[bool] = False
    """Whether ``unroll_batch`` leaves it whole: a layer that already does its sequence again piece by piece
    for the derivative, and loses more by doing so twice than blocks save."""

    @abc.abstractmethod
    def init(self) -> State:
        """The state before anything was seen."""

    @abc.abstractmethod
    def step(self, state: State, x: PyTree, start: Start) -> tuple[State, Array]:
        """One step: erase the state if ``start``, take in x_t, give (state, features (out_size,))."""

    @abc.abstractmethod
    def unroll(self, state: State, xs: PyTree, starts: Bool[Array, " T"]) -> tuple[State, Array]:
        """T steps: xs with a leading time axis; gives (last state, features (T, out_size))."""

    def unroll_many(self, states: State, xs: PyTree, starts: Bool[Array, "T b"]) -> tuple[State, Array]:
        """``unroll`` of b sequences side by side: states with a leading axis b, xs with leading axes (T, b);
        gives (last states, features (T, b, out_size)). A memory that does the same at every step may take
        the steps of all sequences as rows, without the transpositions that vmap brings (on one device)."""
        return jax.vmap(self.unroll, in_axes=(0, 1, 1), out_axes=(0, 1))(states, xs, starts)

    def believes(self, features: Array) -> Array | None:
        """The features as a distribution over hidden states,
        if by definition they are one; None otherwise."""
        return None

    @classmethod
    @abc.abstractmethod
    def example(cls, key: PRNGKeyArray, steps: int) -> tuple["AbstractMemory", PyTree]:
        """A small instance with all sizes different, and ``steps`` inputs for it;
        the promises are run on it."""

    @abc.abstractmethod
    def reference(self, xs: PyTree, starts: np.ndarray) -> np.ndarray:
        """The paper's recurrence as a literal float64 NumPy loop from ``init``: features (T, out_size)."""


class AbstractWrapper(AbstractMemory):
    """A memory about another, ``memory``, with its features and, unless said otherwise, its states."""

    memory: eqx.AbstractVar[AbstractMemory]

    @property
    def out_size(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.memory.out_size

    @property
    def without_blocks(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.memory.without_blocks

    def init(self):
        return self.memory.init()


def unroll_batch(
    memory: AbstractMemory, xs: PyTree, starts: Bool[Array, "T b"], states: State = None
) -> tuple[State, Array]:
    """T steps of b sequences side by side: (last states, features (T, b, out_size)).

    What ``jax.vmap`` of ``unroll`` gives, from ``init`` or from ``states`` with a leading axis b; xs has
    leading axes (T, b). Many and long sequences are run in checkpointed blocks, faster and in less memory: a
    layer cannot see how wide its caller's vmap is, so this has to be asked for.
    """
    batch = starts.shape[1]
    if states is None:
        states = jax.tree.map(lambda x: jnp.broadcast_to(x, (batch, *x.shape)), memory.init())
    # Several devices may have spread the batch: rows of all steps would have them exchange their sequences.
    way = type(memory) if jax.device_count() == 1 else AbstractMemory
    unroll = functools.partial(way.unroll_many, memory)
    if memory.without_blocks:
        return unroll(states, xs, starts)
    width = batch * memory.out_size
    return in_blocks(lambda states, timed: unroll(states, *timed), states, (xs, starts), width)


class AbstractLinearMemory(AbstractMemory):
    """A memory whose state follows h_t = A_t ⊗ h_{t-1} ⊕ b_t.
    A layer states ``algebra``, ``encode`` and ``decode``."""

    algebra: eqx.AbstractClassVar[AbstractAlgebra]

    @abc.abstractmethod
    def encode(self, x: PyTree, start: Start) -> Element:
        """The element (A_t, b_t) of one step. Where ``start``,
        the state that A_t meets is the reading's zero."""

    @abc.abstractmethod
    def decode(self, h: Array, x: PyTree) -> Array:
        """The features of one step."""

    def decode_all(self, states: Array, xs: PyTree) -> Array:
        """The features of all steps. A layer whose ``decode`` takes a leading axis may call it here: products
        over whole sequences have the faster derivative (``core/projection.py``)."""
        return jax.vmap(self.decode)(states, xs)

    def check(self, xs: PyTree) -> None:
        """Raises ValueError for inputs, of one step or of all, that are seen to be wrong; inside JAX's
        transformations nothing is seen."""

    def time_axes(self) -> Any:
        """``vmap``'s out_axes for ``encode``: ``ONCE`` (None) marks a part that is the same at every step
        and is stored once."""
        return Element(PER_STEP, PER_STEP)

    def step(self, state, x, start):
        self.check(x)
        x, start = jax.tree.map(jnp.asarray, (x, start))  # plain Python numbers, too
        element = jax.tree.map(lambda leaf: leaf[None], self.encode(x, start))
        state, states = scan(self.algebra, element, state, start[None])
        return state, self.decode(states[0], x)

    def unroll(self, state, xs, starts):
        return self._unroll(state, xs, starts)

    def unroll_many(self, states, xs, starts):
        if type(self).unroll is not AbstractLinearMemory.unroll:  # a layer with an ``unroll`` of its own
            return super().unroll_many(states, xs, starts)
        return self._unroll(states, xs, starts)

    def _unroll(self, states, xs, starts):
        self.check(xs)
        leading = starts.shape  # (T, b), or (T,)
        axes, flat = self.time_axes(), functools.partial(_rows, axes=len(leading))
        elements = jax.vmap(self.encode, out_axes=axes)(*flat((xs, starts)))

        def spread(axis, part):  # ONCE: axes of size 1 stand for all steps
            if axis is ONCE:
                return jax.tree.map(lambda x: x.reshape((1,) * len(leading) + x.shape), part)
            return jax.tree.map(lambda x: x.reshape(leading + x.shape[1:]), part)

        elements = jax.tree.map(spread, axes, elements, is_leaf=lambda axis: axis is ONCE)
        states, all_states = scan(self.algebra, elements, states, starts)
        features = self.decode_all(*flat((all_states, xs)))
        return states, features.reshape(leading + features.shape[1:])


def _rows(tree: PyTree, axes: int) -> PyTree:
    """With the first ``axes`` axes, time and batch, as one."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[axes:]), tree)

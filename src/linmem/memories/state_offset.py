"""State-offset tuning: adapt a trained linear memory by one learned vector, added to its state at readout.

    h_t = A_t h_{t-1} + b_t        as trained, frozen
    y_t = g(h_t + h', x_t)         h' is learned

An initial state would be forgotten as A_t forgets; the offset acts at every step alike.

| paper | here   | shape    | meaning                                       |
|-------|--------|----------|-----------------------------------------------|
| h'    | offset | as state | the only parameter to tune, 0 in the beginning |

The offset of a complex state is kept as its two parts, along a new first axis (``diagonal.parts``).

Source: W. Kang, K. Galim, Y. Zeng, M. Lee, H. I. Koo, N. I. Cho, "State-offset Tuning: State-based
Parameter-Efficient Fine-Tuning for State Space Models", 2025, arXiv:2503.03499 (the variant "h"); in the
authors' code too (furiosa-ai/ssm-state-tuning) h' has the shape of the state, begins at 0 and is read
through C.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .base import AbstractLinearMemory
from .diagonal import parts
from .prophecy import HippoProphecy


class StateOffset(AbstractLinearMemory):
    """The features of ``memory``, read from its state plus ``offset``."""

    memory: AbstractLinearMemory
    offset: Float[Array, "..."]

    def __init__(self, memory: AbstractLinearMemory):
        empty = jnp.zeros_like(memory.init())
        self.memory, self.offset = memory, parts(empty) if jnp.iscomplexobj(empty) else empty

    @property
    def algebra(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.memory.algebra

    @property
    def out_size(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.memory.out_size

    def tunable(self) -> PyTree:
        """This memory with True at the offset and False at all else: what to train
        (``eqx.partition(memory, memory.tunable())``)."""
        frozen = jax.tree.map(lambda _: False, self)
        return eqx.tree_at(lambda m: m.offset, frozen, True)

    def init(self):
        return self.memory.init()

    def encode(self, x, start):
        return self.memory.encode(x, start)

    def time_axes(self):
        return self.memory.time_axes()

    def decode(self, h, x):
        offset = jax.lax.complex(*self.offset) if jnp.iscomplexobj(h) else self.offset
        return self.memory.decode(h + offset, x)

    @classmethod
    def example(cls, key, steps):
        memory, xs = HippoProphecy.example(key, steps)
        return eqx.tree_at(lambda m: m.offset, cls(memory), jax.random.normal(key, memory.init().shape)), xs

    def reference(self, xs, starts):
        """For the example, whose readout is linear: the offset adds the same at every step."""
        assert isinstance(self.memory, HippoProphecy)
        added = np.asarray(self.offset, np.float64) @ np.asarray(self.memory.c, np.float64)
        return self.memory.reference(xs, starts) + self.memory.step_size * added

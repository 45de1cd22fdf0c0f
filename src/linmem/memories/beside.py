"""Memories side by side: several read the same inputs, and their features stand next to each other.

    h_t^i = A_t^i h_{t-1}^i + b_t^i,   y_t = (y_t^1, y_t^2, ..)       for each memory i

One memory again, with a block-diagonal transition if all are linear. A window (``window.py``) beside traces
(``trace.py``) is a pair of short-term memories from Mozer's taxonomy: a tapped delay line, which holds the
last inputs exactly and no others, and exponential traces, which hold all of the past, the less the older.
From traces of one-hot inputs, whose sum is that of a constant, it can be read how long an episode has
lasted.

Source: M. C. Mozer, "Neural Net Architectures for Temporal Sequence Processing", in: Time Series Prediction,
Santa Fe Institute Studies in the Sciences of Complexity XV, 1994; that they stand side by side is this
library's choice.
"""

import jax.numpy as jnp
import numpy as np

from .base import AbstractMemory
from .gru import GRU
from .trace import Trace


class Beside(AbstractMemory):
    """Features (sum of the out_sizes,), in the order of ``memories``, which read the same inputs."""

    memories: tuple[AbstractMemory, ...]

    def __check_init__(self):
        if not self.memories:
            raise ValueError("memories is empty; name at least one to stand beside others")

    @property
    def out_size(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return sum(memory.out_size for memory in self.memories)

    def init(self):
        return tuple(memory.init() for memory in self.memories)

    def step(self, state, x, start):
        both = [memory.step(h, x, start) for memory, h in zip(self.memories, state, strict=True)]
        return tuple(h for h, _ in both), jnp.concatenate([y for _, y in both])

    def unroll(self, state, xs, starts):
        both = [memory.unroll(h, xs, starts) for memory, h in zip(self.memories, state, strict=True)]
        return tuple(h for h, _ in both), jnp.concatenate([ys for _, ys in both], axis=1)

    @classmethod
    def example(cls, key, steps):
        traces, xs = Trace.example(key, steps)
        return cls((traces, GRU(3, 5, key=key))), xs  # pyright: ignore[reportCallIssue]

    def reference(self, xs, starts):
        return np.concatenate([memory.reference(xs, starts) for memory in self.memories], axis=1)

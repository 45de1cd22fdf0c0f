"""State memory replay: a learned window over the last inputs gates the present one before it enters a memory.

    m_t = sum_{i=0}^{w-1} K_i * u_{t-i} + c            per channel; inputs before a start count as zero
    u'_t = sigmoid(m_t) * u_t                          what the memory reads instead of u_t

| paper   | here    | shape   | meaning                                              |
|---------|---------|---------|------------------------------------------------------|
| K       | replay  | (w, in) | the learnable memory: weights of the last w inputs   |
| c       | bias    | (in,)   | where the gate stands without inputs                 |

Source: B. Qi, J. Gao, K. Zhang, D. Li, J. Liu, L. Wu, B. Zhou, "SMR: State Memory Replay for Long Sequence
Modeling", 2024, arXiv:2405.17534: adjust the input by a learned convolution with early inputs, so that the
state stays stable at sampling steps not seen in training, and the memory behind it stays a convolution.
Departures: the paper's formula could not be read here. That inputs are multiplied with a local convolution
of themselves is how the public reviews of its first version put it ("S4++", OpenReview bdnw4qjfH9); the
window's length, one filter per channel, the sigmoid and its bias are choices of this file, none of which is
confirmed. Works around any memory of vectors.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .base import AbstractMemory, AbstractWrapper
from .gru import GRU
from .window import Window


class StateMemoryReplay(AbstractWrapper):
    """The features of ``memory``, which reads inputs (in_size,) gated by the last ``window`` of them."""

    replay: Float[Array, "w in"]
    bias: Float[Array, " in"]
    memory: AbstractMemory

    def __init__(self, in_size: int, memory: AbstractMemory, window: int = 4, *, key: PRNGKeyArray):
        if window < 2:
            raise ValueError(f"window is {window}; replay needs at least 2 inputs, the present and the last")
        self.replay = jax.random.normal(key, (window, in_size)) / window**0.5
        self.bias = jnp.zeros(in_size)
        self.memory = memory

    @property
    def window(self) -> Window:
        length, in_size = self.replay.shape
        return Window(in_size, length)  # pyright: ignore[reportCallIssue]

    def init(self):
        """The last inputs but the present, oldest first, and the state of the memory."""
        return self.window.init(), self.memory.init()

    def step(self, state, x, start):
        state, ys = self.unroll(state, x[None], start[None])
        return state, ys[0]

    def unroll(self, state, xs, starts):
        recent, inner = state
        recent, seen = self.window.unroll(recent, xs, starts)
        gate = self.bias + jnp.sum(self.replay * seen.reshape(-1, *self.replay.shape), axis=1)
        inner, ys = self.memory.unroll(inner, jax.nn.sigmoid(gate) * xs, starts)
        return (recent, inner), ys

    @classmethod
    def example(cls, key, steps):
        keys = jax.random.split(key)
        return cls(3, GRU(3, 5, key=keys[0]), 4, key=keys[1]), jax.random.normal(key, (steps, 3))

    def reference(self, xs, starts):
        K, c = np.asarray(self.replay, np.float64), np.asarray(self.bias, np.float64)
        u, gated, begin = np.asarray(xs, np.float64), [], 0
        for t, start in enumerate(starts):
            begin = t if start else begin
            m = c + sum(K[i] * u[t - i] for i in range(len(K)) if t - i >= begin)
            gated.append(u[t] / (1 + np.exp(-m)))
        return self.memory.reference(np.stack(gated), starts)

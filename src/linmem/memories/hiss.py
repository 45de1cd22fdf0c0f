"""A hierarchy of two memories: a fast one over short chunks, a slow one over what the chunks came to.

    l_t = low(x_t)            erased where an episode or a chunk begins: position p_t = 0
    H   = high(l_t)           one step where a chunk ends: p_t = chunk - 1; erased where an episode begins
    y_t = [l_t, H at the last chunk's end in this episode, or 0]

with p_t = 0 at a start, p_t = p_{t-1} + 1 modulo chunk after it.

Source: R. Bhirangi, C. Wang, V. Pattabiraman, C. Majidi, A. Gupta, T. Hellebrekers, L. Pinto, "Hierarchical
State Space Models for Continuous Sequence-to-Sequence Modeling", 2024, arXiv:2402.10211, section 4: one
low-level model shared by all chunks, its last output per chunk is the input of a high-level model, which
predicts at the rate of chunks (the same in their code, raunaqbhirangi/hiss, where a chunk is 10 samples).
Departures: the paper predicts only at chunk ends; an agent acts at every step, so between ends the high
level's output is held and the low level's stands beside it. A chunk that a start cuts short is dropped.
"""

from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .base import AbstractMemory
from .gru import GRU
from .s5 import S5


class HiSS(AbstractMemory):
    """Features (low.out_size + high.out_size,); ``high`` reads the features of ``low``."""

    low: AbstractMemory
    high: AbstractMemory
    chunk: int = eqx.field(static=True)

    def __check_init__(self):
        if self.chunk < 1:
            raise ValueError(f"chunk is {self.chunk}; a chunk has at least 1 step")

    @property
    def out_size(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.low.out_size + self.high.out_size

    def init(self):
        """States of both levels, the next position, whether ``high`` must erase, and its output, held."""
        held = jnp.zeros(self.high.out_size)
        return self.low.init(), self.high.init(), jnp.zeros((), int), jnp.zeros((), bool), held

    def step(self, state, x, start):
        low, high, position, fresh, held = state
        position, fresh, held = jnp.where(start, 0, position), fresh | start, jnp.where(start, 0.0, held)
        low, fast = self.low.step(low, x, start | (position == 0))
        end = position == self.chunk - 1

        def climb(high, fresh, held):
            # vmapped, both branches run, and the derivative of this one must be finite
            x = jnp.where(end, fast, 0.0)
            high, held = self.high.step(high, x, fresh)
            return high, jnp.zeros_like(fresh), held

        high, fresh, held = jax.lax.cond(end, climb, lambda *same: same, high, fresh, held)
        return (low, high, (position + 1) % self.chunk, fresh, held), jnp.concatenate([fast, held])

    def unroll(self, state, xs, starts):
        if not len(starts):
            return state, jnp.zeros((0, self.out_size))
        low, high, position, fresh, held = state

        def place(position, start):
            position = jnp.where(start, 0, position)
            return (position + 1) % self.chunk, position

        position, positions = jax.lax.scan(place, position, starts)
        low, fast = self.low.unroll(low, xs, starts | (positions == 0))
        ends = positions == self.chunk - 1
        high, fresh, held, slow = self._climb(high, fresh, held, fast, starts, ends)
        return (low, high, position, fresh, held), jnp.concatenate([fast, slow], axis=1)

    def _climb(self, high, fresh, held, fast, starts, ends):
        """The high level, run over the chunk ends only: at most one in ``chunk`` steps, and one more."""
        steps = len(starts)
        most = (steps + self.chunk - 1) // self.chunk
        (when,) = jnp.nonzero(ends, size=most, fill_value=steps)
        real = when < steps
        begun = jnp.cumsum(starts) + fresh  # starts so far that `high` may not have seen
        begun_at_end = begun[jnp.minimum(when, steps - 1)]
        erase = begun_at_end > jnp.concatenate([jnp.zeros(1, begun.dtype), begun_at_end[:-1]])

        def advance(high, end):
            real, x, erase = end
            after, y = self.high.step(high, jnp.where(real, x, 0.0), erase)
            return jax.tree.map(lambda new, old: jnp.where(real, new, old), after, high), y

        chunks = fast[jnp.minimum(when, steps - 1)]
        high, ys = jax.lax.scan(advance, high, (real, chunks, erase))
        # What is held at t: the output at the last end so far, unless a start came after it.
        ended = jnp.cumsum(ends)
        outputs = jnp.concatenate([held[None], ys])
        began = jnp.concatenate([jnp.asarray(fresh, begun.dtype)[None], begun_at_end])
        current = began[ended] == begun
        slow = jnp.where(current[:, None], outputs[ended], 0.0)
        seen = jnp.where(ended[-1] > 0, begun_at_end[ended[-1] - 1], 0)
        return high, begun[-1] > seen, slow[-1], slow

    @classmethod
    def example(cls, key, steps):
        keys = jax.random.split(key, 3)
        memory = cls(GRU(2, 4, key=keys[0]), S5(4, 6, key=keys[1]), 3)  # pyright: ignore[reportCallIssue]
        return memory, jax.random.normal(keys[2], (steps, 2))

    def reference(self, xs, starts):
        """Each episode cut into chunks, each chunk through the low level, their ends through the high one."""
        xs, begins = (
            np.asarray(xs),
            [*np.flatnonzero(np.asarray(starts) | (np.arange(len(xs)) == 0)), len(xs)],
        )
        out = []
        for begin, end in pairwise(begins):
            episode = xs[begin:end]
            chunks = [episode[i : i + self.chunk] for i in range(0, len(episode), self.chunk)]
            low = [self.low.reference(chunk, np.arange(len(chunk)) == 0) for chunk in chunks]
            ends = [features[-1] for features in low if len(features) == self.chunk]
            high = self.high.reference(np.stack(ends), np.arange(len(ends)) == 0) if ends else None
            held = np.zeros(self.high.out_size)
            for i, features in enumerate(low):
                for p, fast in enumerate(features):
                    held = high[i] if high is not None and p == self.chunk - 1 else held
                    out.append(np.concatenate([fast, held]))
        return np.stack(out)

"""No memory: the features are the input.
What an agent with it earns is what the present observation is worth."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .base import AbstractMemory


class NoMemory(AbstractMemory):
    """Features (size,): the present input (size,), unchanged. The state is empty."""

    out_size: int = eqx.field(static=True)

    def init(self):
        return ()

    def step(self, state, x, start):
        return state, x

    def unroll(self, state, xs, starts):
        return state, xs

    @classmethod
    def example(cls, key, steps):
        return cls(3), jax.random.normal(key, (steps, 3), jnp.float32)

    def reference(self, xs, starts):
        return np.asarray(xs, np.float64)

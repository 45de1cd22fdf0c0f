"""Observed numbers shifted and scaled by their mean and spread so far, before a memory reads them.

    x'_t = clip((x_t - mean) / sqrt(variance + 1e-8), -10, 10)

It is a memory around a memory, so all who hold one (actor, learner, a loaded policy) see the same numbers.
Mean and variance are not learned: no gradient reaches them; the learner calls ``after`` between its updates.

| symbol         | code               | shape                  |
|----------------|--------------------|------------------------|
| mean, variance | ``moments``        | that of an observation |

Source: M. Andrychowicz et al., "What Matters In On-Policy Reinforcement Learning?", 2021, arXiv:2006.05990
(observation normalisation helps almost everywhere in control).
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..core.moments import Moments, merge, no_moments
from ..worlds.spaces import Box, Space
from .base import AbstractMemory, AbstractWrapper
from .stack import Encoded

LIMIT, LEAST = 10.0, 1e-8


class Normalised(AbstractWrapper):
    """``memory`` reads raw steps whose observation is an array of numbers."""

    memory: AbstractMemory
    moments: Moments

    @classmethod
    def around(cls, memory: AbstractMemory, space: Space) -> "Normalised":
        """Before anything was observed. Raises ValueError for a space of choices."""
        if not isinstance(space, Box):
            raise ValueError(f"only numbers (a Box) can be normalised; the world's observations are {space}")
        return cls(memory, no_moments(space.shape))  # pyright: ignore[reportCallIssue]

    def after(self, observations: Float[Array, "n *shape"], where: Bool[Array, " n"]) -> "Normalised":
        """The memory that knows these observations, too."""
        return eqx.tree_at(lambda m: m.moments, self, merge(self.moments, observations, where))

    def _scaled(self, x: Any) -> Any:
        mean, variance = (jax.lax.stop_gradient(part) for part in self.moments[:2])
        scaled = (x.observation - mean) / jnp.sqrt(variance + LEAST)
        return x._replace(observation=jnp.clip(scaled, -LIMIT, LIMIT))

    def step(self, state, x, start):
        return self.memory.step(state, self._scaled(x), start)

    def unroll(self, state, xs, starts):
        return self.memory.unroll(state, self._scaled(xs), starts)

    def believes(self, features):
        return self.memory.believes(features)

    @classmethod
    def example(cls, key, steps):
        memory, xs = Encoded.example(key, steps)
        made = cls.around(memory, Box((2, 2), -9.0, 9.0))
        mean, variance = jnp.array([[0.5, -1.0], [0.0, 2.0]]), jnp.array([[4.0, 0.1], [1.0, 2.0]])
        return eqx.tree_at(lambda m: m.moments, made, Moments(mean, variance, jnp.asarray(7.0))), xs

    def reference(self, xs, starts):
        mean, variance = (np.asarray(part, np.float64) for part in self.moments[:2])
        scaled = [
            np.clip((np.asarray(o, np.float64) - mean) / np.sqrt(variance + LEAST), -LIMIT, LIMIT)
            for o in xs.observation
        ]
        return self.memory.reference(xs._replace(observation=np.stack(scaled)), starts)

"""What stands around a learned memory: an encoder of raw steps before it, and a residual block about it.

Both are memories themselves, so neither agent nor rollout can tell whether they are there.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..core.projection import linear
from ..core.types import Inputs, Start
from ..worlds.base import AbstractWorld
from ..worlds.spaces import Box, Discrete, Space, vector, width
from .base import AbstractMemory, AbstractWrapper
from .gru import GRU


class Features(eqx.Module):
    """A raw step as a vector (size,): choices one-hot, boxes (images too) flattened, dictionaries joined;
    action and reward if wished.

    The slots of action and reward are zero at a start, where there is no previous step.
    """

    observation_space: Space
    action_space: Space
    action: bool = eqx.field(static=True, default=True)
    reward: bool = eqx.field(static=True, default=False)

    @property
    def size(self) -> int:
        parts = [width(self.observation_space)]
        parts += [width(self.action_space)] if self.action else []
        parts += [1] if self.reward else []
        return sum(parts)

    def __call__(self, x: Inputs, start: Start) -> Float[Array, " size"]:
        parts = [vector(self.observation_space, x.observation)]
        if self.action:
            parts.append(jnp.where(start, 0.0, vector(self.action_space, x.action)))
        if self.reward:
            parts.append(jnp.where(start, 0.0, x.reward[None]))
        return jnp.concatenate(parts)


class Encoded(AbstractWrapper):
    """A memory of vectors that reads raw steps: features -> (linear -> gelu, if there is one) -> memory."""

    features: Features
    linear: eqx.nn.Linear | None
    memory: AbstractMemory

    def _encode(self, features):
        return features if self.linear is None else jax.nn.gelu(linear(self.linear, features))

    def step(self, state, x, start):
        return self.memory.step(state, self._encode(self.features(x, start)), start)

    def unroll(self, state, xs, starts):
        features = jax.vmap(self.features)(xs, starts)
        return self.memory.unroll(state, self._encode(features), starts)

    @classmethod
    def example(cls, key, steps):
        keys = jax.random.split(key, 6)
        features = Features(Box((2, 2), -9.0, 9.0), Discrete(3), reward=True)
        memory = GRU(4, 5, key=keys[0])
        xs = Inputs(
            jax.random.normal(keys[1], (steps, 2, 2)),
            jax.random.randint(keys[2], (steps,), 0, 3),
            jax.random.normal(keys[3], (steps,)),
        )
        encoder = eqx.nn.Linear(features.size, 4, key=keys[4])
        return cls(features, encoder, memory), xs  # pyright: ignore[reportCallIssue]

    def reference(self, xs, starts):
        observation, reward = (np.asarray(a, np.float64) for a in (xs.observation, xs.reward))
        since = ~np.asarray(starts)[:, None]
        rows = np.concatenate(
            [
                observation.reshape(len(starts), -1),
                np.where(since, np.eye(3)[np.asarray(xs.action)], 0),
                np.where(since, reward[:, None], 0),
            ],
            axis=1,
        )
        assert self.linear is not None
        pre = rows @ np.asarray(self.linear.weight, np.float64).T + np.asarray(self.linear.bias, np.float64)
        return self.memory.reference(_gelu(pre), starts)


class Residual(AbstractWrapper):
    """y = u + GLU(gelu(memory(norm(u)))): the block of the state-space papers around a memory
    of equal in and out size.

    GLU(v) = (W_1 v) * sigmoid(W_2 v).
    """

    norm: eqx.nn.LayerNorm
    memory: AbstractMemory
    value: eqx.nn.Linear
    gate: eqx.nn.Linear

    def __init__(self, memory: AbstractMemory, *, key: PRNGKeyArray):
        keys = jax.random.split(key)
        size = memory.out_size
        self.norm, self.memory = eqx.nn.LayerNorm(size), memory
        self.value, self.gate = (eqx.nn.Linear(size, size, key=k) for k in keys)

    def _close(self, u, y):
        v = jax.nn.gelu(y)
        return u + linear(self.value, v) * jax.nn.sigmoid(linear(self.gate, v))

    def step(self, state, x, start):
        state, y = self.memory.step(state, self.norm(x), start)
        return state, self._close(x, y)

    def unroll(self, state, xs, starts):
        state, ys = self.memory.unroll(state, jax.vmap(self.norm)(xs), starts)
        return state, self._close(xs, ys)

    @classmethod
    def example(cls, key, steps):
        keys = jax.random.split(key, 3)
        return cls(GRU(5, 5, key=keys[0]), key=keys[1]), jax.random.normal(keys[2], (steps, 5))

    def reference(self, xs, starts):
        f = lambda a: np.asarray(a, np.float64)  # noqa: E731
        u = f(xs)
        deviation = u - u.mean(1, keepdims=True)
        normed = deviation / np.sqrt((deviation**2).mean(1, keepdims=True) + self.norm.eps)
        v = _gelu(self.memory.reference(normed * f(self.norm.weight) + f(self.norm.bias), starts))
        value = v @ f(self.value.weight).T + f(self.value.bias)
        gate = v @ f(self.gate.weight).T + f(self.gate.bias)
        return u + value / (1 + np.exp(-gate))


Layer = Callable[[int, PRNGKeyArray], AbstractMemory]
"""(size, key) -> a memory of vectors of this size, in and out."""


@dataclass(frozen=True)
class Learned:
    """A maker (world, size, key) of a learned memory: encoder, then ``layer``, in a residual block if
    ``residual``. ``hidden`` is a size of its own; 0 takes the learner's. With ``reward`` the memory reads the
    last reward beside the observation and the last action. What ``layer`` takes beside size and key can be
    set, too."""

    layer: Callable[..., AbstractMemory]
    residual: bool

    @property
    def __signature__(self) -> inspect.Signature:
        """With the layer's own options, so that a name can set them (``core/registry.py``)."""
        own = inspect.signature(self.__call__)
        *ours, _ = own.parameters.values()
        _, _, *theirs = inspect.signature(self.layer).parameters.values()
        return own.replace(parameters=[*ours, *theirs])

    def __call__(
        self,
        world: AbstractWorld,
        size: int,
        key: PRNGKeyArray,
        hidden: int = 0,
        reward: bool = False,
        **options: Any,
    ) -> Encoded:
        if hidden < 0:
            raise ValueError(f"hidden is {hidden}; it must be at least 1, or 0 for the learner's size")
        size = hidden or size
        if self.residual:
            in_key, memory_key, block_key = jax.random.split(key, 3)
            memory = Residual(self.layer(size, memory_key, **options), key=block_key)
        else:
            in_key, memory_key = jax.random.split(key)
            memory = self.layer(size, memory_key, **options)
        features = Features(world.observation_space, world.action_space, reward=reward)
        encoder = eqx.nn.Linear(features.size, size, key=in_key)
        return Encoded(features, encoder, memory)  # pyright: ignore[reportCallIssue]


def _gelu(v: np.ndarray) -> np.ndarray:
    """The tanh form that `jax.nn.gelu` takes by default."""
    return 0.5 * v * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3)))

"""An actor and a critic on one memory: raw step -> memory -> heads.
It does not know which memory it holds."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ..core.matrices import orthogonal
from ..core.types import Inputs, Start
from ..memories.base import AbstractMemory


class Head(eqx.Module):
    """linear -> tanh -> linear, with orthogonal weights; ``scale`` is the size of the last ones."""

    hidden: eqx.nn.Linear
    out: eqx.nn.Linear

    def __init__(self, in_size: int, width: int, out_size: int, scale: float, *, key: PRNGKeyArray):
        keys = jax.random.split(key)
        self.hidden = _orthogonal(in_size, width, 2**0.5, keys[0])
        self.out = _orthogonal(width, out_size, scale, keys[1])

    def __call__(self, features: Float[Array, " in"]) -> Float[Array, " out"]:
        return self.out(jnp.tanh(self.hidden(features)))


def _orthogonal(in_size: int, out_size: int, scale: float, key: PRNGKeyArray) -> eqx.nn.Linear:
    linear = eqx.nn.Linear(in_size, out_size, key=key)
    weight = orthogonal(key, (out_size, in_size), scale)
    return eqx.tree_at(lambda l: (l.weight, l.bias), linear, (weight, jnp.zeros(out_size)))


class ActorCritic(eqx.Module):
    """Logits over ``actions`` discrete actions and a value, from the features of a memory."""

    memory: AbstractMemory
    actor: Head
    critic: Head

    def __init__(self, memory: AbstractMemory, actions: int, width: int, *, key: PRNGKeyArray):
        actor_key, critic_key = jax.random.split(key)
        self.memory = memory
        self.actor = Head(memory.out_size, width, actions, 0.01, key=actor_key)
        self.critic = Head(memory.out_size, width, 1, 1.0, key=critic_key)

    def step(self, state: Any, x: Inputs, start: Start) -> tuple[Any, Float[Array, " m"], Float[Array, ""]]:
        """To act: (memory state, logits, value)."""
        state, features = self.memory.step(state, x, start)
        return state, self.actor(features), self.critic(features)[0]

    def unroll(
        self, state: Any, xs: Inputs, starts: Bool[Array, " T"]
    ) -> tuple[Any, Float[Array, "T m"], Float[Array, " T"]]:
        """To learn: (memory state, logits, values) of T steps."""
        state, features = self.memory.unroll(state, xs, starts)
        return state, jax.vmap(self.actor)(features), jax.vmap(self.critic)(features)[:, 0]

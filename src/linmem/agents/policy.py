"""An actor and a critic on one memory, or on one each: raw step -> memory -> heads.
It does not know which memory it holds."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ..core.matrices import orthogonal
from ..core.projection import linear
from ..core.types import Inputs, Start
from ..memories.base import AbstractMemory
from ..worlds.spaces import Box, Space
from .distributions import Categorical, ClippedGaussian, distribution_of


class Head(eqx.Module):
    """linear -> tanh -> linear, with orthogonal weights; ``scale`` is the size of the last ones."""

    hidden: eqx.nn.Linear
    out: eqx.nn.Linear

    def __init__(self, in_size: int, width: int, out_size: int, scale: float, *, key: PRNGKeyArray):
        keys = jax.random.split(key)
        self.hidden = _orthogonal(in_size, width, 2**0.5, keys[0])
        self.out = _orthogonal(width, out_size, scale, keys[1])

    def __call__(self, features: Float[Array, "*steps in"]) -> Float[Array, "*steps out"]:
        return linear(self.out, jnp.tanh(linear(self.hidden, features)))


def _orthogonal(in_size: int, out_size: int, scale: float, key: PRNGKeyArray) -> eqx.nn.Linear:
    layer = eqx.nn.Linear(in_size, out_size, key=key)
    weight = orthogonal(key, (out_size, in_size), scale)
    return eqx.tree_at(lambda l: (l.weight, l.bias), layer, (weight, jnp.zeros(out_size)))


Hidden = Int[Array, ""] | None
"""The index of the world's hidden state; None if it has none, or nobody tells it."""

FIRST_LOG_STD = -0.5
"""Of a continuous action, where the box of actions is [-1, 1]: wide enough to see all of it."""


class ActorCritic(eqx.Module):
    """The parameters of a distribution over actions (for discrete actions: logits) and a value, from the
    features of a memory. The spread of continuous actions is learned, and the same at every step.

    A privileged critic reads the index of the world's hidden state beside the features. Where it is not given
    (nobody knows it outside training), the value is nan. A critic with a memory of its own only takes part in
    learning (``watch``, ``unroll``); when acting the value is nan."""

    memory: AbstractMemory
    critic_memory: AbstractMemory | None
    actor: Head
    critic: Head
    log_std: Float[Array, " d"] | None
    actions: Categorical | ClippedGaussian
    hidden_states: int | None = eqx.field(static=True)

    def __init__(
        self,
        memory: AbstractMemory,
        action_space: Space,
        width: int,
        hidden_states: int | None = None,
        critic_memory: AbstractMemory | None = None,
        *,
        key: PRNGKeyArray,
    ):
        """hidden_states: how many the privileged critic tells apart; None: the critic is not privileged.
        critic_memory: the critic's own; None: it shares the actor's.

        Raises ValueError for an action space that is neither Discrete nor Box."""
        actor_key, critic_key = jax.random.split(key)
        self.memory, self.critic_memory = memory, critic_memory
        self.actions = distribution_of(action_space)
        outputs = self.actions.size
        self.log_std = None
        if isinstance(action_space, Box):
            outputs //= 2
            self.log_std = jnp.full(outputs, FIRST_LOG_STD)
        self.actor = Head(memory.out_size, width, outputs, 0.01, key=actor_key)
        self.hidden_states = hidden_states
        critic_size = (critic_memory or memory).out_size + (hidden_states or 0)
        self.critic = Head(critic_size, width, 1, 1.0, key=critic_key)

    def heads(
        self, features: Float[Array, "*steps in"], hidden: Int[Array, "*steps"] | None = None
    ) -> tuple[Float[Array, "*steps p"], Float[Array, "*steps"]]:
        """(parameters of the action's distribution, value) of the features of one step or of all."""
        out = self.actor(features)
        if self.log_std is not None:
            out = jnp.concatenate([out, jnp.broadcast_to(self.log_std, out.shape)], axis=-1)
        if self.critic_memory is not None:
            return out, jnp.full(out.shape[:-1], jnp.nan)
        return out, self.value(features, hidden)

    def value(
        self, features: Float[Array, "*steps in"], hidden: Int[Array, "*steps"] | None
    ) -> Float[Array, "*steps"]:
        """The critic's, of the features of the memory that it reads."""
        if self.hidden_states is None:
            return self.critic(features)[..., 0]
        if hidden is None:
            return jnp.full(features.shape[:-1], jnp.nan)
        truth = jax.nn.one_hot(hidden, self.hidden_states)
        return self.critic(jnp.concatenate([features, truth], axis=-1))[..., 0]

    def step(
        self, state: Any, x: Inputs, start: Start, hidden: Hidden = None
    ) -> tuple[Any, Float[Array, " p"], Float[Array, ""]]:
        """To act: (memory state, parameters, value)."""
        state, features = self.memory.step(state, x, start)
        return state, *self.heads(features, hidden)

    def watch(
        self, state: Any, xs: Inputs, starts: Bool[Array, " T"], hidden: Int[Array, " T"] | None = None
    ) -> tuple[Any, Float[Array, " T"]]:
        """(state of the critic's own memory, values) of T steps."""
        assert self.critic_memory is not None, "the critic shares the actor's memory"
        state, features = self.critic_memory.unroll(state, xs, starts)
        return state, self.value(features, hidden)

    def unroll(
        self,
        state: Any,
        xs: Inputs,
        starts: Bool[Array, " T"],
        hidden: Int[Array, " T"] | None = None,
        critic_state: Any = None,
    ) -> tuple[Any, Float[Array, "T p"], Float[Array, " T"]]:
        """To learn: (memory state, parameters, values) of T steps. critic_state: of its own memory."""
        state, features = self.memory.unroll(state, xs, starts)
        parameters, values = self.heads(features, hidden)
        if self.critic_memory is not None:
            _, values = self.watch(critic_state, xs, starts, hidden)
        return state, parameters, values

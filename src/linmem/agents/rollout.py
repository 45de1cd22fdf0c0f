"""Acting: many copies of a world side by side, each with its memory, for a number of steps.

How an episode ends:

- terminated: the next slot begins a new episode (``start``).
- truncated: the final observation has a value that the learner needs, seen with the memory of its episode. So
  the next slot holds it as an ordinary input of the same episode, with ``acts`` False: its value is computed
  like any other, when acting and when learning, and nothing else is done there. The slot after it begins the
  new episode.

No slot mixes two episodes, and no second pass over the memory is needed for bootstrapping.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ..core.types import Inputs, Start
from ..memories.base import AbstractMemory
from ..worlds.base import AbstractWorld
from ..worlds.spaces import zeros
from .policy import ActorCritic, Hidden


class Actor(NamedTuple):
    """One copy of the world with its agent, between two slots.
    ``inputs`` and ``start`` are the next slot's."""

    world: Any
    memory: Any
    inputs: Inputs
    start: Start
    final: Bool[Array, ""]  # the next slot holds the final observation of a truncated episode
    earned: Float[Array, ""]  # reward of the present episode so far


class Slot(NamedTuple):
    """What happened at one step. Leading axes (time, actors).

    ``acts`` is False where there was no decision (see above); action, log_prob and reward mean nothing there.
    ``action`` is what the policy drew: a continuous one is executed clipped (``distributions.py``).
    ``returns`` is the undiscounted return where an episode ended, NaN elsewhere. ``hidden`` is the world's
    hidden state at the observation, None for a world without tables.
    """

    inputs: Inputs
    start: Start
    acts: Bool[Array, "..."]
    action: Any
    log_prob: Float[Array, "..."]
    value: Float[Array, "..."]
    reward: Float[Array, "..."]
    terminated: Bool[Array, "..."]
    truncated: Bool[Array, "..."]
    returns: Float[Array, "..."]
    hidden: Any


def begin(policy: ActorCritic, world: AbstractWorld, key: PRNGKeyArray) -> Actor:
    """A fresh copy of the world with a fresh memory."""
    state, observation = world.init(key)
    false = jnp.asarray(False)
    return Actor(state, policy.memory.init(), _first_inputs(world, observation), ~false, false, jnp.zeros(()))


def blank_memory(memory: AbstractMemory, count: int) -> Any:
    """The memory's state before anything was seen, for each of ``count`` copies."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), memory.init())


def _first_inputs(world: AbstractWorld, observation: Any) -> Inputs:
    return Inputs(observation, jnp.asarray(zeros(world.action_space)), jnp.zeros(()))


class Choice(NamedTuple):
    """What the policy makes of one slot's inputs. ``executed`` is the action that the world gets."""

    memory: Any
    action: Any
    executed: Any
    log_prob: Float[Array, ""]
    value: Float[Array, ""]


def choose(
    policy: ActorCritic,
    memory: Any,
    inputs: Inputs,
    start: Start,
    key: PRNGKeyArray,
    hidden: Hidden = None,
) -> Choice:
    """Draw one action."""
    memory, parameters, value = policy.step(memory, inputs, start, hidden)
    action = policy.actions.sample(key, parameters)
    log_prob = policy.actions.log_prob(parameters, action)
    return Choice(memory, action, policy.actions.execute(action), log_prob, value)


def act(policy: ActorCritic, world: AbstractWorld, actor: Actor, key: PRNGKeyArray) -> tuple[Actor, Slot]:
    """One slot of one copy."""
    choose_key, step_key, init_key = jax.random.split(key, 3)
    hidden = world.hidden(actor.world)
    chosen = choose(policy, actor.memory, actor.inputs, actor.start, choose_key, hidden)

    state, outcome = world.step(step_key, actor.world, chosen.executed)
    acts = ~actor.final
    terminated = acts & outcome.terminated
    truncated = acts & outcome.truncated & ~outcome.terminated
    reward = jnp.where(acts, outcome.reward, 0.0)
    earned = actor.earned + reward

    renew = terminated | actor.final
    fresh_state, fresh_observation = world.init(init_key)
    fresh_inputs = _first_inputs(world, fresh_observation)
    state, inputs = jax.tree.map(
        lambda new, old: jnp.where(renew, new, old),
        (fresh_state, fresh_inputs),
        (state, Inputs(outcome.observation, chosen.executed, reward)),
    )
    slot = Slot(
        inputs=actor.inputs,
        start=actor.start,
        acts=acts,
        action=chosen.action,
        log_prob=chosen.log_prob,
        value=chosen.value,
        reward=reward,
        terminated=terminated,
        truncated=truncated,
        returns=jnp.where(terminated | truncated, earned, jnp.nan),
        hidden=hidden,
    )
    return Actor(state, chosen.memory, inputs, renew, truncated, jnp.where(renew, 0.0, earned)), slot


def collect(
    policy: ActorCritic, world: AbstractWorld, actors: Actor, key: PRNGKeyArray, steps: int
) -> tuple[Actor, Slot]:
    """``steps`` slots of all actors (leading axis): (actors, slots with leading axes (steps, actors))."""
    count = actors.start.shape[0]

    def body(actors, key):
        keys = jax.random.split(key, count)
        return jax.vmap(act, in_axes=(None, None, 0, 0))(policy, world, actors, keys)

    return jax.lax.scan(body, actors, jax.random.split(key, steps))

"""Acting in worlds that step outside JAX: the rollout of ``rollout.py`` with the world's step on the host.

Two compiled functions stand about every step of the copies: one chooses all actions, one makes the slot and
the next inputs. An episode that ended, either way, is followed by a slot that holds its final observation
and does not act (``rollout.py`` has it for truncated ones only); while it passes, the copy begins its next
episode.
"""

import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from ..core.types import Inputs
from ..worlds.base import AbstractCopies, AbstractHostWorld, Outcome
from ..worlds.spaces import zeros
from .policy import ActorCritic
from .rollout import Actor, Choice, Slot, blank_memory, choose


def blank(policy: ActorCritic, world: AbstractHostWorld, count: int) -> Actor:
    """Actors whose copies have not begun: every leaf has the form it will have."""
    memory = blank_memory(policy.memory, count)
    return _first(memory, jax.tree.map(jnp.asarray, zeros(world.observation_space, count)), world, (count,))


def _first(memory: Any, observation: Any, world: AbstractHostWorld, batch: tuple[int, ...]) -> Actor:
    nothing, false = np.zeros(batch, np.float32), np.zeros(batch, bool)
    given = (observation, zeros(world.action_space, *batch), nothing)
    inputs, rest = jax.tree.map(jnp.asarray, (given, (~false, false, nothing)))
    return Actor((), memory, Inputs(*inputs), *rest)


def follow(actor: Actor, chosen: Choice, outcome: Outcome) -> tuple[Actor, Slot]:
    """One slot of one copy, after its world was stepped."""
    acts = ~actor.final
    terminated = acts & outcome.terminated
    truncated = acts & outcome.truncated & ~outcome.terminated
    over = terminated | truncated
    reward = jnp.where(acts, outcome.reward, 0.0)
    earned = actor.earned + reward
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
        returns=jnp.where(over, earned, jnp.nan),
        hidden=None,
    )
    action = jnp.where(acts, chosen.executed, jnp.zeros_like(chosen.executed))
    inputs = Inputs(outcome.observation, action, reward)
    return Actor((), chosen.memory, inputs, actor.final, over, jnp.where(acts, earned, 0.0)), slot


class Rollout:
    """``actors`` copies for each seed, and how all seeds' agents act in them for ``steps`` slots.

    Leading axes are (seed, actor) in actors, (seed, time, actor) in slots.
    """

    def __init__(self, world: AbstractHostWorld, actors: int, steps: int):
        self.world, self.actors, self.steps = world, actors, steps
        self._copies: AbstractCopies | None = None

        def choose_all(policy, actor, key, t):
            keys = jax.random.split(jax.random.fold_in(key, t), actors)
            each = jax.vmap(choose, in_axes=(None, 0, 0, 0, 0))
            return each(policy, actor.memory, actor.inputs, actor.start, keys)

        self._choose = jax.jit(jax.vmap(choose_all, in_axes=(0, 0, 0, None)))
        self._follow = jax.jit(jax.vmap(jax.vmap(follow)))

    def begin(self, actors: Actor, key: Key[Array, " seeds"]) -> Actor:
        """Begin an episode in every copy, seeded by ``key``; at later calls the actors as they are."""
        if self._copies is not None:
            return actors
        batch = actors.start.shape
        self._copies = self.world.copies(int(np.prod(batch)))
        weakref.finalize(self, self._copies.close)
        seeds = jax.vmap(lambda k: jax.random.bits(jax.random.fold_in(k, self.steps), (self.actors,)))(key)
        observation = self._copies.reset(np.ravel(seeds).tolist())
        return _first(actors.memory, _split(observation, batch), self.world, batch)

    def collect(self, policy: ActorCritic, actors: Actor, key: Key[Array, " seeds"]) -> tuple[Actor, Slot]:
        """``steps`` slots of all copies."""
        assert self._copies is not None, "begin first"
        slots = []
        for t in range(self.steps):
            chosen = self._choose(policy, actors, key, t)
            executed = np.asarray(chosen.executed)
            outcome = self._copies.step(executed.reshape(-1, *executed.shape[2:]))
            actors, slot = self._follow(actors, chosen, _split(outcome, actors.start.shape))
            slots.append(jax.tree.map(np.asarray, slot))
        return actors, jax.tree.map(lambda *parts: np.stack(parts, axis=1), *slots)

    def form(self, policy: ActorCritic, actors: Actor) -> Slot:
        """The shapes and types of ``collect``'s slots."""

        def one(policy, actors):
            keys = jax.vmap(jax.random.key)(jnp.zeros(len(actors.start), jnp.uint32))
            chosen = self._choose(policy, actors, keys, 0)
            outcome = Outcome(actors.inputs.observation, actors.earned, actors.final, actors.final)
            return self._follow(actors, chosen, outcome)[1]

        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((x.shape[0], self.steps, *x.shape[1:]), x.dtype),
            jax.eval_shape(one, policy, actors),
        )


def _split(tree: Any, batch: tuple[int, ...]) -> Any:
    return jax.tree.map(lambda x: x.reshape(*batch, *x.shape[1:]), tree)

"""Our worlds as gymnax environments (version 1.x). Importing this module needs gymnax."""

from typing import Any

import jax.numpy as jnp
from flax import struct
from gymnax import registration
from gymnax.environments import environment, spaces

from . import WORLDS, title
from .base import AbstractHostWorld, AbstractWorld
from .spaces import Box, Dict, Discrete, MultiDiscrete, Space


@struct.dataclass
class EnvState(environment.EnvState):
    """``time`` counts steps; ``world`` is the world's own state; ``truncated`` is what its last step said."""

    time: Any
    world: Any
    truncated: Any


def _state(time: Any, world: Any, truncated: Any) -> EnvState:
    return EnvState(time, world, truncated)  # pyright: ignore[reportCallIssue]


class GymnaxEnvironment(environment.Environment):
    """A world as a gymnax environment. ``step`` resets by itself, ``step_env`` does not, as gymnax has it.

    Raises ValueError for a world that steps outside JAX and for spaces that gymnax has no word for.
    """

    def __init__(self, world: AbstractWorld, name: str | None = None):
        if isinstance(world, AbstractHostWorld):
            raise ValueError(f"{type(world).__name__} steps outside JAX, so it is no gymnax environment")
        self.world = world
        self._name = name or type(world).__name__
        self._observation_space = to_gymnax_space(world.observation_space)
        self._action_space = to_gymnax_space(world.action_space)

    @property
    def name(self) -> str:
        return self._name

    @property
    def default_params(self) -> environment.EnvParams:
        return environment.EnvParams(
            max_steps_in_episode=jnp.iinfo(jnp.int32).max
        )  # the world has its own limit

    @property
    def num_actions(self) -> int:
        space = self.world.action_space
        return space.n if isinstance(space, Discrete) else space.shape[0]

    def reset_env(self, key, params):
        state, observation = self.world.init(key)
        return observation, _state(jnp.zeros((), jnp.int32), state, jnp.asarray(False))

    def step_env(self, key, state, action, params):
        space = self.world.action_space
        world, outcome = self.world.step(key, state.world, jnp.asarray(action, space.dtype))
        after = _state(state.time + 1, world, outcome.truncated)
        return outcome.observation, after, outcome.reward, outcome.terminated, {}

    def is_truncated(self, state, params):
        return state.truncated | (state.time >= params.max_steps_in_episode)

    def action_space(self, params=None):
        return self._action_space

    def observation_space(self, params):
        return self._observation_space


def to_gymnax_space(space: Space) -> spaces.Space:
    """The same space in gymnax. Raises ValueError for MultiDiscrete, which gymnax does not have."""
    match space:
        case Discrete(n):
            return spaces.Discrete(n)
        case Box(shape, low, high):
            return spaces.Box(low, high, shape, jnp.float32)
        case Dict(parts):
            return spaces.Dict({name: to_gymnax_space(part) for name, part in parts})
        case MultiDiscrete():
            raise ValueError(f"gymnax has no space for {space}")


def register() -> list[str]:
    """Register every world of this library as ``<Name>-linmem``; the ids."""
    made = {f"{title(entry.name)}-linmem": entry.make for entry in WORLDS}
    for id in made.keys() - set(registration.registered_envs):
        registration.register(id, lambda id=id: GymnaxEnvironment(made[id](), id))
    return list(made)


def as_gymnax(world: AbstractWorld) -> tuple[GymnaxEnvironment, Any]:
    """(environment, default parameters), as ``gymnax.make`` gives them."""
    made = GymnaxEnvironment(world)
    return made, made.default_params

"""gymnax environments, and anything of their form, as worlds.

Used are ``reset_env``, ``step_env`` (which do not reset by themselves), ``observation_space`` and
``action_space``. From version 1.0 on the environment tells its time limit in ``is_truncated``. Before,
``done`` mixed both ends: there an episode is truncated if it is done at ``params.max_steps_in_episode``, and
terminated if it is done earlier.
"""

import importlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from .base import AbstractWorld, Outcome
from .spaces import Box, Dict, Discrete, Space


class GymnaxWorld(AbstractWorld):
    """environment: of gymnax's form. params: its parameters, by default its own default.

    Observations of any number type become int32 (Discrete) or float32 (Box, without bounds: some environments
    declare narrower ones than they keep). Box actions with finite bounds are [-1, 1] here and are stretched
    to the environment's bounds. Raises ValueError for other spaces than Discrete, Box, and Dict and Tuple of
    these.
    """

    environment: Any = eqx.field(static=True)
    params: Any
    observation_space: Space = eqx.field(static=True)  # pyright: ignore[reportIncompatibleVariableOverride]
    action_space: Discrete | Box = eqx.field(static=True)  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, environment: Any, params: Any = None):
        self.environment = environment
        self.params = environment.default_params if params is None else params
        name = type(environment).__name__
        self.observation_space = _unbounded(_space(name, environment.observation_space(self.params)))
        action_space = _space(name, environment.action_space(self.params))
        if not isinstance(action_space, Discrete | Box):
            raise ValueError(
                f"{name} takes actions {action_space}; policies here act on Discrete or Box actions"
            )
        if isinstance(action_space, Box) and np.isfinite([action_space.low, action_space.high]).all():
            action_space = Box(action_space.shape, -1.0, 1.0)
        self.action_space = action_space

    def init(self, key: PRNGKeyArray) -> tuple[Any, Any]:
        observation, state = self.environment.reset_env(key, self.params)
        return _strong(state), _observation(self.observation_space, observation)

    def step(self, key: PRNGKeyArray, state: Any, action: Any) -> tuple[Any, Outcome]:
        observation, after, reward, done, _ = self.environment.step_env(
            key, state, self._stretched(action), self.params
        )
        if hasattr(self.environment, "is_truncated"):
            terminated, truncated = done, self.environment.is_truncated(after, self.params)
        else:
            at_limit = after.time >= getattr(self.params, "max_steps_in_episode", jnp.inf)
            terminated, truncated = done & ~at_limit, done & at_limit
        terminated = jnp.asarray(terminated, bool).reshape(())
        truncated = jnp.asarray(truncated, bool).reshape(()) & ~terminated
        outcome = Outcome(
            _observation(self.observation_space, observation),
            jnp.asarray(reward, jnp.float32).reshape(()),
            terminated,
            truncated,
        )
        # The state keeps the types it began with.
        form = jax.eval_shape(lambda key: self.init(key)[0], key)
        return jax.tree.map(lambda like, leaf: jnp.asarray(leaf, like.dtype), form, after), outcome

    def _stretched(self, action: Any) -> Any:
        space = self.environment.action_space(self.params)
        if isinstance(self.action_space, Box) and np.isfinite(self.action_space.low):
            low, high = jnp.asarray(space.low), jnp.asarray(space.high)
            return jnp.clip(low + (high - low) * (action + 1) / 2, low, high)
        return action


def make(name: str) -> GymnaxWorld:
    """The world of a registered gymnax id, or of ``module:Class``, an environment of gymnax's form anywhere.

    Raises ImportError naming what to install, and ValueError for an unknown id and for what is no such class.
    """
    module, colon, attribute = name.partition(":")
    if colon:
        try:
            made = getattr(importlib.import_module(module), attribute)
            # The name may come from a run folder, which must not choose any function to call.
            right = isinstance(made, type) and hasattr(made, "step_env")
            world = GymnaxWorld(made()) if right else None
        except Exception as error:  # whatever happens in somebody's module or class
            raise ValueError(f"cannot make world 'gymnax:{name}': {error}") from error
        if world is None:
            raise ValueError(f"'gymnax:{name}' is no class with step_env; name one as gymnax:module:Class")
        return world
    gymnax = import_gymnax(f"world 'gymnax:{name}'")
    if name not in gymnax.registered_envs:
        raise ValueError(f"unknown world 'gymnax:{name}'; known: {', '.join(gymnax.registered_envs)}")
    return GymnaxWorld(*gymnax.make(name))


def import_gymnax(why: str) -> Any:
    """The module; ImportError says what to install."""
    try:
        return importlib.import_module("gymnax")
    except ImportError as error:
        raise ImportError(f'{why} needs gymnax: pip install "linmem[gymnax]" ({error})') from error


def _space(name: str, space: Any) -> Space:
    """By the names of the classes, so that what only looks like gymnax is read too."""
    match type(space).__name__:
        case "Discrete":
            return Discrete(int(space.n))
        case "Box":
            shape = space.shape if isinstance(space.shape, tuple) else (space.shape,)
            return Box(tuple(map(int, shape)), _bound(np.min(space.low)), _bound(np.max(space.high)))
        case "Dict":
            return Dict({str(k): _space(name, part) for k, part in space.spaces.items()})
        case "Tuple":
            return Dict({str(k): _space(name, part) for k, part in enumerate(space.spaces)})
    raise ValueError(
        f"{name} has the space {space}, which is not handled; known: Discrete, Box, Dict and Tuple of these"
    )


def _unbounded(space: Space) -> Space:
    match space:
        case Box(shape):
            return Box(shape, -np.inf, np.inf)
        case Dict(parts):
            return Dict({name: _unbounded(part) for name, part in parts})
    return space


def _bound(value: Any) -> float:
    """gymnax writes "no bound" as the largest float32."""
    largest = np.finfo(np.float32).max
    return float(value) if abs(value) < largest else float(np.sign(value) * np.inf)


def _observation(space: Space, value: Any) -> Any:
    """In the declared form."""
    if isinstance(space, Dict):
        if not hasattr(value, "keys"):
            value = value._asdict() if hasattr(value, "_asdict") else dict(enumerate(value))
        value = {str(k): part for k, part in value.items()}
        return {name: _observation(part, value[name]) for name, part in space.parts}
    return jnp.asarray(value, space.dtype).reshape(space.shape)


def _strong(tree: Any) -> Any:
    """The same arrays without JAX's weak types, so that a loop can carry them."""
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, jnp.asarray(x).dtype), tree)

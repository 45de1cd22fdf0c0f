"""Our worlds as Gymnasium environments. Importing this module needs gymnasium, and registers them:

    import gymnasium, linmem.worlds.as_gymnasium
    gymnasium.make("linmem/RingWorld-v0")

or in one line, ``gymnasium.make("linmem.worlds.as_gymnasium:linmem/RingWorld-v0")``.
"""

from typing import Any, ClassVar

import gymnasium
import jax
import numpy as np
from gymnasium import spaces

from . import WORLDS, title
from .base import AbstractHostWorld, AbstractWorld
from .spaces import Box, Dict, Discrete, MultiDiscrete, Space, member


class GymnasiumEnv(gymnasium.Env):
    """A world as a Gymnasium environment: NumPy in and out, seeded by ``reset(seed=...)``.

    world: a world, or the name of a registered one. ``info["hidden"]`` is the hidden state, if there are
    tables. An action of another form than the space's raises ValueError.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(self, world: AbstractWorld | str):
        made: AbstractWorld = WORLDS[world].make() if isinstance(world, str) else world
        if isinstance(made, AbstractHostWorld):
            raise ValueError(f"{type(made).__name__} is a Gymnasium environment already; use that")
        self.world = made
        self.observation_space = to_gymnasium_space(made.observation_space)
        self.action_space = to_gymnasium_space(made.action_space)
        self._state: Any = None

        def init(seed):
            key, init_key = jax.random.split(jax.random.key(seed))
            state, observation = made.init(init_key)
            return (key, state), observation, made.hidden(state)

        def step(state, action):
            key, step_key = jax.random.split(state[0])
            after, outcome = made.step(step_key, state[1], action)
            return (key, after), outcome, made.hidden(after)

        self._init, self._step = jax.jit(init), jax.jit(step)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        drawn = self.np_random.integers(2**32, dtype=np.uint32)
        self._state, observation, hidden = self._init(drawn)
        return to_numpy(self.world.observation_space, observation), _info(hidden)

    def step(self, action: Any):
        if self._state is None:
            raise gymnasium.error.ResetNeeded("call reset before step")
        action = member(self.world.action_space, action, "action")
        self._state, outcome, hidden = self._step(self._state, action)
        return (
            to_numpy(self.world.observation_space, outcome.observation),
            float(outcome.reward),
            bool(outcome.terminated),
            bool(outcome.truncated),
            _info(hidden),
        )


def _info(hidden: Any) -> dict[str, Any]:
    return {} if hidden is None else {"hidden": int(hidden)}


def to_numpy(space: Space, value: Any) -> Any:
    """A member as Gymnasium has it."""
    if isinstance(space, Dict):
        return {name: to_numpy(part, value[name]) for name, part in space.parts}
    return np.int64(value) if isinstance(space, Discrete) else np.asarray(value)


def to_gymnasium_space(space: Space) -> spaces.Space:
    """The same space in Gymnasium."""
    match space:
        case Discrete(n):
            return spaces.Discrete(n)
        case Box(shape, low, high):
            return spaces.Box(low, high, shape, np.float32)
        case MultiDiscrete(counts, shape):
            return spaces.MultiDiscrete(np.reshape(counts, shape), dtype=np.int32)
        case Dict(parts):
            return spaces.Dict({name: to_gymnasium_space(part) for name, part in parts})


for _entry in WORLDS:
    _id = f"linmem/{title(_entry.name)}-v0"
    if _id not in gymnasium.registry:
        gymnasium.register(_id, entry_point=GymnasiumEnv, kwargs={"world": _entry.name})  # pyright: ignore[reportArgumentType]

"""A linear filter's features beside the observations of a Gymnasium environment. Importing this module needs
gymnasium.

    env = LinearFilterWrapper(env, NumpyFilter.alf(model, delta=0.05))

A learner without memory (a plain multilayer perceptron of any library) then sees a summary of the whole past.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from .numpy_filter import NumpyFilter


class LinearFilterWrapper(gymnasium.Wrapper):
    """Observations are float32 vectors: the environment's own, flattened (discrete ones one-hot), then the
    filter's features.

    The filter reads the environment's observations and actions as they are; one environment, one filter.
    Raises ValueError for an environment whose observations cannot be flattened into numbers.
    """

    def __init__(self, env: gymnasium.Env, filter: NumpyFilter):
        super().__init__(env)
        try:
            flat = spaces.flatten_space(env.observation_space)
        except NotImplementedError as error:
            raise ValueError(f"{env.observation_space} cannot be flattened; it needs numbers only") from error
        if not isinstance(flat, spaces.Box):
            raise ValueError(
                f"{env.observation_space} flattens to {flat}; it needs a fixed number of numbers"
            )
        self._filter = filter
        low, high = (np.full(filter.size, bound, np.float32) for bound in (filter.low, filter.high))
        self.observation_space = spaces.Box(
            np.concatenate([flat.low.astype(np.float32), low]),
            np.concatenate([flat.high.astype(np.float32), high]),
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        observation, info = self.env.reset(seed=seed, options=options)
        self._filter.reset()
        return self._joined(observation, None), info

    def step(self, action: Any):
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._joined(observation, action), reward, terminated, truncated, info

    def _joined(self, observation: Any, action: Any) -> np.ndarray:
        own = spaces.flatten(self.env.observation_space, observation)
        return np.concatenate([np.asarray(own, np.float32), self._filter(observation, action)])

"""Gymnasium environments as worlds: stepped on the host, many copies at a time.

Spaces are translated, and values with them, so that every agent and memory sees only this library's spaces:

| Gymnasium                            | here                                                           |
|--------------------------------------|----------------------------------------------------------------|
| Discrete, MultiDiscrete, MultiBinary | Discrete, MultiDiscrete, counted from 0                        |
| Box of floats                        | Box of float32 without bounds: not every environment keeps its |
| Box of uint8 over 0 ... 255 (images) | Box of float32 in [0, 1]                                       |
| Box of other integers                | Box of float32                                                 |
| Dict, Tuple                          | Dict; a tuple's names are 0, 1, ...                            |
| text in a Dict                       | left out, with a warning                                       |
| MiniGrid's image of codes            | MultiDiscrete: object, colour and state are names, not amounts |
| MultiDiscrete actions                | Discrete over all combinations, up to 4096                     |
| Box actions, finite bounds           | Box in [-1, 1], stretched to each entry's bounds               |
"""

import importlib
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np

from .base import AbstractCopies, AbstractHostWorld, Outcome
from .spaces import Box, Dict, Discrete, MultiDiscrete, Space, formed, keys_of

FAMILIES = {"popgym": "popgym", "MiniGrid": "minigrid", "BabyAI": "minigrid"}
"""What to import before an id that begins so is known."""
MOST_COMBINED_ACTIONS = 4096


class Translation(NamedTuple):
    """A space here, and how values cross: observations (batch, ...) come in, actions (batch, ...) go out."""

    space: Space
    convert: Callable[[Any], Any]


class GymnasiumWorld(AbstractHostWorld):
    """A Gymnasium environment by its id, as ``gymnasium.make`` takes it (also ``module:id``).

    The copies run in one process, in Gymnasium's autoreset mode NEXT_STEP. ``make_copies``, if given, makes
    another vector environment of so many copies, which must use that mode. Raises ImportError naming what to
    install and ValueError for an id that is not known and for spaces that cannot be translated.
    """

    id: str = eqx.field(static=True)
    observations: Translation = eqx.field(static=True)
    actions: Translation = eqx.field(static=True)
    make_copies: Callable[[int], Any] = eqx.field(static=True)

    def __init__(self, id: str, make_copies: Callable[[int], Any] | None = None):
        self.id = id
        self.make_copies = make_copies or (lambda count: _make_copies(id, count))
        vector = self.make_copies(1)
        self.observations = observation_translation(id, vector.single_observation_space)
        self.actions = action_translation(id, vector.single_action_space)
        vector.close()

    @property
    def observation_space(self) -> Space:
        return self.observations.space

    @property
    def action_space(self) -> Space:
        return self.actions.space

    def copies(self, count: int) -> "GymnasiumCopies":
        return GymnasiumCopies(self.make_copies(count), self.observations, self.actions, self.id)

    def receive(self, observation: Any) -> Any:
        """One observation of the environment in the form of ``observation_space``. Raises ValueError naming
        what of it has another form."""
        one = _one(self.observation_space, observation, "observation")
        return jax.tree.map(lambda x: x[0], self.observations.convert(one))

    def send(self, action: np.ndarray) -> Any:
        """One member of ``action_space`` as an action of the environment."""
        return self.actions.convert(action[None])[0]


class GymnasiumCopies(AbstractCopies):
    """A Gymnasium vector environment in autoreset mode NEXT_STEP. Raises ValueError if it has another
    mode."""

    def __init__(self, vector: Any, observations: Translation, actions: Translation, id: str):
        mode = vector.metadata.get("autoreset_mode")
        if getattr(mode, "value", mode) not in ("NextStep", None):
            raise ValueError(
                f"the vector environment of '{id}' has autoreset mode {mode}; make it with "
                "AutoresetMode.NEXT_STEP, so that the final observation of an episode is seen"
            )
        self._vector, self._observations, self._actions = vector, observations, actions

    def reset(self, seeds: list[int]) -> Any:
        return self._observations.convert(self._vector.reset(seed=seeds)[0])

    def step(self, actions: np.ndarray) -> Outcome:
        observation, reward, terminated, truncated, _ = self._vector.step(self._actions.convert(actions))
        ends = np.asarray(terminated), np.asarray(truncated)
        return Outcome(self._observations.convert(observation), np.asarray(reward, np.float32), *ends)  # pyright: ignore[reportArgumentType]

    def close(self) -> None:
        self._vector.close()


def _one(space: Space, value: Any, name: str) -> Any:
    """With an axis for copies. What has another form is refused here: a translation would cast it."""
    if not isinstance(space, Dict):
        return formed(space, value, name)[None]
    value = dict(enumerate(value)) if isinstance(value, tuple) else value
    keys = keys_of(space, value, name)
    return {keys[part]: _one(of, value[keys[part]], f"{name}['{part}']") for part, of in space.parts}


def import_gymnasium(why: str) -> Any:
    """The module; ImportError says what to install."""
    try:
        return importlib.import_module("gymnasium")
    except ImportError as error:
        raise ImportError(f'{why} needs gymnasium: pip install "linmem[gym]"') from error


def _make_copies(id: str, count: int) -> Any:
    gymnasium = import_gymnasium(f"world 'gym:{id}'")
    family = FAMILIES.get(id.split("-")[0])
    if family is not None:
        try:
            importlib.import_module(family)
        except ImportError as error:
            raise ImportError(f"world 'gym:{id}' needs {family}: pip install \"linmem[gym]\"") from error
    mode = gymnasium.vector.AutoresetMode.NEXT_STEP
    try:
        return gymnasium.make_vec(
            id, num_envs=count, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}
        )
    except Exception as error:  # whatever happens while a module of somebody's is imported
        raise ValueError(
            f"cannot make world 'gym:{id}': {error}. Ids of other packages are written gym:module:id"
        ) from error


def observation_translation(id: str, space: Any) -> Translation:
    """Raises ValueError for a space that no memory here can read."""
    spaces = import_gymnasium("a Gymnasium space").spaces
    if isinstance(space, spaces.Discrete):
        first = int(space.start)
        return Translation(Discrete(int(space.n)), lambda x: (np.asarray(x) - first).astype(np.int32))
    if isinstance(space, spaces.MultiDiscrete):
        first = np.asarray(space.start)
        counts = tuple(int(n) for n in space.nvec.ravel())
        return Translation(MultiDiscrete(counts, space.shape), lambda x: (x - first).astype(np.int32))
    if isinstance(space, spaces.MultiBinary):
        counts = (2,) * math.prod(space.shape)
        return Translation(MultiDiscrete(counts, tuple(space.shape)), lambda x: x.astype(np.int32))
    if isinstance(space, spaces.Box):
        return _box(id, space)
    if isinstance(space, spaces.Dict | spaces.Tuple):
        named = dict(space.items()) if isinstance(space, spaces.Dict) else dict(enumerate(space))
        parts = {}
        for name, part in named.items():
            if part.dtype is not None and part.dtype.kind == "U":
                warnings.warn(f"'{id}': the text '{name}' of the observation is left out", stacklevel=2)
                continue
            parts[name] = observation_translation(id, part)
        return Translation(
            Dict({str(name): part.space for name, part in parts.items()}),
            lambda x: {str(name): part.convert(x[name]) for name, part in parts.items()},
        )
    raise ValueError(
        f"'{id}' observes {type(space).__name__}, which no memory here reads; known: Discrete, "
        "MultiDiscrete, MultiBinary, Box, and Dict and Tuple of these. Change it with a Gymnasium wrapper"
    )


def _box(id: str, space: Any) -> Translation:
    image = space.dtype == np.uint8 and (space.low == 0).all() and (space.high == 255).all()
    if image and id.split("-")[0] in ("MiniGrid", "BabyAI") and space.shape[-1] == 3:
        names = importlib.import_module("minigrid.core.constants")
        # The last channel is a door's state, or the direction of the agent, of which there are four.
        channels = (len(names.OBJECT_TO_IDX), len(names.COLOR_TO_IDX), max(4, len(names.STATE_TO_IDX)))
        counts = channels * math.prod(space.shape[:-1])
        return Translation(MultiDiscrete(counts, space.shape), lambda x: x.astype(np.int32))
    if image:
        return Translation(Box(space.shape, 0.0, 1.0), lambda x: x.astype(np.float32) / np.float32(255))
    return Translation(Box(space.shape, -np.inf, np.inf), lambda x: x.astype(np.float32))


def action_translation(id: str, space: Any) -> Translation:
    """Raises ValueError for a space that no policy here can act in."""
    spaces = import_gymnasium("a Gymnasium space").spaces
    if isinstance(space, spaces.Discrete):
        first = int(space.start)
        return Translation(Discrete(int(space.n)), lambda a: np.asarray(a, np.int64) + first)
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        counts, first = tuple(int(n) for n in space.nvec), np.asarray(space.start)
        if math.prod(counts) > MOST_COMBINED_ACTIONS:
            raise ValueError(
                f"'{id}' has {math.prod(counts)} combinations of actions; at most "
                f"{MOST_COMBINED_ACTIONS} are handled. Change it with a Gymnasium action wrapper"
            )
        return Translation(
            Discrete(math.prod(counts)), lambda a: np.stack(np.unravel_index(a, counts), axis=-1) + first
        )
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        low, high, dtype = space.low, space.high, space.dtype
        if np.isfinite(low).all() and np.isfinite(high).all():
            centre, half = (low + high) / 2, (high - low) / 2
            return Translation(
                Box(space.shape, -1.0, 1.0),
                lambda a: np.clip(centre + half * a, low, high).astype(dtype),
            )
        if np.isinf(low).all() and np.isinf(high).all():
            return Translation(Box(space.shape, -np.inf, np.inf), lambda a: a.astype(dtype))
    raise ValueError(
        f"'{id}' takes actions {space}, which no policy here gives; known: Discrete, MultiDiscrete of "
        "one axis, and Box of floats with all bounds finite or none. Change it with a Gymnasium wrapper"
    )

"""Fresh episodes of trained agents: what they earn, and one episode to look at."""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from ..measures.decoding import decode
from ..worlds import resolve
from ..worlds.model_files import is_model_name, read_model
from .run import episode_returns, episodes, first_episode, load_policy, mean_rewards
from .store import Folder, FolderError

EVALUATION = 2  # folded into the run's seed: other random numbers than training (0) and its evaluation (1)


class Evaluation(NamedTuple):
    """One memory's agents. ``reward`` is the mean per step and ``returns`` the mean undiscounted return of
    an episode, one per seed. Each copy of the world counts with the same number of episodes, so that short
    ones are not favoured; ``episodes`` is how many that makes per seed, and ``returns`` is None if some copy
    ended none.
    """

    memory: str
    reward: list[float]
    returns: list[float] | None
    episodes: int
    loading_seconds: float
    seconds: float


class Words(NamedTuple):
    """What a problem file calls its states, actions and observations; None where it only counts them."""

    states: tuple[str, ...] | None = None
    actions: tuple[str, ...] | None = None
    observations: tuple[str, ...] | None = None


class Episode(NamedTuple):
    """One episode of one agent, T slots; a truncated one ends with a slot that holds its final observation
    and does not act. ``belief`` is exact and ``decoded`` is the memory's, both (T, n); None, as is
    ``hidden``, without tables.
    """

    observation: Any
    action: np.ndarray
    reward: np.ndarray
    value: np.ndarray
    acts: np.ndarray
    terminated: np.ndarray
    hidden: np.ndarray | None
    belief: np.ndarray | None
    decoded: np.ndarray | None
    words: Words = Words()


def chosen(folder: Folder, memories: tuple[str, ...]) -> list[str]:
    """The trained memories of a run, or those named. Raises FolderError for one that is not there."""
    done = folder.finished()
    trained = [name for name in folder.config().memory if name in done]
    for name in memories:
        if name not in trained:
            raise FolderError(f"{folder.path} has no trained memory '{name}'; it has: {', '.join(trained)}")
    if not trained:
        raise FolderError(f"no memory of {folder.path} is trained yet; the same `linmem run` command goes on")
    return list(memories) or trained


def evaluate(
    folder: Folder, memories: tuple[str, ...] = (), actors: int = 64, steps: int = 2000, seed: int = 0
) -> Iterator[Evaluation]:
    """Every seed's agent of each memory in ``actors`` copies of the world for ``steps`` steps each."""
    config = folder.config()
    world = resolve(config.world).make()
    for name in chosen(folder, memories):
        began = time.perf_counter()
        policy = load_policy(folder, name)
        loaded = time.perf_counter()
        keys = jax.random.split(_key(config.seed, seed), config.seeds)
        slots = episodes(world, policy, keys, actors, steps)
        reward = mean_rewards(np.asarray(slots.reward), np.asarray(slots.acts))
        returns, count = episode_returns(np.asarray(slots.returns))
        yield Evaluation(name, reward, returns, count, loaded - began, time.perf_counter() - loaded)


def episode(folder: Folder, memory: str, agent: int = 0, steps: int = 200, seed: int = 0) -> Episode:
    """The first episode, or the first ``steps`` steps of it, of the agent with number ``agent``.

    The read-out of a memory that is no belief by definition is fitted on seven other copies of the world.
    """
    config = folder.config()
    if not 0 <= agent < config.seeds:
        raise FolderError(f"{folder.path} has no seed {agent}; it has 0 to {config.seeds - 1}")
    world = resolve(config.world).make()
    policy = jax.tree.map(lambda leaf: leaf[agent], load_policy(folder, memory))
    model = world.tables()
    # Reading out a memory needs several copies and many steps; looking at an episode needs one.
    copies, length = (1, steps) if model is None else (14, max(steps, 200))
    one = jax.tree.map(lambda leaf: leaf[None], policy)
    slots = episodes(world, one, jax.random.split(_key(config.seed, seed), 1), copies, length)
    slots = jax.tree.map(lambda x: np.asarray(x)[0], slots)
    belief = decoded = hidden = None
    shown = 0
    if model is not None:
        read = decode(policy, model, slots)
        shown = read.held_out.start
        belief, decoded, hidden = read.belief[:, 0], read.decoded[:, 0], read.hidden[:, 0]
    end = min(steps, first_episode(slots.start[:, shown]))
    at: Any = jax.tree.map(
        lambda x: x[:end, shown],
        (slots.inputs.observation, slots.action, slots.reward, slots.value, slots.acts, slots.terminated),
    )
    beliefs = (None if x is None else x[:end] for x in (hidden, belief, decoded))
    return Episode(*at, *beliefs, words=_words(config.world))


def _words(world: str) -> Words:
    if not is_model_name(world):
        return Words()
    problem = read_model(world)
    return Words(problem.state_names, problem.action_names, problem.observation_names)


def _key(run_seed: int, seed: int) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(run_seed), EVALUATION), seed)

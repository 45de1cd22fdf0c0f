"""A trained agent as a plain function: NumPy in, NumPy out, one observation at a time.

policy = linmem.load("runs/ringworld-1a2b3c4d", memory="s5", seed=0)
policy.reset()
while True:
    action = policy(observation, reward, done)
    observation, reward, done = robot(action)
"""

import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..agents.policy import ActorCritic
from ..core.types import Inputs
from ..worlds import resolve
from ..worlds.base import AbstractWorld
from ..worlds.gymnasium_world import GymnasiumWorld
from ..worlds.spaces import member, zeros
from .run import load_policy
from .store import Folder, FolderError


class Policy:
    """An agent with its memory, acting in one episode at a time.

    Observations and actions are the world's own: for ``gym:`` worlds as the Gymnasium environment gives and
    takes them, else members of ``world.observation_space`` and ``world.action_space`` (plain numbers, lists
    or arrays).

    greedy:          take the most probable action instead of drawing one.
    rng:             seed of the draws.
    loading_seconds: what making it took, reading and compiling included.
    value:           the critic's value of the last step: the discounted reward it expects from there; nan if
                     the critic does not act (it has a memory of its own, or sees the hidden state).
    features:        what the memory gave to the policy at the last step.
    """

    def __init__(self, world: AbstractWorld, agent: ActorCritic, *, greedy: bool = False, rng: int = 0):
        began = time.perf_counter()
        self.world, self.agent = world, agent

        def act(state, key, inputs, start):
            key, draw = jax.random.split(key)
            state, features = agent.memory.step(state, inputs, start)
            parameters, value = agent.heads(features)
            actions = agent.actions
            choice = actions.mode(parameters) if greedy else actions.sample(draw, parameters)
            return state, key, actions.execute(choice), value, features

        self._key, self._state = jax.random.key(rng), agent.memory.init()
        self._act = jax.jit(act)
        self.value, self.features = float("nan"), np.full(agent.memory.out_size, np.nan, np.float32)
        self._nothing = zeros(world.action_space)
        # Compiles; nothing of it is kept.
        blank = _inputs(zeros(world.observation_space), self._nothing, 0.0)
        jax.block_until_ready(self._act(self._state, self._key, blank, np.True_))
        self.reset()
        self.loading_seconds = time.perf_counter() - began

    def reset(self) -> None:
        """Forget everything: the next observation is the first of an episode."""
        self._fresh = True

    def __call__(self, observation: Any, reward: float = 0.0, done: bool = False) -> Any:
        """The action to take now.

        observation: what is seen now. reward: what the action before earned. done: the episode ended with
        that, and ``observation`` is the first of the next one. Raises ValueError for an observation of
        another form, and for a number that is not finite: the memory would not lose it before a start.
        """
        if isinstance(self.world, GymnasiumWorld):
            observation = self.world.receive(observation)
        observation = member(self.world.observation_space, observation, "observation")
        start = self._fresh or bool(done)
        before = self._nothing if start else self._before
        inputs = _inputs(observation, before, 0.0 if start else reward)
        if not np.isfinite(inputs.reward):
            raise ValueError(f"reward is {reward!r}; expected a finite number")
        self._state, self._key, action, value, features = self._act(
            self._state, self._key, inputs, np.bool_(start)
        )
        self._fresh, self._before = False, np.asarray(action)
        self.value, self.features = float(value), np.asarray(features)
        if isinstance(self.world, GymnasiumWorld):
            return self.world.send(self._before)
        return int(self._before) if self._before.ndim == 0 else self._before.copy()

    def belief(self) -> np.ndarray | None:
        """The distribution over hidden states that the memory holds, if by definition it holds one."""
        believed = self.agent.memory.believes(jnp.asarray(self.features))
        return None if believed is None else np.asarray(believed)


def load(
    run: str | Path,
    memory: str | None = None,
    seed: int | None = None,
    *,
    greedy: bool = False,
    rng: int = 0,
) -> Policy:
    """The trained agent of a run folder, ready to act. Nothing in the folder is executed.

    memory, seed: which of the run's agents; by default the one that earned most in the run's evaluation.
    greedy, rng:  see ``Policy``.

    Raises FolderError for a folder that cannot be read or has no such agent.
    """
    began = time.perf_counter()
    folder = Folder.open(Path(run))
    results = {r["memory"]: r for r in folder.records() if r["event"] == "result"}
    # of episodes that may end early, what a step earns says little
    by_return = all(result.get("returns") for result in results.values())
    rewards = {name: result["returns" if by_return else "reward"] for name, result in results.items()}
    if not rewards:
        raise FolderError(f"no memory of {folder.path} is trained yet; the same `linmem run` command goes on")
    name = max(rewards, key=lambda name: max(rewards[name])) if memory is None else memory
    if name not in rewards:
        raise FolderError(f"{folder.path} has no trained memory '{name}'; it has: {', '.join(rewards)}")
    seeds = len(rewards[name])
    if seed is None:
        seed = int(np.argmax(rewards[name]))
    if not 0 <= seed < seeds:
        raise FolderError(f"{folder.path} has no seed {seed}; it has 0 to {seeds - 1}")
    agent = jax.tree.map(lambda leaf: jnp.asarray(leaf[seed]), load_policy(folder, name))
    policy = Policy(resolve(folder.config().world).make(), agent, greedy=greedy, rng=rng)
    policy.loading_seconds = time.perf_counter() - began
    return policy


def _inputs(observation: Any, action: Any, reward: float) -> Any:
    return Inputs(observation, action, np.float32(reward))  # pyright: ignore[reportArgumentType]

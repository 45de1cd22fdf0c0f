"""Measure the memory gap of a problem: solve it, train agents on it, play them, and keep all in a run folder.

The run folder is that of ``run``; its records gain one event "references" (J_reactive and the bounds of J*)
and one event "played" per memory. What is recorded is not done again.
"""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from ..agents import PPOConfig
from ..measures.memory_gap import (
    Estimate,
    Reactive,
    Returns,
    Share,
    best_reactive,
    beyond,
    check_episodes,
    discounted_returns,
    estimate,
    horizon,
    share,
)
from ..memories import MEMORIES
from ..worlds import model_world
from ..worlds.model_files import read_model
from ..worlds.sparse import SparsePOMDP
from .config import RunConfig
from .run import load_policy
from .solve import solve
from .store import Folder
from .watch import watch

PLAYING = 3  # folded into the run's seed: other random numbers than training and its evaluations
SOLVED = 1e-3  # the relative gap at which solving stops

# One setting for every problem and memory. The discount is the file's. Rewards are divided by the largest
# expected reward of the model in size, which is 0.1 here and 100 there; PPO's step sizes suppose about 1.
GAP_PPO = PPOConfig(actors=32, unroll=64, minibatches=4, trace=0.9, entropy_cost=0.01, memory_size=32)


@dataclass(frozen=True)
class References:
    """What the agents are measured by."""

    reactive: Reactive
    lower: float
    upper: float


@dataclass(frozen=True)
class Captured:
    """One memory's agents. ``unplayed`` bounds what lies beyond the ``steps`` that were played."""

    memory: str
    returns: Returns
    episodes: int
    steps: int
    unplayed: float
    estimate: Estimate
    share: Share


@dataclass(frozen=True)
class Gap:
    """One problem. ``refused``: memories that cannot be made for it, and why."""

    problem: str
    config: RunConfig
    references: References
    captured: tuple[Captured, ...]
    refused: dict[str, str]

    def rows(self) -> list[dict[str, Any]]:
        """One plain row per memory that was measured."""
        return [
            {
                "problem": self.problem,
                "memory": one.memory,
                "seeds": self.config.seeds,
                "training_steps": self.config.steps,
                "discount": self.config.ppo.discount,
                "reward_scale": self.config.ppo.reward_scale,
                "reactive_deterministic": self.references.reactive.deterministic,
                "reactive_deterministic_upper": self.references.reactive.deterministic_upper,
                "reactive_stochastic": self.references.reactive.stochastic,
                "reactive": self.references.reactive.value,
                "lower": self.references.lower,
                "upper": self.references.upper,
                "return": one.estimate._asdict(),
                "return_of_seed": one.returns.mean.tolist(),
                "error_of_seed": one.returns.error.tolist(),
                "episodes": one.episodes,
                "steps": one.steps,
                "unplayed": one.unplayed,
                "share": {
                    end: value if np.isfinite(value) else None for end, value in one.share._asdict().items()
                },
            }
            for one in self.captured
        ]


def gap_config(
    problem: str, memory: tuple[str, ...], seeds: int, steps: int, seed: int = 0
) -> tuple[RunConfig, dict[str, str]]:
    """The run of those memories that can be made for the problem, and why the others cannot."""
    if not memory:
        raise ValueError("no memory is named; name one at least")
    model, world = read_model(problem), model_world(problem)
    horizon(model.discount)
    refused: dict[str, str] = {}
    for name in memory:
        try:
            MEMORIES[name].make(world, GAP_PPO.memory_size, jax.random.key(0))
        except ValueError as error:
            refused[name] = str(error)
    made = tuple(name for name in memory if name not in refused)
    if not made:
        raise ValueError(f"no memory can be made for {problem}: {'; '.join(refused.values())}")
    scale = float(np.abs(model.expected_reward()).max()) or 1.0
    ppo = dataclasses.replace(GAP_PPO, discount=model.discount, reward_scale=scale)
    config = RunConfig(
        world=problem,
        memory=made,
        seeds=seeds,
        steps=steps,
        seed=seed,
        evaluation_actors=16,
        evaluation_steps=200,
        ppo=ppo,
    )
    return config, refused


def memory_gap(
    problem: str,
    memory: tuple[str, ...],
    seeds: int,
    steps: int,
    seconds: float,
    episodes: int,
    seed: int,
    out: Path,
    console: Console,
    command: str,
) -> Gap | None:
    """Do what is not yet recorded; None if it was interrupted. The same call goes on from there."""
    check_episodes(episodes)
    config, refused = gap_config(problem, memory, seeds, steps, seed)
    folder, model = Folder.create(out, config, command), read_model(problem)
    references = _references(folder, model, seconds, console)
    if references is None or not watch(config, folder, again="the same command"):
        return None
    done = tuple(_captured(folder, model, references, name, episodes, console) for name in config.memory)
    return Gap(problem, config, references, done, refused)


def _references(folder: Folder, model: SparsePOMDP, seconds: float, console: Console) -> References | None:
    """As recorded, if at least as much time was given to the solver; None if solving was interrupted."""
    for record in folder.records():
        if record["event"] == "references" and record["seconds"] >= seconds:
            return References(Reactive(*record["reactive"]), record["lower"], record["upper"])
    began = time.perf_counter()
    reactive = best_reactive(model)
    console.print(f"best reactive policies: {reactive}, {time.perf_counter() - began:.1f} s", highlight=False)
    _, bounds, _, interrupted = solve(model, seconds, SOLVED, console)
    if interrupted:
        return None
    lower, upper = min(bounds.lower, bounds.upper), bounds.upper
    folder.append(
        {
            "event": "references",
            "seconds": seconds,
            "reactive": list(reactive),
            "lower": lower,
            "upper": upper,
        }
    )
    return References(reactive, lower, upper)


def _captured(
    folder: Folder, model: SparsePOMDP, references: References, name: str, episodes: int, console: Console
) -> Captured:
    config, steps = folder.config(), horizon(model.discount)
    returns = None
    for record in folder.records():
        if record["event"] == "played" and (record["memory"], record["episodes"]) == (name, episodes):
            returns = Returns(np.array(record["mean"]), np.array(record["error"]))
    if returns is None:
        console.print(f"{name}: playing {episodes} episodes of {steps} steps", highlight=False)
        key = jax.random.fold_in(jax.random.key(config.seed), PLAYING)
        keys = jax.random.split(key, config.seeds)
        returns = discounted_returns(load_policy(folder, name), model, keys, episodes, steps)
        folder.append({"event": "played", "memory": name, "episodes": episodes} | returns._asdict())
    unplayed = beyond(model, steps)
    found = estimate(returns, unplayed)
    captured = share(found, references.reactive.value, references.lower, references.upper)
    return Captured(name, returns, episodes, steps, unplayed, found, captured)

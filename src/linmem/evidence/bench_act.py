"""`linmem bench act`: the time of one decision of a deployed policy, batch 1, NumPy in and out."""

import time
from pathlib import Path

import jax
import numpy as np

from ..agents.policy import ActorCritic
from ..experiments.deploy import Policy, load
from ..memories import MEMORIES
from ..reports.tables import Table
from ..worlds import resolve
from .conclude import Evidence, Target, conclude

LIMIT = 1e-3
CASES = ("none", "belief", "alf", "deep_alf", "s5", "gru")


def main(run: Path | None = None, size: int = 128, steps: int = 3000, json: Path | None = None) -> int:
    """Time a policy's decisions on RingWorld, per memory, or those of a run's best agent.

    Args:
        run: a run folder; its best agent is timed instead of untrained ones.
        size: width of learned memories and heads.
        steps: decisions timed.
        json: write rows to this file.
    """
    rows = []
    for name in CASES if run is None else (None,):
        policy = load(run) if run is not None else _untrained(str(name), size)
        observation = jax.tree.map(np.asarray, policy.world.observation_space.sample(jax.random.key(0)))
        for _ in range(100):
            policy(observation)
        seconds = np.empty(steps)
        for i in range(steps):
            began = time.perf_counter()
            policy(observation, 0.5)
            seconds[i] = time.perf_counter() - began
        rows.append(
            {
                "memory": name or "the run's best",
                "median_seconds": float(np.median(seconds)),
                "p99_seconds": float(np.quantile(seconds, 0.99)),
                "loading_seconds": policy.loading_seconds,
            }
        )
    table = Table(
        ("memory", "median ms", "99% within ms", "loading s"),
        [
            (
                row["memory"],
                f"{1e3 * row['median_seconds']:.3f}",
                f"{1e3 * row['p99_seconds']:.3f}",
                f"{row['loading_seconds']:.2f}",
            )
            for row in rows
        ],
    )
    slowest = max(rows, key=lambda row: row["median_seconds"])
    target = Target(
        "one decision takes less than 1 ms",
        slowest["median_seconds"] < LIMIT,
        f"{1e3 * slowest['median_seconds']:.3f} ms for {slowest['memory']}, the slowest",
        "median below 1 ms",
    )
    return conclude(Evidence("bench act", rows, table, [target]), json)


def _untrained(memory: str, size: int) -> Policy:
    world = resolve("ringworld").make()
    keys = jax.random.split(jax.random.key(0))
    made = MEMORIES[memory].make(world, size, keys[0])
    return Policy(world, ActorCritic(made, world.action_space, size, key=keys[1]))

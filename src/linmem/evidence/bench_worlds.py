"""`linmem bench worlds`: steps per second of every registered world, on one core.

Many copies side by side take random actions; a copy whose episode ends begins the next one in the same step,
as in training. Random actions, their keys and the new episodes are part of the time, as a learner pays them.
Seconds are the core's, spent by this process in all its threads: other programs on the core do not count.
"""

import os
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..reports.tables import Table
from ..worlds import WORLDS
from ..worlds.base import AbstractHostWorld, AbstractWorld
from .conclude import Evidence, Target, conclude

REQUIRED = 1e6


def main(
    only: tuple[str, ...] = (),
    copies: int = 1024,
    unroll: int = 128,
    seconds: float = 0.6,
    json: Path | None = None,
) -> int:
    """Measure environment steps per second of each world with random actions on one core.

    Args:
        only: these worlds; by default all that are registered.
        copies: copies side by side.
        unroll: steps of each copy in one compiled call.
        seconds: calls are repeated this long, at least three times; the fastest counts.
        json: write rows and targets to this file.
    """
    remarks = [
        _one_core(),
        f"{copies} copies, {unroll} steps per call, the fastest call of each, in core seconds",
    ]
    rows = []
    for name in only or [entry.name for entry in WORLDS]:
        world = WORLDS[name].make()
        if isinstance(world, AbstractHostWorld):
            continue
        rows.append({"world": name, "steps_per_second": _rate(world, copies, unroll, seconds)})
        print(f"{name}: {rows[-1]['steps_per_second'] / 1e6:.2f} million steps/s", flush=True)
    table = Table(
        ("world", "million steps/s", "ns per step"),
        [
            (row["world"], f"{row['steps_per_second'] / 1e6:.2f}", f"{1e9 / row['steps_per_second']:.0f}")
            for row in rows
        ],
    )
    targets = [
        Target(
            row["world"],
            row["steps_per_second"] >= REQUIRED,
            f"{row['steps_per_second'] / 1e6:.2f} million steps/s",
            "1 million steps/s",
        )
        for row in rows
    ]
    return conclude(Evidence("bench worlds", rows, table, targets, remarks), json)


def _one_core() -> str:
    """Keep this process on one core; XLA makes as many threads as it may use cores. Says what holds."""
    if not hasattr(os, "sched_setaffinity"):
        return "this system cannot pin a process to a core: all cores were used"
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return f"pinned to core {core}"


def play(
    world: AbstractWorld, key: PRNGKeyArray, copies: int, unroll: int
) -> tuple[Float[Array, " copies"], Int[Array, ""], Float[Array, " copies"]]:
    """What each copy earns in ``unroll`` steps of random actions, how many episodes ended in all, and
    the sum of what each copy saw."""

    def one(state, key):
        act_key, step_key, init_key = jax.random.split(key, 3)
        state, outcome = world.step(step_key, state, world.action_space.sample(act_key))
        over = outcome.terminated | outcome.truncated
        fresh = world.init(init_key)
        # Observations are chosen too, and their sum kept below, so that no compiler leaves them out.
        state, seen = jax.tree.map(
            lambda new, old: jnp.where(over, new, old), fresh, (state, outcome.observation)
        )
        size = sum(jnp.sum(leaf).astype(jnp.float32) for leaf in jax.tree.leaves(seen))
        return state, (outcome.reward, over, size)

    def together(carry, key):
        state, earned, ended, seen = carry
        state, (reward, over, size) = jax.vmap(one)(state, jax.random.split(key, copies))
        return (state, earned + reward, ended + jnp.sum(over), seen + size), None

    begin_key, key = jax.random.split(key)
    state, _ = jax.vmap(world.init)(jax.random.split(begin_key, copies))
    none = jnp.zeros(copies)
    carry, _ = jax.lax.scan(together, (state, none, jnp.zeros((), int), none), jax.random.split(key, unroll))
    return carry[1:]


def _rate(world: AbstractWorld, copies: int, unroll: int, seconds: float) -> float:
    run = jax.jit(lambda key: play(world, key, copies, unroll)).lower(jax.random.key(0)).compile()
    jax.block_until_ready(run(jax.random.key(1)))
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        began = time.process_time()
        jax.block_until_ready(run(jax.random.key(len(times) + 2)))
        times.append(time.process_time() - began)
    return copies * unroll / min(times)

"""`linmem bench peers`: environment steps per second of whole training, beside other libraries'.

The same world, sizes and settings (see ``training_peers.py``), each in a process of its own, one after
another. The rate is that of the median update, the return that of the last fifth of the updates.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from ..agents import ppo
from ..agents.rollout import collect
from ..measures.operations import multiplications
from ..measures.statistics import bootstrap_mean
from ..memories import MEMORIES
from ..reports.tables import Table
from ..worlds import resolve
from .conclude import Evidence, Target, conclude
from .rows import kept
from .timing import beside_machine, bound
from .training_peers import CONTENDERS, Sizes, contender, train

JAX_TIMES, SB3_TIMES, OF_ROOFLINE = 2.5, 30.0, 0.6
POPJAXRL = Sizes(width=256)
POPJAXRL_RATE = 3900
"""Environment steps per second of popjaxrl's published setting, as told of a quiet machine of two cores; it
cannot be installed beside today's JAX, so no command here repeats it."""


def main(
    world: str = "repeat_previous",
    contenders: tuple[str, ...] = tuple(CONTENDERS),
    steps: int = 500_000,
    seeds: int = 2,
    reward_scale: float = 1.0,
    out: Path = Path("runs/bench-peers"),
    json: Path | None = None,
) -> int:
    """Train by PPO here and in other libraries, 64 environments x 128 steps x 4 epochs, width 128.

    memorax and sb3-contrib are timed if they can be imported (`pip install 'linmem[peers]'`). Finished
    trainings are kept, and the same command goes on from there; take another folder for another machine.

    Args:
        world: the world (see `linmem list`), with discrete actions.
        contenders: who is trained; 'linmem MEMORY', or 'linmem MEMORY separate', with any of our memories.
        steps: environment steps of each training.
        seeds: trainings of each contender.
        reward_scale: divides the rewards of all contenders, for worlds whose returns are far from 1; what is
            printed is not divided.
        out: folder of the finished trainings.
        json: write rows and targets to this file.
    """
    for name in contenders:
        contender(name)  # refuses a name that is none before anything is trained
    sizes, console, remarks, rows = Sizes(reward_scale=reward_scale), Console(), [], []
    sizes.config()  # refuses a scale that is not positive before anything is trained
    slots = sizes.actors * sizes.unroll
    updates = max(5, -(-steps // slots))
    for name in contenders:
        runs = []
        for seed in range(seeds):
            console.print(f"{name}, seed {seed}: {updates} updates of {slots:,} steps", highlight=False)
            try:
                runs.append(_run(out, name, world, updates, seed, sizes))
            except Exception as error:  # whatever an installed version does with today's JAX
                remarks.append(f"{name} is left out: {type(error).__name__}: {error}")
                break
        if runs:
            rows.append(_row(name, world, slots, runs))
    spent = breakdown(world, "gru", sizes)
    published = _run(out, "linmem s5", "repeat_previous", 6, 0, POPJAXRL)
    rate = slots / float(np.median(published["seconds"]))
    remarks += [
        f"one update with gru on {world}: {spent['update']:.3f} s; acting {spent['acting']:.3f} s, of which "
        f"the worlds {spent['worlds']:.3f} s and their random numbers {spent['random']:.3f} s; learning "
        f"{spent['learning']:.3f} s. Multiplications and additions take at least {spent['products']:.3f} s "
        f"({spent['operations'] / 1e9:.1f} GFLOP at the measured {spent['peak'] / 1e9:.0f} GFLOP/s)",
        f"popjaxrl's published setting (s5, width 256, repeat_previous): {rate:,.0f} steps/s, "
        f"compiled in {published['compile_seconds']:.0f} s; popjaxrl itself is said to make about "
        f"{POPJAXRL_RATE:,} on a quiet machine of two cores (not run here)",
    ]
    targets = _targets({row["contender"]: row for row in rows}, spent)
    return conclude(Evidence("bench peers", rows, _table(rows), targets, remarks), json)


def _run(out: Path, name: str, world: str, updates: int, seed: int, sizes: Sizes) -> dict[str, Any]:
    settings = {"contender": name, "world": world, "updates": updates, "seed": seed}
    settings |= asdict(sizes.config())

    def apart():
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(train, name, world, updates, seed, sizes).result()

    row = kept(out, settings, apart)
    assert row is not None
    return row


def _row(name: str, world: str, slots: int, runs: list[dict[str, Any]]) -> dict[str, Any]:
    card = resolve(world).make().card()
    length = card.steps if card else 1  # without a card: reward per step
    last = [float(np.mean(run["rewards"][-max(1, len(run["rewards"]) // 5) :])) * length for run in runs]
    return {
        "contender": name,
        "world": world,
        "steps_per_second": slots / float(np.median(np.concatenate([run["seconds"] for run in runs]))),
        "compile_seconds": runs[0]["compile_seconds"],
        "returns": last,
        "updates": len(runs[0]["rewards"]),
    }


def breakdown(world: str, memory: str, sizes: Sizes, repeats: int = 5) -> dict[str, float]:
    """Seconds of an update and of its parts, each compiled alone; its operations, and the machine's peak."""
    config, made = sizes.config(), resolve(world).make()
    key = jax.random.key(0)
    state = jax.tree.map(
        lambda x: x[0], ppo.seeds_init(config, made, MEMORIES[memory].make, 10, jax.random.split(key, 1))
    )

    def acting(state, key):
        return collect(state.policy, made, state.actors, key, sizes.unroll)

    def worlds(world_state, key):
        def step(world_state, key):
            keys = jax.random.split(key, (sizes.actors, 2))
            actions = jax.vmap(made.action_space.sample)(keys[:, 0])
            world_state, outcome = jax.vmap(made.step)(keys[:, 1], world_state, actions)
            fresh, _ = jax.vmap(made.init)(keys[:, 1])
            ended = outcome.terminated | outcome.truncated
            choose = lambda a, b: jax.vmap(jax.numpy.where)(ended, a, b)  # noqa: E731
            return jax.tree.map(choose, fresh, world_state), outcome.reward

        return jax.lax.scan(step, world_state, jax.random.split(key, sizes.unroll))

    def random(key):
        def step(total, key):
            keys = jax.random.split(key, (sizes.actors, 4))
            return total + jax.vmap(jax.vmap(jax.random.bits))(keys).sum(), None

        return jax.lax.scan(step, jax.numpy.uint32(0), jax.random.split(key, sizes.unroll))[0]

    whole = lambda state: ppo.update(config, made, 10, state)  # noqa: E731
    seconds, (peak, _) = beside_machine(
        {
            "update": bound(whole, state),
            "acting": bound(acting, state, key),
            "worlds": bound(worlds, state.actors.world, key),
            "random": bound(random, key),
        },
        repeats,
    )
    operations = 2 * multiplications(whole, state)  # each takes the place of a fused multiply-add
    learning = seconds["update"] - seconds["acting"]
    return seconds | {
        "learning": learning,
        "operations": operations,
        "peak": peak,
        "products": operations / peak,
    }


def _targets(rows: dict[str, dict[str, Any]], spent: dict[str, float]) -> list[Target]:
    targets = []
    rate = {name: row["steps_per_second"] for name, row in rows.items()}
    mine = [name for name in rate if name.startswith("linmem")]
    peers = [name for name in rate if name.startswith("memorax")]
    fastest = sorted(peers, key=rate.__getitem__)[-1:]
    sb3 = [name for name in rate if name.startswith("sb3")]
    share = spent["products"] / spent["update"]
    for name in mine:
        for best in fastest:
            targets.append(
                Target(
                    f"{name} beside the best JAX peer",
                    rate[name] >= JAX_TIMES * rate[best] or (name == "linmem gru" and share >= OF_ROOFLINE),
                    f"{rate[name] / rate[best]:.1f}x {best}"
                    + (f", {100 * share:.0f}% of the roofline" if name == "linmem gru" else ""),
                    f">= {JAX_TIMES:g}x, or {100 * OF_ROOFLINE:.0f}% of the roofline",
                )
            )
        for other in sb3:
            targets.append(
                Target(
                    f"{name} beside sb3-contrib",
                    rate[name] >= SB3_TIMES * rate[other],
                    f"{rate[name] / rate[other]:.0f}x",
                    f">= {SB3_TIMES:g}x",
                )
            )
    for name in mine:
        alike = [peer for peer in peers if peer.split()[1] == name.split()[1]]
        targets += [_no_worse(rows[name], rows[other]) for other in (alike or fastest) + sb3]
    return targets


def _no_worse(mine: dict[str, Any], other: dict[str, Any]) -> Target:
    """Whether the final return is no less than the other's, but for two standard errors of the difference
    over seeds (with one seed: but for nothing)."""
    a, b = np.array(mine["returns"]), np.array(other["returns"])
    slack = (
        2.0 * float(np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)))
        if min(len(a), len(b)) > 1
        else 0.0
    )
    return Target(
        f"final return, {mine['contender']} beside {other['contender']}",
        bool(a.mean() >= b.mean() - slack),
        f"{a.mean():.3f} beside {b.mean():.3f}",
        f"no less, but for two standard errors ({slack:.3f})",
    )


def _table(rows: list[dict[str, Any]]) -> Table:
    return Table(
        ("library and memory", "steps/s", "compile s", "return at the end"),
        [
            (
                row["contender"],
                f"{row['steps_per_second']:,.0f}",
                f"{row['compile_seconds']:.1f}",
                bootstrap_mean(np.array(row["returns"])),
            )
            for row in rows
        ],
    )

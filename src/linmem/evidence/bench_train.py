"""`linmem bench train`: environment steps per second of whole training, everything included,
compile time apart."""

import time
from pathlib import Path

import jax
from rich.progress import track

from ..agents import PPOConfig, ppo
from ..memories import MEMORIES
from ..reports.tables import Table
from ..worlds import resolve
from .conclude import Evidence, conclude
from .timing import medians


def main(
    memory: tuple[str, ...] = ("none", "deep_alf", "s5", "gru"),
    world: str = "ringworld",
    repeats: int = 7,
    json: Path | None = None,
) -> int:
    """Time training updates with 64 environments x 128 steps x 4 epochs and width 128, one seed, per memory.

    Args:
        memory: which memories (see `linmem list`).
        world: the world (see `linmem list`).
        repeats: updates timed per memory; the median counts.
        json: write rows to this file.
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; at least 1 update is timed")
    made = resolve(world).make()
    config = PPOConfig(actors=64, unroll=128, epochs=4, minibatches=8, memory_size=128)
    rows = []
    makers = {name: MEMORIES[name].make for name in memory}
    for name in track(memory, "timing training"):
        state = ppo.seeds_init(config, made, makers[name], repeats, jax.random.split(jax.random.key(0), 1))
        began = time.perf_counter()
        update = ppo.compile_train(config, made, repeats, 1, state)
        compile_seconds = time.perf_counter() - began
        seconds = medians({name: lambda: update(state)}, repeats)[name]  # noqa: B023
        rows.append(
            {
                "memory": name,
                "steps_per_second": config.actors * config.unroll / seconds,
                "update_seconds": seconds,
                "compile_seconds": compile_seconds,
            }
        )
    table = Table(
        ("memory", "steps/s", "update ms", "compile s"),
        [
            (
                row["memory"],
                f"{row['steps_per_second']:,.0f}",
                f"{1e3 * row['update_seconds']:.0f}",
                f"{row['compile_seconds']:.1f}",
            )
            for row in rows
        ],
    )
    return conclude(Evidence("bench train", rows, table, []), json)

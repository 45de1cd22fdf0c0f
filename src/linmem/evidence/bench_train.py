"""`linmem bench train`: environment steps per second of whole training, everything included,
compile time apart."""

import time
from pathlib import Path

import jax
from rich.progress import track

from ..agents import PPOConfig, ppo
from ..memories import MEMORIES
from ..reports.tables import Table
from ..worlds import WORLDS
from .conclude import Evidence, conclude
from .timing import medians

CASES = (("none", 128), ("deep_alf", 12), ("s5", 128), ("gru", 128))


def main(repeats: int = 7, world: str = "ringworld", json: Path | None = None) -> int:
    """Time training updates with 64 environments x 128 steps x 4 epochs, one seed, per memory.

    Args:
        repeats: updates timed per memory; the median counts.
        world: the world (see `linmem list`).
        json: write rows to this file.
    """
    config = PPOConfig(actors=64, unroll=128, epochs=4, minibatches=8, memory_size=128)
    rows = []
    for memory, size in track(CASES, "timing training"):
        made = WORLDS[world].make()
        state = ppo.seeds_init(
            config, made, MEMORIES[memory].make, repeats, jax.random.split(jax.random.key(0), 1)
        )
        began = time.perf_counter()
        update = ppo.compile_train(config, made, repeats, 1, state)
        compile_seconds = time.perf_counter() - began
        seconds = medians({memory: lambda: update(state)}, repeats)[memory]  # noqa: B023
        rows.append(
            {
                "memory": memory,
                "size": size,
                "steps_per_second": config.actors * config.unroll / seconds,
                "update_seconds": seconds,
                "compile_seconds": compile_seconds,
            }
        )
    table = Table(
        ("memory", "state", "steps/s", "update ms", "compile s"),
        [
            (
                row["memory"],
                row["size"],
                f"{row['steps_per_second']:,.0f}",
                f"{1e3 * row['update_seconds']:.0f}",
                f"{row['compile_seconds']:.1f}",
            )
            for row in rows
        ],
    )
    return conclude(Evidence("bench train", rows, table, []), json)

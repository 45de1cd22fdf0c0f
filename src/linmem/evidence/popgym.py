"""What agents with a GRU, S4D or FFM earn in POPGym's worlds, beside the published values.

The worlds are POPGym's on the easy level, played as the package plays them (`tests/worlds/test_popgym.py`),
so returns compare. POPGym's score is the best of training: the largest mean return of one epoch of its
training, averaged over seeds; here the largest mean over EPOCH steps, as many as one of its epochs has. Being
a maximum it may exceed what a policy earns on average. Settings are this
library's for the family (``experiments/settings.py``), the same for every memory, with width 128; the
published ones are 64 environments, sequences of 1024 steps, memories of 256 numbers and 15 million steps.
With fewer steps (the default) a world that is learned slowly falls short for that reason alone.

Source: S. Morad, R. Kortvelesy, M. Bettini, S. Liwicki, A. Prorok, "POPGym: Benchmarking Partially Observable
Reinforcement Learning", 2023, arXiv:2303.01859, the table of scores: GRU, and the best of 13 memories.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console

from ..experiments.suite import Suite
from ..measures.statistics import bootstrap_mean
from ..reports.suite import Job, Results, read_suite
from ..reports.tables import Table
from .bench_memory import train
from .conclude import Evidence, Target, conclude


class Published(NamedTuple):
    """Best of training after 15 million steps."""

    gru: float
    best: float


PUBLISHED = {
    "autoencode": Published(-0.283, -0.283),
    "count_recall": Published(0.177, 0.509),
    "higher_lower": Published(0.529, 0.529),
    "bandit": Published(0.619, 0.631),
    "noisy_cartpole": Published(0.995, 0.995),
    "position_cartpole": Published(1.0, 1.0),
    "repeat_first": Published(1.0, 1.0),
    "repeat_previous": Published(1.0, 1.0),
}
EPOCH = 64 * 1024
NEAR = 0.05
"""A return so far below the published one counts as equal to it, if it is above what no memory earns."""


def best_of_training(job: Job) -> float:
    """The largest mean return of the updates of EPOCH steps; nan if no episode ended."""
    steps, scores = job.curve
    epochs = (np.asarray(steps) - 1) // EPOCH
    means = [scores[epochs == epoch].mean() for epoch in np.unique(epochs)]
    return job.memoryless + (job.attainable - job.memoryless) * float(max(means, default=np.nan))


def main(
    worlds: tuple[str, ...] = tuple(PUBLISHED),
    memories: tuple[str, ...] = ("gru", "s4d", "ffm"),
    seeds: int = 1,
    steps: int = 2_000_000,
    workers: int = 2,
    out: Path = Path("runs/popgym"),
    json: Path | None = None,
) -> int:
    """Train memories on POPGym's easy worlds, and set what they earn beside the published values.

    Ctrl-C, a kill or a crash cost the last seconds; the same command goes on, and skips what is done.

    Args:
        worlds: of those with a published value.
        memories: who learns.
        seeds: trainings of each memory on each world.
        steps: environment steps of each training; the published ones are 15,000,000.
        workers: processes side by side.
        out: folder of the runs.
        json: write rows and targets to this file.
    """
    if unknown := [world for world in worlds if world not in PUBLISHED]:
        raise ValueError(
            f"'{unknown[0]}' has no published value here; those with one: {', '.join(PUBLISHED)}"
        )
    jobs = Suite(worlds, memories, seeds, steps, memory_size=128).jobs()
    out.mkdir(parents=True, exist_ok=True)
    console = Console()
    console.print(f"{len(jobs)} jobs of {steps:,} steps in {out}", highlight=False, soft_wrap=True)
    if not train(jobs, out, "linmem " + " ".join(sys.argv[1:]), console, workers):
        return 130
    results = read_suite(out, [job.folder_name() for job in jobs], worlds, memories, seeds)
    return conclude(
        Evidence(
            "popgym",
            [job.row() | {"best_of_training": best_of_training(job)} for job in results.jobs],
            _table(results),
            _targets(results, len(jobs)),
            [
                f"best of training over {steps:,} steps, {seeds} seed(s); published: 15,000,000 steps, "
                "3 seeds",
                *(f"failed: {name}: {why}" for name, why in results.failed.items()),
            ],
        ),
        json,
    )


def _earned(results: Results, world: str, memory: str) -> list[float]:
    return [best_of_training(job) for job in results.jobs if (job.world, job.memory) == (world, memory)]


def _table(results: Results) -> Table:
    rows = []
    for world in results.worlds:
        earned = [_earned(results, world, memory) for memory in results.memories]
        cells = [bootstrap_mean(np.array(one)) if one else None for one in earned]
        rows.append((world, *cells, *(f"{value:.3f}" for value in PUBLISHED[world])))
    return Table(("world", *results.memories, "published GRU", "published best of 13"), rows)


def _targets(results: Results, jobs: int) -> list[Target]:
    """The GRU beside the published GRU, the others beside the best published memory."""
    done = len(results.jobs)
    targets = [Target("every job is finished", done == jobs, f"{done} of {jobs}", "all")]
    floors = {job.world: job.memoryless for job in results.jobs}
    for world in results.worlds:
        for memory in results.memories:
            if earned := _earned(results, world, memory):
                published = PUBLISHED[world].gru if memory == "gru" else PUBLISHED[world].best
                mean = float(np.mean(earned))
                targets.append(
                    Target(
                        f"{memory} on {world}",
                        mean >= published - NEAR and mean > floors[world],
                        f"{mean:.3f}",
                        f">= {published:.3f} - {NEAR:g}, and above {floors[world]:.3f} without memory",
                    )
                )
    return targets

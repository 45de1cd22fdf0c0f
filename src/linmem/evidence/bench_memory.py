"""`linmem bench memory`: many worlds, many memories, one table.

Each job (one world, memory and seed) is an ordinary run folder; the queue skips what is done and goes on
where it was stopped. The targets say that the suite is whole and sound, not which memory wins: every job is
finished, no agent earns more than its world allows, and no memoryless agent more than the best memoryless
policy.
"""

import sys
import threading
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table as RichTable

from ..experiments.config import RunConfig
from ..experiments.store import Folder, machine
from ..experiments.suite import Suite, is_done, progress, work
from ..reports.suite import Results, read_suite, suite_table, write_suite
from .conclude import Evidence, Target, conclude

SUITES = {
    "quick": Suite(
        worlds=(
            "repeat_first",
            "repeat_previous",
            "position_cartpole",
            "parity",
            "tmaze",
            "memory_chain",
        ),
        memories=("none", "trace", "lru", "s5", "ffm", "gru"),
        seeds=3,
        steps=500_000,
    ),
}
POPGYM = (
    *("repeat_first", "repeat_previous", "autoencode", "count_recall", "higher_lower", "bandit"),
    *("position_cartpole", "noisy_cartpole"),
)
LEVELLED = tuple(f"{world}@level={level}" for world in POPGYM for level in ("medium", "hard"))
SUITES["full"] = Suite(
    worlds=(
        *SUITES["quick"].worlds,
        *(world for world in POPGYM if world not in SUITES["quick"].worlds),
        *LEVELLED,
        *("tmaze@length=50@limit=200", "tmaze@active=True", "tmaze@noise=True", "memory_chain@length=100"),
    ),
    memories=(
        *SUITES["quick"].memories,
        *(
            "mamba2",
            "s4d",
            "dss",
            "s7",
            "gated_deltanet",
            "deltaproduct",
            "rwkv7",
            "mlstm",
            "mamba",
            "gla",
            "slice_block",
        ),
    ),
    seeds=5,
    steps=15_000_000,
    memory_size=128,
)

# What chance may add to a score: where an episode is won or lost, four standard errors of 256 of them.
SLACK = 0.25


def main(
    suite: str = "quick",
    worlds: tuple[str, ...] = (),
    memories: tuple[str, ...] = (),
    seeds: int | None = None,
    steps: int | None = None,
    memory_size: int | None = None,
    workers: int = 2,
    ray: str | None = None,
    out: Path = Path("runs"),
    json: Path | None = None,
) -> int:
    """Train every memory on every world from every seed, and say how much each captures of what memory is
    worth.

    Ctrl-C, a kill or a crash cost the last seconds; the same command goes on, and skips what is done.

    Args:
        suite: quick (under 40 minutes on 2 cores) or full (days on 2 cores; meant for many).
        worlds: these instead of the suite's.
        memories: these instead of the suite's.
        seeds: so many instead of the suite's.
        steps: environment steps of each job instead of the suite's.
        memory_size: width of learned memories instead of the suite's.
        workers: processes side by side.
        ray: address of a Ray cluster (or auto); its machines must all see the folder.
        out: where the suite's folder is made.
        json: write a row for each job to this file.
    """
    if suite not in SUITES:
        raise ValueError(f"unknown suite '{suite}'; known: {', '.join(SUITES)}")
    known = SUITES[suite]
    chosen = Suite(
        worlds or known.worlds,
        memories or known.memories,
        known.seeds if seeds is None else seeds,
        known.steps if steps is None else steps,
        known.memory_size if memory_size is None else memory_size,
    )
    jobs, root = chosen.jobs(), out / f"memory-{suite}"
    root.mkdir(parents=True, exist_ok=True)
    command, console = "linmem " + " ".join(sys.argv[1:]), Console()

    def read() -> Results:
        names = [job.folder_name() for job in jobs]
        return read_suite(root, names, chosen.worlds, chosen.memories, chosen.seeds)

    console.print(f"{len(jobs)} jobs of {chosen.steps:,} steps in {root}", highlight=False, soft_wrap=True)
    finished = train(jobs, root, command, console, workers, ray)
    results = read()
    described = ", ".join(f"{key} {value}" for key, value in machine().items())
    page = write_suite(root / "report.html", f"Memory benchmark: {suite}", results, command, described)
    console.print(f"report: {page}", soft_wrap=True, highlight=False)
    if not finished:
        return 130
    return conclude(
        Evidence(
            "bench memory",
            [job.row() for job in results.jobs],
            suite_table(results),
            _targets(results, len(jobs)),
            _remarks(results),
        ),
        json,
    )


def train(
    jobs: Sequence[RunConfig],
    root: Path,
    command: str,
    console: Console,
    workers: int,
    ray: str | None = None,
) -> bool:
    """Do what of ``jobs`` is not done in ``root``, and show how far it is; False if interrupted."""
    try:
        with Folder(root).lock(), _live(jobs, root, console):
            work(jobs, root, command, workers, ray)
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on from there")
        return False
    return True


def _remarks(results: Results) -> list[str]:
    spent = [job.cpu_seconds for job in results.jobs if np.isfinite(job.cpu_seconds)]
    return [
        "score: 0 is the best without memory, 1 the best; all worlds: interquartile mean of all runs, 95% "
        "stratified bootstrap interval; one world: mean over seeds, 95% bootstrap interval",
        f"{len(results.jobs)} jobs took {sum(spent) / 60:.1f} minutes of one core, {sum(spent) / 120:.1f} of "
        "two, compiling and evaluating included",
        *(f"failed: {name}: {why}" for name, why in results.failed.items()),
    ]


def _targets(results: Results, jobs: int) -> list[Target]:
    exact = [job for job in results.jobs if job.exact and np.isfinite(job.score)]
    targets = [
        Target("every job is finished", len(results.jobs) == jobs, f"{len(results.jobs)} of {jobs}", "all")
    ]
    for claim, limit, those in (
        ("no agent earns more than its world allows", 1.0, exact),
        (
            "no memoryless agent beats the best memoryless policy",
            0.0,
            [j for j in exact if j.memory == "none"],
        ),
    ):
        if those:
            best = max(those, key=lambda job: job.score)
            measured = f"best score {best.score:.3f} ({best.memory} on {best.world}, seed {best.seed})"
            targets.append(Target(claim, best.score < limit + SLACK, measured, f"under {limit + SLACK:g}"))
    return targets


@contextmanager
def _live(jobs: Sequence[RunConfig], root: Path, console: Console, seconds: float = 2.0):
    """Show what is on the disk until the block ends: a live table, or in a log a line for each finished
    job."""
    done: set[str] = set()
    stop = threading.Event()

    def look() -> RichTable:
        for job in jobs:
            name = job.folder_name()
            if name not in done and (root / name).exists() and is_done(job, root):
                done.add(name)
                if not console.is_terminal:
                    print(
                        f"{len(done)} of {len(jobs)} done: {job.memory[0]} on {job.world}, seed {job.seed}",
                        flush=True,
                    )
        return _progress_table(jobs, root, done)

    def watch(live: Live | None) -> None:
        while not stop.wait(seconds):
            table = look()
            if live is not None:
                live.update(table, refresh=True)

    live = Live(look(), console=console, auto_refresh=False) if console.is_terminal else None
    thread = threading.Thread(target=watch, args=(live,), daemon=True)
    if live is not None:
        live.start(refresh=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        table = look()
        if live is not None:
            live.update(table, refresh=True)
            live.stop()


def _progress_table(jobs: Sequence[RunConfig], root: Path, done: set[str]) -> RichTable:
    """Worlds by memories: the share of each cell's updates that is done."""
    worlds = list(dict.fromkeys(job.world for job in jobs))
    memories = list(dict.fromkeys(job.memory[0] for job in jobs))
    table = RichTable(title=f"{len(done)} of {len(jobs)} jobs done", title_justify="left")
    for heading in ("world", *memories):
        table.add_column(heading, justify="left" if heading == "world" else "right")
    for world in worlds:
        cells = []
        for memory in memories:
            shares = [
                1.0 if job.folder_name() in done else progress(job, root)
                for job in jobs
                if (job.world, job.memory[0]) == (world, memory)
            ]
            cells.append(f"{np.mean(shares):.0%}" if any(shares) else "")
        table.add_row(world, *cells)
    return table

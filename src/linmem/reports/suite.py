"""A suite of runs (many worlds, many memories, several seeds) read back from disk: rows, table, one page.

A score is a return on the scale of its world's card: (J - memoryless) / (attainable - memoryless), so 0 is
what the best policy without memory earns and 1 what the best policy earns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from linmem.measures.statistics import Interval, bootstrap_mean, interquartile_mean, performance_profile
from linmem.reports.figures import STYLE, WIDTH, Picture, label_ends, learning_curves, look
from linmem.reports.html import Section, write_page
from linmem.reports.records import Run, read_run
from linmem.reports.tables import Table

THRESHOLDS = np.linspace(-0.25, 1.0, 101)


@dataclass(frozen=True)
class Job:
    """One memory trained on one world from one seed."""

    world: str
    memory: str
    seed: int
    score: float
    """On the card's scale; nan if no episode ended in the evaluation."""
    episode_return: float
    attainable: float
    memoryless: float
    exact: bool
    """Whether these two are proved (see ``worlds/base.py``)."""
    episode: int
    """Steps of the world's longest episode."""
    parameters: int
    state_bytes: int
    seconds_per_million: float
    """Of training, compilation apart."""
    cpu_seconds: float
    """The whole job's, compilation and evaluation included; nan for a run outside a suite."""
    curve: tuple[np.ndarray, np.ndarray]
    """Steps, and the score of the episodes that ended in each update."""

    def row(self) -> dict[str, Any]:
        """As plain JSON values, without the curve."""
        return {
            name: None if isinstance(value, float) and np.isnan(value) else value
            for name, value in vars(self).items()
            if name != "curve"
        }

    @property
    def traffic(self) -> int:
        """Bytes read and written while acting in the longest episode: each step reads all parameters and the
        state, and writes the state. What is computed between is not counted."""
        return self.episode * (4 * self.parameters + 2 * self.state_bytes)


@dataclass(frozen=True)
class Results:
    """What of a suite is finished. ``failed`` says why a job failed, by "world, memory, seed"."""

    worlds: tuple[str, ...]
    memories: tuple[str, ...]
    seeds: int
    jobs: tuple[Job, ...]
    failed: dict[str, str]

    def scores(self, world: str, memory: str) -> list[float]:
        """One per finished seed."""
        return [job.score for job in self.jobs if (job.world, job.memory) == (world, memory)]

    def cell(self, world: str, memory: str) -> Interval | None:
        scores = self.scores(world, memory)
        return bootstrap_mean(scores) if scores else None

    def complete(self) -> list[str]:
        """Memories with a score from every seed on every world: only these can be compared over worlds."""
        return [
            memory
            for memory in self.memories
            if all(np.isfinite(self.scores(world, memory)).sum() == self.seeds for world in self.worlds)
        ]

    def overall(self, memory: str) -> Interval | None:
        if memory not in self.complete():
            return None
        return interquartile_mean([self.scores(world, memory) for world in self.worlds])


def read_suite(
    root: Path, folders: Sequence[str], worlds: Sequence[str], memories: Sequence[str], seeds: int
) -> Results:
    """Read the run folders of these names in ``root``; those that are not there are not finished."""
    jobs: list[Job] = []
    failed: dict[str, str] = {}
    for name in folders:
        if not (root / name / "config.json").exists():
            continue
        run = read_run(root / name)
        (memory,), seed = run.config["memory"], run.config["seed"]
        if memory in run.results:
            jobs.append(_job(run, memory))
        elif "failed" in run.others:
            failed[f"{run.config['world']}, {memory}, seed {seed}"] = run.others["failed"]["why"]
    return Results(tuple(worlds), tuple(memories), seeds, tuple(jobs), failed)


def _job(run: Run, memory: str) -> Job:
    result = run.results[memory]
    card = result["card"]
    floor, span = card["memoryless"], card["attainable"] - card["memoryless"]
    (earned,) = result["returns"] or [np.nan]
    returns = [(u["steps"], u["episode_return"][0]) for u in run.updates[memory]]
    ended = np.array([(steps, value) for steps, value in returns if value is not None], float).reshape(-1, 2)
    return Job(
        world=run.config["world"],
        memory=memory,
        seed=run.config["seed"],
        score=(earned - floor) / span,
        episode_return=earned,
        attainable=card["attainable"],
        memoryless=floor,
        exact=card["exact"],
        episode=card["steps"],
        parameters=result["parameters"],
        state_bytes=result["state_bytes"],
        seconds_per_million=1e6 / result["steps_per_second"],
        cpu_seconds=run.others.get("job", {}).get("cpu_seconds", np.nan),
        curve=(ended[:, 0], (ended[:, 1] - floor) / span),
    )


def suite_table(results: Results) -> Table:
    """Memories by worlds, best overall on top."""
    overall = {memory: results.overall(memory) for memory in results.memories}
    order = sorted(
        results.memories,
        key=lambda memory: -np.inf if (o := overall[memory]) is None else o.mean,
        reverse=True,
    )
    return Table(
        ["memory", "all worlds", *results.worlds],
        [
            [memory, overall[memory], *(results.cell(world, memory) for world in results.worlds)]
            for memory in order
        ],
        places=2,
    )


def cost_table(results: Results) -> Table:
    """What each memory costs; means over the finished jobs."""
    rows = []
    for memory in results.memories:
        jobs = [job for job in results.jobs if job.memory == memory]
        if jobs:
            rows.append(
                [
                    memory,
                    float(np.mean([job.seconds_per_million for job in jobs])),
                    float(np.mean([job.parameters for job in jobs])),
                    float(np.mean([job.state_bytes for job in jobs])),
                ]
            )
    return Table(["memory", "s per million steps", "parameters", "state in bytes"], rows)


def traffic_table(results: Results) -> Table:
    """Megabytes that acting moves in one episode, memories by worlds."""
    return Table(
        ["memory", *results.worlds],
        [
            [memory, *(_mean_traffic(results, world, memory) for world in results.worlds)]
            for memory in results.memories
        ],
    )


def _mean_traffic(results: Results, world: str, memory: str) -> float | None:
    found = [job.traffic / 1e6 for job in results.jobs if (job.world, job.memory) == (world, memory)]
    return found[0] if found else None


def curves(results: Results, world: str) -> Picture:
    """Score against environment steps of every memory on one world."""
    updates: dict[str, list[dict[str, Any]]] = {}
    for memory in results.memories:
        each = [job.curve for job in results.jobs if (job.world, job.memory) == (world, memory)]
        each = [curve for curve in each if curve[0].size]
        if each:
            begin, end = max(steps[0] for steps, _ in each), min(steps[-1] for steps, _ in each)
            at = np.linspace(begin, end, 80)
            values = np.array([np.interp(at, *curve) for curve in each])
            updates[memory] = [
                {"steps": step, "reward": list(v)} for step, v in zip(at, values.T, strict=True)
            ]
    run = Run(world, {"memory": list(results.memories)}, {}, updates, {}, {}, {}, ())
    return learning_curves(run, quantity=f"score on {world}")


@mpl.rc_context(STYLE)
def profile(results: Results) -> Picture:
    """The share of runs that score above a threshold, for each memory with all its runs."""
    figure = Figure(figsize=(WIDTH, 4.0), layout="constrained")
    axes = figure.subplots()
    style, ends, words = look(results.memories), {}, []
    for memory in results.complete():
        scores = [results.scores(world, memory) for world in results.worlds]
        share, low, high = performance_profile(scores, THRESHOLDS)
        colour, line = style[memory]
        axes.fill_between(THRESHOLDS, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(THRESHOLDS, share, color=colour, linestyle=line, linewidth=1.6)
        middle = int(np.argmin(np.abs(THRESHOLDS - 0.5)))
        near = int(np.argmin(np.abs(THRESHOLDS - 0.9)))
        ends[memory] = (THRESHOLDS[near], share[near], colour)
        words.append(f"{memory} {share[middle]:.0%} above 0.5 and {share[near]:.0%} above 0.9")
    axes.set(xlabel="score", ylabel="share of runs above it", ylim=(-0.02, 1.02))
    axes.margins(x=0)
    label_ends(axes, ends)
    return Picture(figure, f"Performance profile, the share of runs above each score: {'; '.join(words)}.")


@mpl.rc_context(STYLE)
def times(results: Results) -> Picture:
    """Seconds of training per million steps."""
    spent = {
        memory: [job.seconds_per_million for job in results.jobs if job.memory == memory]
        for memory in results.memories
    }
    means = [(memory, float(np.mean(each))) for memory, each in spent.items() if each]
    rows = sorted(means, key=lambda row: -row[1])
    figure = Figure(figsize=(WIDTH, 0.9 + 0.38 * len(rows)), layout="constrained")
    axes = figure.subplots()
    style = look(results.memories)
    for height, (memory, seconds) in enumerate(rows):
        axes.barh(height, seconds, color=style[memory][0], height=0.6)
        axes.annotate(f" {seconds:.3g} s", (seconds, height), va="center", fontsize=10)
    axes.set(yticks=range(len(rows)), yticklabels=[memory for memory, _ in rows])
    axes.set(xlabel="seconds per million environment steps")
    axes.margins(x=0.25)
    words = "; ".join(f"{memory} {seconds:.3g} s" for memory, seconds in reversed(rows))
    return Picture(figure, f"Training time per million environment steps: {words}.")


def write_suite(path: Path, title: str, results: Results, command: str, machine: str) -> Path:
    """The suite as one page, finished or not."""
    return write_page(path, title, suite_sections(results, command, machine))


def suite_sections(results: Results, command: str, machine: str) -> list[Section]:
    total = len(results.worlds) * len(results.memories) * results.seeds
    sections = [Section("What was run", _what_was_run(results, total))]
    if not results.jobs:
        return sections
    sections.append(Section("Scores", _SCORES, suite_table(results)))
    if results.complete():
        sections.append(Section("Performance profile", _PROFILE, None, *profile(results)))
    for world in results.worlds:
        if any(job.world == world and job.curve[0].size for job in results.jobs):
            sections.append(
                Section(f"Learning: {world}", _scale(results, world), None, *curves(results, world))
            )
    sections += [
        Section("Time", _TIME, cost_table(results), *times(results)),
        Section("Memory traffic of one episode", _TRAFFIC, traffic_table(results)),
    ]
    repeat = "\n\n".join(filter(None, [f"Command: {command}", f"Machine: {machine}"]))
    return [*sections, Section("How to repeat it", repeat)]


def _what_was_run(results: Results, total: int) -> str:
    parts = {"memories": results.memories, "worlds": results.worlds, "seeds": range(results.seeds)}
    counted = ", ".join(f"{name}: {len(each)}" for name, each in parts.items())
    finished = f"{len(results.jobs)} of {total} runs are finished"
    text = f"Agents that differ only in their memory ({counted}); {finished}."
    inexact = {job.world for job in results.jobs if not job.exact}
    if inexact:
        text += (
            f"\n\nOn {', '.join(sorted(inexact))} the best that can be earned is known as a bound only: 1 "
            "may be out of reach there; and 0 is what the best of some policies written by hand earns "
            "without memory, so a trained one may lie a little above."
        )
    return "\n\n".join([text, *(f"Failed: {name}: {why}" for name, why in results.failed.items())])


def _scale(results: Results, world: str) -> str:
    job = next(job for job in results.jobs if job.world == world)
    return (
        f"Score 0 is a return of {job.memoryless:.3g}, score 1 a return of {job.attainable:.3g}. Line: mean "
        "over seeds while training, exploration included. Band: from the lowest to the highest seed."
    )


_SCORES = (
    "A score puts an episode's return on the scale of its world: 0 is what the best policy without memory "
    "earns, 1 what the best policy earns. Below 0 an agent did not even learn to react."
    "\n\nAll worlds: the interquartile mean of all runs, with its 95% stratified bootstrap interval. "
    "One world: the mean over seeds with its 95% bootstrap interval. Few seeds make intervals too narrow. A "
    "click on a heading sorts by it."
)
_PROFILE = (
    "The share of a memory's runs that score above a threshold, worlds weighed equally. Higher is better."
)
_TIME = (
    "Training, compilation apart, mean over worlds, of runs that shared the machine with others of the suite."
)
_TRAFFIC = (
    "Megabytes read and written while an agent acts through its world's longest episode: at each step all "
    "parameters and the state are read, and the state is written."
)

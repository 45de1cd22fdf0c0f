"""`linmem gap FILE` and `linmem reproduce memory-gap`: what share of the value of memory agents capture.

The targets are those of a sound measurement. No agent may surely earn more than the optimal policy, nor the
memoryless one more than the best reactive policy: each says that training, playing, solving and searching
mean the same problem.
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ..experiments.gap import Captured, Gap, memory_gap
from ..measures.memory_gap import Share
from ..measures.statistics import Interval
from ..reports.tables import Table
from .conclude import Evidence, Target, conclude

PROBLEMS = (
    "tiger-75.POMDP",
    "tiger.POMDP",
    "1d.POMDP",
    "tmaze-5.POMDP",
    "cheese.POMDP",
    "4x4.POMDP",
    "4x3.POMDP",
    "paint.POMDP",
    "parr95.POMDP",
    "shuttle.POMDP",
    "network.POMDP",
    "stand-tiger.POMDP",
    "heaven-hell.POMDP",
)
"""The shipped problems whose best reactive policy is found in seconds."""

MEMORIES = ("belief", "s5", "gru", "lru", "deep_alf_random", "none")

SURE = 4.0  # standard errors of playing; one in thirty thousand by chance
LEAST_PROBLEMS, LEAST_MEMORIES = 10, 6

REMARKS: tuple[str, ...] = (
    "J: discounted return from the start belief, mean over seeds with its 95% interval (bootstrap over "
    "seeds, no narrower than the error of playing).",
    "share: (J - J_reactive) / (J* - J_reactive); a range where J* is known between bounds only; in "
    "brackets the same with the interval of J.",
)


def gap(
    problem: str,
    memory: tuple[str, ...],
    seeds: int,
    steps: int,
    time: float,
    episodes: int,
    seed: int,
    out: Path,
    json: Path | None,
) -> int:
    """`linmem gap`; see its arguments in ``cli.py``."""
    console = Console(soft_wrap=True)
    command = "linmem " + " ".join(sys.argv[1:])
    found = memory_gap(problem, memory, seeds, steps, time, episodes, seed, out, console, command)
    if found is None:
        return 130
    reactive, remarks = found.references.reactive, [*REMARKS]
    remarks.append(
        f"J_reactive = {reactive.value:.6g} (best deterministic {reactive.deterministic:.6g}, none above "
        f"{reactive.deterministic_upper:.6g}; best stochastic found {reactive.stochastic:.6g}); J* in "
        f"[{found.references.lower:.6g}, {found.references.upper:.6g}]"
    )
    remarks += [f"{name} cannot be made: {why}" for name, why in found.refused.items()]
    table = Table(
        ("memory", "J", "error of playing", "share"),
        [
            (
                one.memory,
                Interval(one.estimate.mean, one.estimate.low, one.estimate.high),
                one.estimate.error,
                text(one.share),
            )
            for one in found.captured
        ],
    )
    return conclude(Evidence("gap", found.rows(), table, _sound([found]), remarks), json)


def main(
    problems: tuple[str, ...] = PROBLEMS,
    memory: tuple[str, ...] = MEMORIES,
    seeds: int = 3,
    steps: int = 300_000,
    time: float = 10.0,
    episodes: int = 1000,
    seed: int = 0,
    out: Path = Path("runs/memory-gap"),
    markdown: Path | None = None,
    json: Path | None = None,
) -> int:
    """Which memory captures which share of the value of memory, on classic problems.

    What is done is kept; the same command goes on after an interruption.

    Args:
        problems: files, or shipped problems.
        memory: the memories, see `linmem list`.
        seeds: agents of each memory on each problem.
        steps: environment steps that each is trained for.
        time: seconds of solving for each problem.
        episodes: episodes played by each trained agent.
        seed: from which all random numbers follow.
        out: where run folders are made.
        markdown: write the table to this file too.
        json: write all rows to this file.
    """
    console = Console(soft_wrap=True)
    command = "linmem " + " ".join(sys.argv[1:])
    found = []
    for number, problem in enumerate(problems, start=1):
        console.print(f"problem {number} of {len(problems)}: {problem}", style="bold", highlight=False)
        one = memory_gap(problem, memory, seeds, steps, time, episodes, seed, out, console, command)
        if one is None:
            return 130
        found.append(one)
    table = Table(("problem", "J_reactive", "J*", *memory), [_row(one, memory) for one in found])
    if markdown is not None:
        markdown.write_text(_markdown(table))
    remarks = [REMARKS[1], f"{seeds} seeds of {steps:,} steps; {episodes} episodes played by each"]
    remarks += [
        f"{one.problem}: {name} cannot be made: {why}" for one in found for name, why in one.refused.items()
    ]
    targets = [
        *_sound(found),
        Target("problems", len(found) >= LEAST_PROBLEMS, str(len(found)), f"at least {LEAST_PROBLEMS}"),
        Target(
            "memories on every problem",
            (least := min(len(one.captured) for one in found)) >= LEAST_MEMORIES,
            str(least),
            f"at least {LEAST_MEMORIES}",
        ),
    ]
    rows = [row for one in found for row in one.rows()]
    return conclude(Evidence("reproduce memory-gap", rows, table, targets, remarks), json)


def _sound(found: Sequence[Gap]) -> list[Target]:
    """No agent surely beats the best that it could be."""

    def above(best: float, captured: Captured) -> float:
        excess = captured.estimate.mean - captured.unplayed - best
        return (
            excess / captured.estimate.error
            if captured.estimate.error > 0
            else math.copysign(math.inf, excess)
        )

    pairs = [(one, each) for one in found for each in one.captured]
    # A millionth: J* and J_reactive are themselves computed.
    slack = lambda best: best + 1e-6 * max(1.0, abs(best))  # noqa: E731
    claims = {
        "no agent surely earns more than J*": [
            (above(slack(one.references.upper), each), one, each) for one, each in pairs
        ],
        "no memoryless agent surely earns more than J_reactive": [
            (above(slack(one.references.reactive.value), each), one, each)
            for one, each in pairs
            if each.memory == "none"
        ],
    }
    targets = []
    for claim, excesses in claims.items():
        if excesses:
            z, one, each = max(excesses, key=lambda excess: excess[0])
            measured = f"largest excess {z:+.2f} standard errors ({each.memory} on {one.problem})"
            targets.append(Target(claim, z < SURE, measured, f"under {SURE:g}"))
    return targets


def text(found: Share) -> str:
    """A share as a person reads it."""
    if math.isnan(found.least):
        return "memory is worth nothing"
    least, most, low, high = (f"{value + 0.0:.2f}" for value in found)
    return f"{least if least == most else f'{least} to {most}'} [{low}, {high}]"


def _row(found: Gap, memory: tuple[str, ...]) -> tuple[str, ...]:
    references = found.references
    lower, upper = f"{references.lower:.4g}", f"{references.upper:.4g}"
    shares = {one.memory: text(one.share) for one in found.captured}
    return (
        found.problem.removesuffix(".POMDP"),
        f"{references.reactive.value:.4g}",
        upper if lower == upper else f"{lower} to {upper}",
        *(shares.get(name, "-") for name in memory),
    )


def _markdown(table: Table) -> str:
    lines = [table.headings, ["---"] * len(table.headings), *table.rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)

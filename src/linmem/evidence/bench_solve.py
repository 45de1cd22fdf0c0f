"""`linmem bench solve`: the point-based solver on classic problems, beside the C++ SARSOP solver (APPL).

SARSOP's bounds and CPU seconds were measured with precision 1e-5 on a comparable machine; where it did not
close the gap, the optimal value lies between its bounds. Both times are CPU seconds, so a busy machine does
not distort them.
"""

import json as json_format
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from ..planning.point_based import PointBasedSolver
from ..reports.tables import Table
from ..worlds.model_files import read_model
from .conclude import Evidence, Target, conclude


@dataclass(frozen=True)
class Reference:
    """What SARSOP found: the problem's file in the collections, the shipped one that is the same, bounds,
    and CPU seconds."""

    file: str
    shipped: str | None
    lower: float
    upper: float
    seconds: float


REFERENCES = (
    Reference("1d.noisy.pomdp", None, 1.24162, 1.24163, 0),
    Reference("1d.pomdp", "1d.POMDP", 1.26034, 1.26035, 0),
    Reference("4x3.95.pomdp", "4x3.POMDP", 1.88988, 1.88989, 8.31),
    Reference("4x4.95.pomdp", "4x4.POMDP", 3.73228, 3.73229, 0.09),
    Reference("aloha.10.pomdp", None, 535.093, 544.793, 120.19),
    Reference("cheese.95.pomdp", "cheese.POMDP", 3.4862, 3.48621, 0.05),
    Reference("concert.pomdp", None, 0, 0, 0),
    Reference("counting_wall.POMDP", None, 0.7317, 0.7317, 0),
    Reference("hallway.pomdp", None, 0.996543, 1.20821, 301.39),
    Reference("heavenhell.POMDP", "heaven-hell.POMDP", 0.904382, 0.904382, 0),
    Reference("iff.pomdp", None, 9.01285, 9.9176, 126.26),
    Reference("learning.c2.pomdp", None, 1.48814, 1.58505, 122.25),
    Reference("marking.pomdp", None, 2.75223, 2.75223, 0.01),
    Reference("mcc-example1.pomdp", None, 0.379644, 0.379654, 0.01),
    Reference("milos-aaai97.pomdp", None, 49.625, 70.126, 120.16),
    Reference("mini-hall2.pomdp", None, 2.71428, 2.71429, 0.09),
    Reference("network.pomdp", "network.POMDP", 293.185, 293.347, 60.03),
    Reference("paint.95.pomdp", "paint.POMDP", 3.2936, 3.29361, 0.09),
    Reference("parity_check.POMDP", None, 0, 0, 0),
    Reference("parr95.95.pomdp", "parr95.POMDP", 7.20103, 7.20104, 0.01),
    Reference("query.s2.pomdp", None, 490.743, 496.371, 120.08),
    Reference("RockSample_4_4.pomdp", "rocksample-4-4.POMDP", 17.9245, 17.9245, 0.44),
    Reference("saci-s12-a6-z5.95.pomdp", None, 14.8345, 14.8345, 0.01),
    Reference("shuttle.95.pomdp", "shuttle.POMDP", 32.8897, 32.8897, 0.03),
    Reference("slippery-tmaze.POMDP", None, 1.42621, 1.42621, 0),
    Reference("stand-tiger.95.pomdp", "stand-tiger.POMDP", 50.3772, 50.3772, 0.09),
    Reference("TagAvoid.pomdp", None, -6.19288, -2.10091, 202.58),
    Reference("tiger-grid.pomdp", None, 2.26431, 2.52836, 301.24),
    Reference("tiger.95.pomdp", "tiger.POMDP", 19.3714, 19.3714, 0.01),
    Reference("tiger.aaai.pomdp", "tiger-75.POMDP", 1.93343, 1.93344, 0),
    Reference("tmaze5.POMDP", "tmaze-5.POMDP", 1.91319, 1.91319, 0),
    Reference("web-mall.pomdp", None, 6.90423, 6.90424, 0.03),
)
DIGITS = 6  # of the references
CLOSED = 0.01
FINEST = 1e-5  # of the value: no gap below it is asked for
TICK = 0.01  # the resolution of SARSOP's times


def main(
    folder: Path | None = None,
    only: tuple[str, ...] = (),
    seconds: float = 60.0,
    record: Path = Path("runs/bench-solve.jsonl"),
    json: Path | None = None,
) -> int:
    """Check the solver's bounds against SARSOP's, and compare the CPU seconds to close the gap.

    Args:
        folder: where the collections' problem files are; without it, the problems that the package ships are
            used.
        only: names of files in the table, if not all; the targets are then about these.
        seconds: CPU seconds for each problem.
        record: results are added to this file as they come; a problem that is in it, with the same settings,
            is not solved again.
        json: write rows and targets to this file.
    """
    chosen = [each for each in REFERENCES if not only or each.file in only or each.shipped in only]
    names = {each: name for each in chosen if (name := _name(each, folder)) is not None}
    if not names:
        raise ValueError(
            f"none of the problems is there; in the table are {', '.join(r.file for r in REFERENCES)}"
        )
    done = _recorded(record)
    rows = []
    for reference, name in names.items():
        key = f"{name} {seconds:g}"
        if key not in done:
            row = _solve(reference, name, seconds) | {"key": key}
            record.parent.mkdir(parents=True, exist_ok=True)
            with record.open("a") as file:
                file.write(json_format.dumps(row) + "\n")
            Console(stderr=True).print(
                f"{name}: [{row['lower']:.6g}, {row['upper']:.6g}] in {row['seconds']:.1f} s", highlight=False
            )
            done[key] = row
        rows.append(done[key])
    return conclude(_evidence(rows), json)


def _name(reference: Reference, folder: Path | None) -> str | None:
    """Where the problem is read from: the folder, if one is given, or the package. None if it is missing."""
    if folder is None:
        return reference.shipped
    path = folder / reference.file
    return str(path) if path.is_file() else None


def _recorded(path: Path) -> dict[str, dict[str, Any]]:
    lines = path.read_text().splitlines() if path.is_file() else []
    return {row["key"]: row for row in map(json_format.loads, lines)}


def _solve(reference: Reference, name: str, seconds: float) -> dict[str, Any]:
    began = time.process_time()
    model = read_model(name)
    solver = PointBasedSolver(model)
    scale = max(
        abs(reference.lower), abs(reference.upper), solver.bounds().scale if reference.upper == 0 else 0.0
    )
    sought = max(reference.upper - reference.lower, FINEST * scale) / scale
    to_one_percent = to_reference = None
    for bounds in solver.solve(0.0):
        spent = time.process_time() - began
        if to_one_percent is None and bounds.relative_gap <= CLOSED:
            to_one_percent = spent
        if to_reference is None and bounds.gap <= sought * scale:
            to_reference = spent
            break
        if spent > seconds:
            break
    slack = 10.0 ** (1 - DIGITS) * max(abs(reference.lower), abs(reference.upper), bounds.scale)
    return {
        "problem": reference.file,
        "states": model.n_states,
        "lower": bounds.lower,
        "upper": bounds.upper,
        "relative_gap": bounds.relative_gap,
        "seconds": time.process_time() - began,
        "to_one_percent": to_one_percent,
        "to_reference": to_reference,
        "sarsop_lower": reference.lower,
        "sarsop_upper": reference.upper,
        "sarsop_seconds": reference.seconds,
        "overlap": bounds.lower <= reference.upper + slack and bounds.upper >= reference.lower - slack,
    }


def _evidence(rows: list[dict[str, Any]]) -> Evidence:
    closable = [
        row for row in rows if row["sarsop_upper"] - row["sarsop_lower"] <= CLOSED * abs(row["sarsop_upper"])
    ]
    closed = [row for row in closable if row["relative_gap"] <= CLOSED]
    overlap = [row for row in rows if row["overlap"]]
    missed = [row["problem"] for row in closable if row["relative_gap"] > CLOSED]
    apart = [row["problem"] for row in rows if not row["overlap"]]
    targets = [
        Target(
            "bounds that agree with SARSOP's",
            not apart,
            f"{len(overlap)} of {len(rows)}" + (f", not {', '.join(apart)}" if apart else ""),
            "all",
        ),
        Target(
            "gaps closed to 1% of those that SARSOP closes",
            not missed,
            f"{len(closed)} of {len(closable)}" + (f", not {', '.join(missed)}" if missed else ""),
            "all",
        ),
    ]
    heads = (
        "problem",
        "states",
        "lower",
        "upper",
        "gap %",
        "s to 1%",
        "s to SARSOP's gap",
        "SARSOP's",
        "SARSOP s",
        "ratio",
    )
    return Evidence(
        "bench solve",
        rows,
        Table(heads, [_row(row) for row in rows]),
        targets,
        [
            "Ratio: our CPU seconds to reach SARSOP's gap (at least 1e-5 of the value) by its CPU seconds, "
            "at least 0.01 s."
        ],
    )


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    reached = row["to_reference"]
    return (
        row["problem"],
        str(row["states"]),
        f"{row['lower']:.6g}",
        f"{row['upper']:.6g}",
        f"{100 * row['relative_gap']:.3g}",
        "-" if row["to_one_percent"] is None else f"{row['to_one_percent']:.2f}",
        "-" if reached is None else f"{reached:.2f}",
        f"[{row['sarsop_lower']:g}, {row['sarsop_upper']:g}]",
        f"{row['sarsop_seconds']:g}",
        "-" if reached is None else f"{reached / max(row['sarsop_seconds'], TICK):.2g}",
    )

"""The numbers of a run as rows, and rows as a table for the terminal or a web page.

Every cell is formatted by `show`, so both renderings print the same digits.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from numbers import Integral, Real
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from linmem.measures.statistics import Interval, bootstrap_mean, recovered_fraction
from linmem.reports.records import Run, per_seed

ORACLE = "belief"
"""The memory that knows the world: its reward is what perfect memory earns."""
REACTIVE = "none"
"""The agent without memory: its reward is what memory adds nothing to."""

WIDEST = 200
"""Columns of a table that no terminal shows."""

Cell = str | int | float | Interval | None


@dataclass(frozen=True)
class Row:
    """One memory's final numbers; None where the run cannot tell."""

    memory: str
    reward: Interval
    """Mean reward per step of an episode, over seeds."""
    returns: Interval | None
    """Mean return of an episode; None where some copy of the world ended none."""
    recovered: Interval | None
    """Share of the oracle's gain over the reactive agent; needs both in the run."""
    decoding_error: Interval | None
    """Fraction of steps where the most likely state of the decoded belief is not the true one."""
    total_variation: Interval | None
    """Mean distance between decoded and exact belief: 0 equal, 1 disjoint."""
    steps_per_second: float | None
    parameters: int | None


@dataclass(frozen=True)
class Table:
    """Headings and rows of cells, not yet formatted."""

    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    places: int = 3
    """Decimals of an Interval."""


def summary(run: Run) -> list[Row]:
    """One row per memory with a final evaluation, in the run's order."""
    return [_row(run, memory) for memory in run.memories if memory in run.results]


def summary_table(rows: Sequence[Row]) -> Table:
    """The table of `summary`'s rows."""
    return Table(
        [
            "memory",
            "reward",
            "return",
            "recovered",
            "decoding error",
            "belief distance",
            "steps/s",
            "parameters",
        ],
        [
            [
                row.memory,
                row.reward,
                row.returns,
                row.recovered,
                row.decoding_error,
                row.total_variation,
                row.steps_per_second,
                row.parameters,
            ]
            for row in rows
        ],
    )


def show(cell: Cell, places: int = 3) -> tuple[str, str]:
    """A cell as text: the value, and its interval or ''. What is unknown is shown as '-'."""
    match cell:
        case None:
            return "-", ""
        case Interval(mean, low, high):
            ends = (
                "-"
                if math.isnan(low) or math.isnan(high)
                else f"{_decimals(low, places)}, {_decimals(high, places)}"
            )
            return _decimals(mean, places), f"[{ends}]"
        case Integral():
            return f"{cell:,}", ""
        case Real():
            return ("-" if math.isnan(cell) else f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.3g}"), ""
    return str(cell), ""


def table_console() -> Console:
    """The terminal; for a file or a pipe, room for the widest table unless COLUMNS says how wide it is."""
    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=WIDEST)


def to_rich(table: Table) -> RichTable:
    """The table for the terminal. What a narrow one has no room for goes on below; nothing is cut off."""
    rich = RichTable()
    for index, heading in enumerate(table.headings):
        # Text, not str: rich would read [brackets] in a name as markup.
        rich.add_column(Text(heading), justify="left" if index == 0 else "right", overflow="fold")
    for row in table.rows:
        rich.add_row(*(Text(" ".join(filter(None, show(cell, table.places)))) for cell in row))
    return rich


def to_html(table: Table) -> str:
    """The table for a web page; `data-key` is what a column is sorted by."""
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in table.headings)
    body = "".join(
        f"<tr>{''.join(_html_cell(cell, table.places) for cell in row)}</tr>\n" for row in table.rows
    )
    return f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table>"


def _row(run: Run, memory: str) -> Row:
    result = run.results[memory]
    oracle, reactive = run.results.get(ORACLE), run.results.get(REACTIVE)
    recovered = None
    if oracle and reactive:
        # of episodes that may end early, what a step earns says little
        earned = "returns" if all(one.get("returns") for one in (result, oracle, reactive)) else "reward"
        recovered = recovered_fraction(
            per_seed(result[earned]), per_seed(oracle[earned]), per_seed(reactive[earned])
        )
        # The references are compared with themselves: by definition exactly 1 and 0, with no chance in it.
        if memory in (ORACLE, REACTIVE) and not math.isnan(recovered.mean):
            recovered = Interval(*[float(memory == ORACLE)] * 3)
    return Row(
        memory=memory,
        reward=bootstrap_mean(per_seed(result["reward"])),
        returns=_optional_mean(result.get("returns")),
        recovered=recovered,
        decoding_error=_optional_mean(result.get("decoding_error")),
        total_variation=_optional_mean(result.get("total_variation")),
        steps_per_second=result.get("steps_per_second"),
        parameters=result.get("parameters"),
    )


def _optional_mean(values: Any) -> Interval | None:
    return None if values is None else bootstrap_mean(per_seed(values))


def _decimals(value: float, places: int) -> str:
    if not math.isfinite(value):
        return "-" if math.isnan(value) else "∞" if value > 0 else "-∞"
    return f"{round(value, places) + 0.0:.{places}f}"  # + 0.0 turns -0.0 into 0.0


def _html_cell(cell: Cell, places: int) -> str:
    value, interval = show(cell, places)
    key = cell.mean if isinstance(cell, Interval) else "" if cell is None else cell
    aside = f" <small>{interval}</small>" if interval else ""
    return f'<td data-key="{escape(str(key))}">{escape(value)}{aside}</td>'

"""How every `linmem reproduce X` and `linmem bench X` ends: a table, its stated targets, and an exit code."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..experiments.store import plain
from ..reports.tables import Table, table_console, to_rich


@dataclass(frozen=True)
class Target:
    """A stated target and whether it holds. ``measured`` and ``required`` are what a person compares."""

    name: str
    holds: bool
    measured: str
    required: str


@dataclass(frozen=True)
class Evidence:
    """What a command found: rows (plain JSON values), the table a person reads, targets,
    and remarks in sentences."""

    name: str
    rows: Sequence[dict[str, Any]]
    table: Table
    targets: Sequence[Target]
    remarks: Sequence[str] = ()


def conclude(evidence: Evidence, json_path: Path | None) -> int:
    """Print the evidence, write it to ``json_path`` if given, and return the exit code:
    1 if a target is missed."""
    console = table_console()
    console.print(to_rich(evidence.table))
    for remark in evidence.remarks:
        console.print(remark, highlight=False)
    for target in evidence.targets:
        mark = "[green]holds [/]" if target.holds else "[red]missed[/]"
        console.print(
            f"{mark} {target.name}: {target.measured} (required: {target.required})", highlight=False
        )
    held = sum(target.holds for target in evidence.targets)
    if evidence.targets:
        console.print(f"{held} of {len(evidence.targets)} targets hold")
    if json_path is not None:
        content = {
            "name": evidence.name,
            "rows": list(evidence.rows),
            "targets": [asdict(target) for target in evidence.targets],
            "remarks": list(evidence.remarks),
        }
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(plain(content), indent=2, allow_nan=False) + "\n")
        console.print(f"rows and targets: {json_path}", soft_wrap=True, highlight=False)
    return 0 if held == len(evidence.targets) else 1

"""Finished rows of a long command kept as files, so that the same command goes on where it stopped."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..experiments.store import write_whole


def kept(
    folder: Path, settings: Mapping[str, Any], make: Callable[[], dict[str, Any]] | None
) -> dict[str, Any] | None:
    """The row of these settings: from ``folder`` if it is there, or else made now and kept there. Without
    ``make`` a row that is not there is None."""
    name = "-".join(str(value) for value in settings.values()).replace("/", "_").replace(" ", "_")
    file = folder / f"{name}.json"
    if not file.exists():
        if make is None:
            return None
        row = make()
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(row).encode())
    return json.loads(file.read_text())

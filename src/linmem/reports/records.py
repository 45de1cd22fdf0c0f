"""A run folder read back from disk: the only road from experiments to reports.

    config.json           what was run, with every default spelled out
    records.jsonl         one JSON object per line, appended while the run goes:
                          events "update", "snapshot" and "result"
    episodes/<memory>.npz one episode per memory, the arrays of `Episode`

A run may have been interrupted at any moment, so everything but config.json may be missing or incomplete.
What was missing or ignored is told in `Run.notes` and `Run.unfinished`, never silently dropped.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..experiments.store import NOT_ARRAYS


@dataclass(frozen=True)
class Episode:
    """One episode of T steps in a world of n hidden states."""

    hidden: np.ndarray
    """(T,) the true hidden state."""
    belief: np.ndarray
    """(T, n) the exact belief along this episode."""
    decoded: np.ndarray
    """(T, n) the belief read out of the memory."""
    reward: np.ndarray
    """(T,)"""
    action: np.ndarray
    """(T,)"""


@dataclass(frozen=True)
class Run:
    """A run folder in memory."""

    name: str
    config: dict[str, Any]
    """The nested configuration."""
    provenance: dict[str, Any]
    """The rest of config.json: versions, machine, created, command."""
    updates: dict[str, list[dict[str, Any]]]
    """Per memory, its update records in order."""
    snapshots: dict[str, list[dict[str, Any]]]
    """Per memory, its comparisons with belief and theory while it learned, in order."""
    results: dict[str, dict[str, Any]]
    """Per memory, its final evaluation."""
    episodes: dict[str, Episode]
    notes: tuple[str, ...]
    """What was ignored while reading, in sentences."""
    others: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The last record of each event that is none of these, by the event."""

    @property
    def memories(self) -> list[str]:
        """Every memory of the run: in the order of the configuration, then any that only the records know."""
        asked = self.config.get("memories", self.config.get("memory", []))
        return list(
            dict.fromkeys([*([asked] if isinstance(asked, str) else asked), *self.updates, *self.results])
        )

    @property
    def unfinished(self) -> list[str]:
        """Memories without a final evaluation."""
        return [memory for memory in self.memories if memory not in self.results]


def read_run(directory: str | Path) -> Run:
    """Read a run folder, finished or not."""
    directory = Path(directory)
    settings = _read_config(directory)
    updates: dict[str, list[dict[str, Any]]] = {}
    snapshots: dict[str, list[dict[str, Any]]] = {}
    results: dict[str, dict[str, Any]] = {}
    others: dict[str, dict[str, Any]] = {}
    records, notes = _read_records(directory / "records.jsonl")
    for record in records:
        if record["event"] in ("update", "snapshot"):
            kind = updates if record["event"] == "update" else snapshots
            history = kind.setdefault(record["memory"], [])
            # A resumed run repeats the updates after its last checkpoint: later records replace earlier.
            while history and history[-1]["update"] >= record["update"]:
                history.pop()
            history.append(record)
        elif record["event"] == "result":
            results[record["memory"]] = record
        else:
            others[record["event"]] = record
    return Run(
        name=str(settings.pop("name", directory.name)),
        config=settings.pop("config"),
        provenance=settings,
        updates=updates,
        snapshots=snapshots,
        results=results,
        episodes={path.stem: _read_episode(path) for path in sorted(directory.glob("episodes/*.npz"))},
        notes=tuple(notes),
        others=others,
    )


def per_seed(values: Any) -> np.ndarray:
    """(S,) floats from a record's list; null stands for a value that was not finite and becomes nan."""
    return np.atleast_1d(np.asarray(values, float))


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{directory} holds no config.json; is it a run folder?")
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(settings, dict) or not isinstance(settings.get("config"), dict):
        raise ValueError(
            f"{path} must be a JSON object with a 'config' object inside; was it written by linmem?"
        )
    return settings


def _read_records(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The readable records, and a sentence for each line that is none: an interruption cuts a line in two."""
    if not path.is_file():
        return [], [f"The folder holds no {path.name}: nothing had been recorded yet."]
    records, notes = [], []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            record = json.loads(line)
            if record["event"] == "update":
                _ = record["memory"], record["update"], record["steps"], record["reward"]
            elif record["event"] == "snapshot":
                _ = record["memory"], record["update"], record["steps"], record["total_variation"]
            elif record["event"] == "result":
                _ = record["memory"], record["reward"]
            records.append(record)
        except (ValueError, TypeError, KeyError):
            notes.append(f"Line {number} of {path.name} is incomplete (an interruption?) and was ignored.")
    return records, notes


def _read_episode(path: Path) -> Episode:
    try:
        # Without pickle: a run folder from a stranger must not be able to run code here.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            episode = Episode(**{name: arrays[name] for name in Episode.__dataclass_fields__})
    except (OSError, *NOT_ARRAYS) as error:
        raise ValueError(f"{path} is not an episode file: {error}") from error
    length, states = episode.belief.shape if episode.belief.ndim == 2 else (len(episode.belief), 0)
    for name, shape in {
        "hidden": (length,),
        "belief": (length, states),
        "decoded": (length, states),
        "reward": (length,),
        "action": (length,),
    }.items():
        if (found := getattr(episode, name).shape) != shape:
            raise ValueError(f"{path}: {name} has shape {found}; expected {shape}")
    return episode


def records(directory: str | Path):
    """The updates of a run folder, or of all run folders below a directory, as one pandas DataFrame: a row
    for each update of each agent (columns run, world, memory, seed, agent, and what an update records)."""
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError('records as a DataFrame need pandas: pip install "linmem[suite]"') from error
    directory = Path(directory)
    folders = [directory] if (directory / "config.json").is_file() else []
    folders = folders or sorted(path.parent for path in directory.glob("*/config.json"))
    if not folders:
        raise FileNotFoundError(f"{directory} is no run folder and holds none")
    rows = []
    for folder in folders:
        run = read_run(folder)
        same = {"run": run.name, "world": run.config.get("world"), "seed": run.config.get("seed")}
        for record in (record for history in run.updates.values() for record in history):
            shared = {key: value for key, value in record.items() if not isinstance(value, list)}
            for agent in range(len(record["reward"])):
                own = {key: value[agent] for key, value in record.items() if isinstance(value, list)}
                rows.append(same | shared | {"agent": agent} | own)
    return pd.DataFrame(rows).drop(columns="event", errors="ignore")

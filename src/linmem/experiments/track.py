"""A run's records sent to TensorBoard or to Weights & Biases while they are written.

Both follow ``records.jsonl``: what is sent is what is on the disk. After an interruption only what is new is
sent, on top of what was sent before.
"""

import abc
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .config import RunConfig
from .store import Folder

NOT_MEASURED = {"event", "memory", "update", "steps"}


class AbstractTracker(abc.ABC):
    """Where numbers go."""

    @abc.abstractmethod
    def send(self, memory: str, agent: int, steps: int, numbers: dict[str, float]) -> None:
        """The numbers of one agent after so many environment steps."""

    @abc.abstractmethod
    def close(self) -> None:
        """All is sent."""


class TensorBoard(AbstractTracker):
    """Event files in the run folder, one directory for each memory and seed: `tensorboard --logdir runs`."""

    def __init__(self, folder: Folder):
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ImportError('--tensorboard needs tensorboardX: pip install "linmem[track]"') from error
        self._open = lambda name: SummaryWriter(str(folder.path / "tensorboard" / name))
        self._writers: dict[str, Any] = {}

    def send(self, memory, agent, steps, numbers):
        name = f"{memory}/{agent}"
        if name not in self._writers:
            self._writers[name] = self._open(name)
        for key, value in numbers.items():
            self._writers[name].add_scalar(key, value, steps)

    def close(self):
        for writer in self._writers.values():
            writer.close()


class WeightsAndBiases(AbstractTracker):
    """One run there for each memory and seed, grouped by the run folder's name. ``mode`` is online, or
    offline: nothing is sent then before `wandb sync`."""

    def __init__(self, folder: Folder, config: RunConfig, mode: str):
        if mode not in ("online", "offline"):
            raise ValueError(f"--wandb is '{mode}'; known: online, offline")
        try:
            import wandb
        except ImportError as error:
            raise ImportError('--wandb needs Weights & Biases: pip install "linmem[track]"') from error
        self._begin = lambda name, memory: wandb.init(
            project="linmem",
            group=folder.path.name,
            name=name,
            config=config.as_dict() | {"memory": memory},
            mode=mode,
            dir=str(folder.path),
            reinit="create_new",
        )
        self._runs: dict[str, Any] = {}

    def send(self, memory, agent, steps, numbers):
        name = f"{memory}/{agent}"
        if name not in self._runs:
            self._runs[name] = self._begin(name, memory)
        self._runs[name].log(numbers, step=steps)

    def close(self):
        for each in self._runs.values():
            each.finish()


class Follower:
    """Sends to ``trackers`` what is added to a folder's records. ``skip`` passes over what is there."""

    def __init__(self, folder: Folder, trackers: Sequence[AbstractTracker]):
        self._path, self._trackers, self._at = folder.path / "records.jsonl", trackers, 0

    def skip(self) -> None:
        self._at = _size(self._path)

    def follow(self) -> None:
        if not self._trackers or _size(self._path) <= self._at:
            return
        with self._path.open("rb") as file:
            file.seek(self._at)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._at += len(whole)
        for record in map(json.loads, whole.splitlines()):
            if record["event"] == "update":
                self._send(record)

    def _send(self, record: dict[str, Any]) -> None:
        for agent in range(len(record["reward"])):
            values = {key: _of(value, agent) for key, value in record.items() if key not in NOT_MEASURED}
            numbers = {key: float(value) for key, value in values.items() if value is not None}
            for tracker in self._trackers:
                tracker.send(record["memory"], agent, record["steps"], numbers)

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.close()


def _of(value: Any, agent: int) -> Any:
    return value[agent] if isinstance(value, list) else value


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0

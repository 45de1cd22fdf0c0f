"""The run folder on disk. Nothing that is loaded from it can execute code: JSON and plain arrays only.

A file is written under another name, forced to the disk and renamed, so that a crash, a kill or a full disk
leaves the file that was there before. One process at a time may write: it holds a lock that the system drops
with the process. (A checkpoint is one file of plain arrays, so no checkpointing library is needed.)

config.json              written first: what is run, every default spelled out, versions, machine
records.jsonl            one line per event, appended as it happens
params/<memory>.eqx      the trained policies (leading axis: seeds), arrays in NumPy's format
state/<memory>.eqx       the checkpoint of a memory in training
lock                     the process that is writing, if it is alive
episodes/<memory>.npz    one evaluation episode
"""

import fcntl
import io
import json
import os
import platform
import shutil
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import equinox as eqx
import jax
import numpy as np

from ..worlds import ELSEWHERE
from .config import RunConfig, from_dict

NOT_ARRAYS = (ValueError, KeyError, TypeError, EOFError, BadZipFile, zlib.error)
"""What NumPy raises for a .npz file that is empty, cut off, spoilt, or something else."""
PACKAGES = ("linmem", "jax", "jaxlib", "equinox", "optax", "numpy", "scipy")


class FolderError(Exception):
    """A run folder that cannot be written or read; the message says which and what to do."""


class InUse(FolderError):
    """A run folder that another process writes."""


class Folder:
    """One run's folder. Opening it for a configuration creates it, or takes up what is there."""

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def create(cls, root: Path, config: RunConfig, command: str) -> "Folder":
        folder = cls(root / config.folder_name())
        try:
            for part in ("params", "state", "episodes"):
                (folder.path / part).mkdir(parents=True, exist_ok=True)
            if not (folder.path / "config.json").exists():
                described = {
                    "name": folder.path.name,
                    "config": config.as_dict(),
                    "world_file": config.world_file(),
                    "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
                    "machine": machine(),
                    "created": datetime.now(UTC).isoformat(timespec="seconds"),
                    "command": command,
                }
                folder.write("config.json", (json.dumps(described, indent=2) + "\n").encode())
        except OSError as error:
            raise FolderError(
                f"cannot write to {folder.path} ({error.strerror}); choose a folder with --out"
            ) from error
        return folder

    @classmethod
    def open(cls, path: Path) -> "Folder":
        if not (path / "config.json").is_file():
            raise FolderError(
                f"{path} holds no config.json; is it a run folder? `linmem run` prints its path"
            )
        return cls(path)

    def config(self) -> RunConfig:
        """What is run. Raises FolderError if config.json is broken or does not fit this version, if it would
        import a module, or if the world's file is another one now."""
        path = self.path / "config.json"
        try:
            described = json.loads(path.read_text())
        except ValueError as error:
            raise FolderError(
                f"{path} is not valid JSON ({error}); restore it, or begin a new run"
            ) from error
        try:
            config = from_dict(described["config"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise FolderError(f"{path} does not fit this version: {error}") from error
        kind, _, rest = config.world.partition(":")
        module, colon, _ = rest.partition(":")
        if kind in ELSEWHERE and colon and module not in sys.modules:
            raise FolderError(
                f"{self.path} asks for '{config.world}', and a folder may not decide what code is loaded; "
                f"if you trust {module}, import it in Python first, or repeat the command that made the run"
            )
        now = config.world_file()
        if described.get("world_file", now) != now:  # earlier versions did not write it
            raise FolderError(
                f"'{config.world}' is not the file that {self.path} was made with; put that one back, or "
                "give the new one a folder of its own: `linmem run` without --resume"
            )
        return config

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the one process that writes here. Raises FolderError naming the one that is.

        The system drops the lock when its process ends, however it ends; the file stays and means nothing."""
        try:
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise self._refused("lock", error) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = os.read(descriptor, 100).decode().strip() or "that is just starting"
                raise InUse(f"{self.path} is in use by process {holder}; wait for it or end it") from error
            except OSError as error:
                raise self._refused("lock", error) from error
            try:
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{os.getpid()} on {platform.node()}\n".encode())
            except OSError as error:
                raise self._refused("lock", error) from error
            yield
        finally:
            os.close(descriptor)

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole or not at all; when this returns it is on the disk."""
        try:
            write_whole(self.path / name, content)
        except OSError as error:
            raise self._refused(name, error) from error

    def append(self, *records: dict[str, Any]) -> None:
        """Append records; when this returns they are on the disk. A line cut short by a crash is closed
        first, so that it spoils itself only."""
        lines = "".join(json.dumps(plain(record), allow_nan=False) + "\n" for record in records)
        try:
            with (self.path / "records.jsonl").open("ab+") as file:
                if file.tell() > 0:
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":
                        file.write(b"\n")
                file.write(lines.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._refused("records.jsonl", error) from error

    def rewind(self, memory: str, update: int) -> None:
        """Forget what was recorded of a memory after its checkpoint at ``update``, which will be done
        again."""
        path = self.path / "records.jsonl"
        kept = "".join(
            json.dumps(record) + "\n"
            for record in self.records()
            if record.get("memory") != memory
            or record.get("update", update + 1) <= update  # a result has none
        ).encode()
        if path.exists() and path.read_bytes() != kept:
            self.write("records.jsonl", kept)

    def _refused(self, name: str, error: OSError) -> FolderError:
        return FolderError(
            f"cannot write {self.path / name} ({error.strerror}). What was there before is kept: make room, "
            f"then `linmem run --resume {self.path}` goes on from the last checkpoint"
        )

    def records(self) -> list[dict[str, Any]]:
        path = self.path / "records.jsonl"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        whole = []
        for line in lines:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue  # cut short by a crash
            if isinstance(record, dict) and "event" in record:
                whole.append(record)
        return whole

    def finished(self) -> set[str]:
        """Memories with a final evaluation and their policies."""
        done = {record["memory"] for record in self.records() if record["event"] == "result"}
        return {name for name in done if (self.path / "params" / f"{name}.eqx").is_file()}

    def save_tree(self, name: str, tree: Any) -> None:
        """Save the arrays of a tree, in order; random keys as their integers."""
        file = io.BytesIO()
        eqx.tree_serialise_leaves(file, _without_keys(tree))
        self.write(name, file.getvalue())

    def load_tree(self, name: str, like: Any) -> Any:
        """The tree that ``save_tree`` saved; ``like`` has its structure, shapes and types."""
        try:
            with (self.path / name).open("rb") as file:  # NumPy refuses pickled objects by default
                loaded = eqx.tree_deserialise_leaves(file, _without_keys(like))
        except (OSError, ValueError, RuntimeError) as error:
            cause: BaseException = error
            while cause.__context__ is not None:  # the outer ones only say where in the tree
                cause = cause.__context__
            damaged = "it is damaged, or holds Python objects, which are never loaded"
            why = damaged if "allow_pickle" in str(cause) else cause
            raise FolderError(
                f"cannot read {self.path / name}: {why}. Delete it if it is there, and "
                f"`linmem run --resume {self.path}` trains this memory anew"
            ) from error
        return jax.tree.map(
            lambda form, leaf: jax.random.wrap_key_data(leaf) if _is_key(form) else leaf, like, loaded
        )

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def discard_if_empty(self) -> None:
        """Delete the folder if it holds no more than ``create`` put there."""
        try:
            with self.lock():
                files = {path.name for path in self.path.rglob("*") if path.is_file()}
                if files <= {"config.json", "lock"}:
                    shutil.rmtree(self.path)
        except FolderError:  # another process is at work here
            pass

    def save_arrays(self, name: str, **arrays: np.ndarray) -> None:
        self.write(name, arrays_bytes(**arrays))


class Reader(Folder):
    """A folder that another process of the same run writes: here it is only read."""

    @contextmanager
    def lock(self) -> Iterator[None]:
        yield

    def write(self, name: str, content: bytes) -> None:
        pass

    def append(self, *records: dict[str, Any]) -> None:
        pass

    def rewind(self, memory: str, update: int) -> None:
        pass

    def remove(self, name: str) -> None:
        pass

    def discard_if_empty(self) -> None:
        pass


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; when this returns it is on the disk. OSError names ``path``."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")  # another process may write the same
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)  # the new name, too
        finally:
            os.close(directory)
    except OSError as error:
        part.unlink(missing_ok=True)
        error.filename = str(path)  # a full disk names none
        raise


def check_writable(path: Path) -> None:
    """Raises OSError now, not after the work, if ``path`` cannot be written. What is there stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    existed = path.exists()
    path.open("ab").close()
    if not existed:
        path.unlink()


def arrays_bytes(**arrays: Any) -> bytes:
    """The content of a compressed .npz file."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(  # pyright: ignore[reportPrivateImportUsage]
        leaf.dtype, jax.dtypes.prng_key
    )


def _without_keys(tree: Any) -> Any:
    def plain(leaf):
        if not _is_key(leaf):
            return leaf
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.eval_shape(jax.random.key_data, leaf)
        return jax.random.key_data(leaf)

    return jax.tree.map(plain, tree)


def plain(value: Any) -> Any:
    """JSON has no NaN and no arrays."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | jax.Array):
        return plain(np.asarray(value).tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value


def machine() -> dict[str, Any]:
    """The machine, as far as speed depends on it."""
    return {
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "devices": [str(device) for device in jax.devices()],
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")

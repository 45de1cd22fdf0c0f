"""A suite: many worlds, many memories, several seeds, as a queue of small runs that survives anything.

A job is one run folder of ``store.py`` with one memory and one seed, so everything that holds for a run holds
for it: it is checkpointed, goes on where it stopped, and is skipped when it is done. The queue is joblib's,
on the processes of this machine or of a Ray cluster. All that is known about a suite is on the disk.

A worker that dies (killed, or out of memory) takes joblib's other workers with it. The runs that were under
way are then finished alone, one after another, from their checkpoints; one whose worker dies again is given
up, and the rest goes on.
"""

import json
import os
import time
import uuid
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

from ..worlds import resolve
from .cache import enable_compilation_cache
from .config import RunConfig
from .run import run
from .settings import ppo_of
from .store import Folder, InUse

EVALUATION_ACTORS = 256


@dataclass(frozen=True)
class Suite:
    """Every memory on every world from every seed, for ``steps`` environment steps each."""

    worlds: tuple[str, ...]
    memories: tuple[str, ...]
    seeds: int
    steps: int
    memory_size: int = 64

    def jobs(self) -> list[RunConfig]:
        """Seed after seed, so that all cells fill evenly and later seeds find their programs compiled.

        Raises ValueError for a world without a card, or where memory is worth nothing: its scores could not
        be compared."""
        made = []
        for seed in range(self.seeds):
            for world in self.worlds:
                card = resolve(world).make().card()
                if card is None:
                    raise ValueError(f"world '{world}' has no card, by which scores compare; leave it out")
                if not card.attainable > card.memoryless:
                    raise ValueError(f"on world '{world}' memory is worth nothing; leave it out")
                ppo = replace(ppo_of(world), memory_size=self.memory_size)
                made += [
                    RunConfig(
                        world=world,
                        memory=(memory,),
                        seeds=1,
                        steps=self.steps,
                        seed=seed,
                        evaluation_actors=EVALUATION_ACTORS,
                        evaluation_steps=card.steps,
                        ppo=ppo,
                    )
                    for memory in self.memories
                ]
        return made


def work(
    jobs: Sequence[RunConfig], root: Path, command: str, workers: int, ray: str | None = None
) -> dict[str, str]:
    """Do what of ``jobs`` is not done in ``root``; the reasons of those that could not be done, by folder.

    workers: processes at a time. ray: the address of a Ray cluster whose machines all see ``root``.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}; at least 1 process must work")
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    session = uuid.uuid4().hex

    def settled(job: RunConfig) -> bool:
        return is_done(job, root) or failure(job, root, session) is not None

    def interrupted(job: RunConfig) -> bool:
        return not settled(job) and (root / job.folder_name()).exists()

    while left := [job for job in jobs if not settled(job)]:
        try:
            _queue(left, root, command, session, workers, ray)
        except TerminatedWorkerError:
            begun = [job for job in left if interrupted(job)]
            if not begun:  # a worker cannot even begin
                raise
            for job in begun:
                try:
                    _queue([job], root, command, session, workers, ray)
                except TerminatedWorkerError:
                    why = "its worker was killed or ran out of memory, and when the job was alone there again"
                    _folder(job, root, command).append(_failed(session, why))
    return {job.folder_name(): why for job in jobs if (why := failure(job, root, session)) is not None}


def _queue(
    jobs: Sequence[RunConfig], root: Path, command: str, session: str, workers: int, ray: str | None
) -> None:
    from joblib import Parallel, delayed, parallel_config

    each = (delayed(do)(job, root, command, session) for job in jobs)
    if ray is not None:
        _register_ray(ray)
        with parallel_config(backend="ray"):
            Parallel(n_jobs=workers, batch_size=1)(each)  # pyright: ignore[reportArgumentType]
        return
    # XLA makes as many threads as the machine has cores; workers must share them. Workers inherit this.
    before = os.environ.get("NPROC")
    os.environ["NPROC"] = str(max(1, (os.cpu_count() or 1) // workers))
    try:
        # joblib does a queue for one worker in this process, which a crash would end.
        with parallel_config(backend="loky", n_jobs=max(2, workers)), warnings.catch_warnings():
            # Compiled programs add up, and a worker grown large is replaced between jobs: nothing to mend.
            warnings.filterwarnings("ignore", "A worker stopped while some jobs", UserWarning)
            Parallel(batch_size=1, pre_dispatch=workers)(each)  # pyright: ignore[reportArgumentType]
    finally:
        if before is None:
            del os.environ["NPROC"]
        else:
            os.environ["NPROC"] = before


def _register_ray(address: str) -> None:
    try:
        import ray  # pyright: ignore[reportMissingImports]
        from ray.util.joblib import register_ray  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError('--ray needs Ray: pip install "linmem[ray]"') from error
    register_ray()
    ray.init(address=address, ignore_reinit_error=True)


def do(job: RunConfig, root: Path, command: str, session: str) -> None:
    """One job, in a worker. What goes wrong is recorded, so that the queue goes on."""
    enable_compilation_cache()
    folder = _folder(job, root, command)
    began, cpu = time.perf_counter(), time.process_time()
    try:
        for _ in run(job, folder):
            pass
    except InUse:  # by whoever does this very job
        pass
    except Exception as error:  # whatever a memory or a world raises is told, and ends its own job only
        folder.append(_failed(session, f"{type(error).__name__}: {error}"))
    else:
        spent = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
        folder.append({"event": "job"} | spent)
    jax.clear_caches()  # a worker does many jobs


def _folder(job: RunConfig, root: Path, command: str) -> Folder:
    return Folder.create(root, job, command)


def _failed(session: str, why: str) -> dict[str, Any]:
    return {"event": "failed", "session": session, "why": why}


def is_done(job: RunConfig, root: Path) -> bool:
    """Whether the job was trained and evaluated."""
    return "result" in {record["event"] for record in Folder(root / job.folder_name()).records()}


def failure(job: RunConfig, root: Path, session: str | None = None) -> str | None:
    """Why the job failed when it was last tried (in ``session``, if given); None if it did not."""
    why = None
    for record in Folder(root / job.folder_name()).records():
        if record["event"] == "failed" and session in (None, record["session"]):
            why = record["why"]
        elif record["event"] == "result":
            why = None
    return why


def progress(job: RunConfig, root: Path) -> float:
    """The share of a job's updates that is recorded, without reading all of them: for a live view."""
    path = root / job.folder_name() / "records.jsonl"
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4000))
            lines = file.read().splitlines()
    except OSError:
        return 0.0
    for line in reversed(lines):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record.get("event") == "update":
            return record["update"] / job.updates
    return 0.0

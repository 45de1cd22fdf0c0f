"""Show a run in the terminal while it goes."""

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from ..memories.linear_filter import from_model
from ..worlds import resolve
from . import run
from .config import RunConfig
from .devices import Devices, writes
from .store import Folder
from .track import AbstractTracker, Follower


def watch(
    config: RunConfig,
    folder: Folder,
    checkpoint_seconds: float = run.CHECKPOINT_SECONDS,
    trackers: Sequence[AbstractTracker] = (),
    devices: Devices | None = None,
    again: str | None = None,
) -> bool:
    """Run ``config`` with live progress; False if it was interrupted (its folder then says how far it came).

    again: what goes on from there, if not `linmem run --resume`."""
    follower = Follower(folder, trackers)
    console = Console(quiet=not writes())
    console.print(
        f"[bold]{config.world}[/]: {', '.join(config.memory)}; "
        f"{config.seeds} seeds of {config.steps:,} steps each"
        + (f", on {devices.mesh.size} devices" if devices else ""),
        highlight=False,
    )
    console.print(f"folder: {folder.path}", highlight=False, soft_wrap=True)
    if "auto" in config.memory and (tables := resolve(config.world).make().tables()) is not None:
        chosen = type(from_model(tables)).__name__
        console.print(f"auto is {chosen}; `linmem analyse {config.world}` says why", highlight=False)
    bars = Progress(
        SpinnerColumn(),
        TextColumn("{task.description:16}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:.0f}/{task.total:.0f} updates"),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=console,
    )
    began = time.perf_counter()
    try:
        with bars:
            tasks = {
                name: bars.add_task(name, total=config.updates, start=False, note="waiting")
                for name in config.memory
            }
            for event in run.run(config, folder, checkpoint_seconds, devices):
                if isinstance(event, run.Compiling):  # what an interruption cost was just taken back
                    follower.skip()
                follower.follow()
                _show(bars, tasks[event.memory], event)
    except KeyboardInterrupt:
        console.print(
            f"\ninterrupted; {again or f'`linmem run --resume {folder.path}`'} goes on from there.",
            soft_wrap=True,
        )
        return False
    finally:
        follower.close()
    console.print(f"done in {time.perf_counter() - began:.0f} s\n", highlight=False)
    return True


def _show(bars: Progress, task, event: run.Event) -> None:
    match event:
        case run.Compiling(resumed_at=at):
            bars.start_task(task)
            bars.update(task, completed=at, note="compiling (some seconds; later runs find it in the cache)")
        case run.Progress():
            rate = event.steps / event.seconds
            bars.update(
                task,
                completed=event.updates,
                total=event.of,
                note=f"{rate:,.0f} steps/s  reward {event.reward:+.3f}",
            )
            if not bars.console.is_terminal:  # a log file gets lines instead of a live bar
                bars.console.print(
                    f"{event.memory}: update {event.updates}/{event.of}, {rate:,.0f} steps/s, "
                    f"reward {event.reward:+.3f}, compiled in {event.compile_seconds:.1f} s",
                    highlight=False,
                )
        case run.Finished(now=now):
            bars.start_task(task)
            total = bars.tasks[task].total
            note: dict[str, Any] = {} if now else {"note": "done before"}
            bars.update(task, completed=total, **note)
            bars.stop_task(task)

"""Solve a problem against the clock, show how far it is, and keep the policy as plain arrays."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.live import Live

from ..planning.alpha import AlphaPolicy
from ..planning.point_based import Bounds, PointBasedSolver
from ..worlds.sparse import SparsePOMDP
from .store import NOT_ARRAYS, arrays_bytes, write_whole

LOG_SECONDS = 5.0  # between lines where there is no terminal to update


def solve(
    model: SparsePOMDP, seconds: float, gap: float, console: Console
) -> tuple[AlphaPolicy, Bounds, float, bool]:
    """Solve until the relative gap or the time is reached, or Ctrl-C, which keeps the best so far.

    Returns the policy, its bounds, the seconds spent, and whether it was interrupted.
    """
    began = time.perf_counter()
    console.print(
        f"{model.n_states} states, {model.n_actions} actions, {model.n_observations} observations, "
        f"discount {model.discount:g}",
        highlight=False,
    )
    solver = PointBasedSolver(model)
    last_line, bounds = began, solver.bounds()
    with _on_interrupt() as interrupted, Live(console=console, refresh_per_second=4, transient=True) as live:
        for bounds in solver.solve(gap):
            now = time.perf_counter()
            live.update(line(bounds, now - began), refresh=False)
            if not console.is_terminal and now - last_line > LOG_SECONDS:
                console.print(line(bounds, now - began), highlight=False)
                last_line = now
            if interrupted or now - began > seconds:
                break
    return solver.policy(), bounds, time.perf_counter() - began, bool(interrupted)


def line(bounds: Bounds, seconds: float) -> str:
    """What is known, in one line."""
    return (
        f"lower {bounds.lower:.6g}  upper {bounds.upper:.6g}  "
        f"gap {bounds.gap:.3g} ({100 * bounds.relative_gap:.3g}%)  {seconds:.1f} s  "
        f"{bounds.trials} trials, {bounds.beliefs} beliefs, {bounds.vectors} vectors"
    )


@contextmanager
def _on_interrupt() -> Iterator[list[bool]]:
    """A list that is no longer empty after Ctrl-C; a second one ends the program as usual."""
    pressed: list[bool] = []

    def handler(number, frame):
        if pressed:
            raise KeyboardInterrupt
        pressed.append(True)

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def save_policy(path: Path, model: SparsePOMDP, policy: AlphaPolicy, bounds: Bounds) -> None:
    """Plain arrays in a .npz file, written whole or not at all: vectors (r, n), actions (r,), initial (n,),
    discount, lower, upper."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = arrays_bytes(
        vectors=policy.vectors,
        actions=policy.actions,
        initial=model.initial,
        discount=model.discount,
        lower=bounds.lower,
        upper=bounds.upper,
    )
    write_whole(path, content)


def load_policy(path: Path) -> AlphaPolicy:
    """The policy that ``save_policy`` wrote. No code is loaded. Raises ValueError if ``path`` holds none."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return AlphaPolicy(file["vectors"], file["actions"])
    except NOT_ARRAYS as error:
        raise ValueError(
            f"{path} holds no saved policy ({error}); `linmem solve --save` writes one"
        ) from error

"""A figure of named lines with markers on one pair of axes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..reports.figures import PALETTE
from .drawing import panels, save


def write_lines(
    path: Path,
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x: str,
    y: str,
    log: str = "xy",
) -> Path:
    """Draw each named (xs, ys); ``x`` and ``y`` label the axes, those named in ``log`` are logarithmic. A
    logarithmic x has a tick at every point."""
    figure, (axes,) = panels(1, height=3.6)
    for i, (name, (xs, ys)) in enumerate(lines.items()):
        axes.plot(xs, ys, marker=".", color=PALETTE[i % len(PALETTE)], label=name, linewidth=1.6)
    axes.set_xscale("log" if "x" in log else "linear")
    if "x" in log:
        axes.set_xticks(sorted({value for xs, _ in lines.values() for value in xs}))
    axes.set_yscale("log" if "y" in log else "linear")
    axes.set(xlabel=x, ylabel=y)
    axes.grid(color="#e5e5e5", linewidth=0.7)
    axes.legend(frameon=False, fontsize=9)
    return save(figure, path)

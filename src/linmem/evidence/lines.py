"""A figure of lines with markers, in the style of the reports, written as SVG."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from ..reports.figures import PALETTE, STYLE, WIDTH


def write_lines(
    path: Path,
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x: str,
    y: str,
    log: str = "xy",
) -> Path:
    """Draw each named (xs, ys); ``x`` and ``y`` label the axes, those named in ``log`` are logarithmic."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
        axes = figure.subplots()
        for i, (name, (xs, ys)) in enumerate(lines.items()):
            style = ("-", "--", ":")[i // len(PALETTE) % 3]
            axes.plot(xs, ys, style, marker=".", color=PALETTE[i % len(PALETTE)], label=name, linewidth=1.6)
        axes.set_xscale("log" if "x" in log else "linear")
        axes.set_yscale("log" if "y" in log else "linear")
        axes.set(xlabel=x, ylabel=y)
        axes.grid(color="#e5e5e5", linewidth=0.7)
        axes.legend(frameon=False, fontsize=9)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None}, facecolor="white")
    return path

"""Figures of the `reproduce` commands, as SVG files with the same bytes for the same numbers."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from ..reports.figures import STYLE, WIDTH


def panels(count: int, height: float = 3.2) -> tuple[Figure, list]:
    """A figure of ``count`` axes, one above the other."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height * count), layout="constrained")
        return figure, list(figure.subplots(count, 1, squeeze=False)[:, 0])


def save(figure: Figure, path: Path) -> Path:
    """Write the figure to ``path`` (.svg), making its folder. Logarithmic axes are labelled with plain
    numbers: Matplotlib would write them as formulas, which the style does not read."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() == "log":
                axis.set_major_formatter("{x:g}")
                axis.set_minor_formatter(NullFormatter())
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        figure.savefig(path, metadata={"Date": None}, facecolor="white")
    return path

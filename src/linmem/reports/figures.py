"""The pictures of a run, each with words that say the same to those who cannot see it.

Figures are built without pyplot, so nothing is shared between two reports. A memory keeps its colour in
every figure of a run; colours are Okabe and Ito's palette, told apart by colour-blind readers (its yellow
is left out: it vanishes on white).
"""

import base64
import io
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from scipy.optimize import isotonic_regression

from linmem.reports.records import Episode, Run, per_seed
from linmem.reports.tables import ORACLE, REACTIVE, show, summary

PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
WIDTH = 5.2  # inches: narrow, so that letters stay readable when a phone shrinks the picture
STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "text.color": "#222222",
    "axes.labelcolor": "#222222",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "text.parse_math": False,  # a memory's name is never a formula
    "axes.unicode_minus": True,
    "svg.hashsalt": "linmem",  # same run, same bytes
}


class Picture(NamedTuple):
    """A figure and its text alternative."""

    figure: Figure
    alt: str


def look(memories: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and line style of each memory: black for the oracle, grey for no memory, else the palette."""
    reserved = {ORACLE: ("#000000", "-"), REACTIVE: ("#888888", "-")}
    others = [memory for memory in memories if memory not in reserved]
    styles = [(colour, line) for line, colour in product(["-", "--", ":", "-."], PALETTE)]
    return reserved | {memory: styles[i % len(styles)] for i, memory in enumerate(others)}


@mpl.rc_context(STYLE)
def learning_curves(
    run: Run, references: Mapping[str, float] | None = None, quantity: str = "mean reward per step"
) -> Picture:
    """Reward against environment steps: line = mean over seeds, band = lowest to highest seed.

    `references` are named horizontal lines, such as the value of an optimal policy. `quantity` is what the
    records' rewards are.
    """
    figure, axes = _canvas(height=3.6)
    style, ends, words = look(run.memories), {}, []
    for memory in run.memories:
        if memory not in run.updates:
            continue
        steps, reward = _curve(run.updates[memory])
        mean, (colour, line) = reward.mean(1), style[memory]
        axes.fill_between(steps, reward.min(1), reward.max(1), color=colour, alpha=0.15, linewidth=0)
        marker = "." if len(steps) == 1 else ""  # one update is no line
        axes.plot(steps, mean, color=colour, linestyle=line, linewidth=1.6, marker=marker)
        ends[memory] = (steps[-1], mean[-1], colour)
        words.append(
            f"{memory} goes from {mean[0]:.3f} to {mean[-1]:.3f} in {steps[-1]:,.0f} steps "
            f"(seeds end between {reward[-1].min():.3f} and {reward[-1].max():.3f})"
        )
    axes.margins(x=0)
    for name, level in (references or {}).items():
        axes.axhline(level, color="#666666", linestyle=":", linewidth=1)
        ends[name] = (axes.get_xlim()[1], level, "#666666")
        words.append(f"the reference line {name} lies at {level:.3f}")
    axes.set(xlabel="environment steps", ylabel=quantity)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    label_ends(axes, ends)
    return Picture(figure, f"Learning curves of {quantity}: {'; '.join(words)}.")


@mpl.rc_context(STYLE)
def final_rewards(run: Run) -> Picture:
    """Final reward of each memory, best on top: large dot = mean, bar = its interval, small dots = seeds."""
    rows = sorted(summary(run), key=lambda row: row.reward.mean)
    figure, axes = _canvas(height=0.9 + 0.42 * len(rows))
    style = look(run.memories)
    for height, row in enumerate(rows):
        colour = style[row.memory][0]
        seeds = per_seed(run.results[row.memory]["reward"])
        axes.plot(
            seeds, np.full(seeds.size, height - 0.26), ".", color=colour, alpha=0.7, markersize=7, mew=0
        )
        axes.plot([row.reward.low, row.reward.high], [height, height], color=colour, linewidth=2.5)
        axes.plot(row.reward.mean, height, "o", color=colour, markersize=8)
        axes.annotate(
            show(row.reward)[0], (1.02, height), xycoords=axes.get_yaxis_transform(), va="center", fontsize=10
        )
    axes.set(xlabel="final mean reward per step", ylim=(-0.6, len(rows) - 0.4))
    axes.set_yticks(range(len(rows)), [_short(row.memory) for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    words = "; ".join(f"{row.memory} {' '.join(show(row.reward))}" for row in reversed(rows))
    return Picture(figure, f"Final mean reward per step with its 95% interval, best first: {words}.")


@mpl.rc_context(STYLE)
def episode(run: Run, steps: int = 60) -> Picture:
    """What each memory believes during the first `steps` of one episode, true states dotted.

    Each agent acts for itself, so each memory's row is an episode of its own. The top row is the exact belief
    in the episode of the row below it; titles also say how often the exact belief errs in that episode.
    """
    episodes = {memory: run.episodes[memory] for memory in run.memories if memory in run.episodes}
    if not episodes:
        raise ValueError(f"run {run.name!r} holds no episodes; there is nothing to draw")
    first = next(iter(episodes.values()))
    figure = Figure(figsize=(WIDTH, 1.2 + 1.05 * (len(episodes) + 1)), layout="constrained")
    top, *grid = figure.subplots(len(episodes) + 1, 1, sharex=True)
    image = _heat_map(top, first, first.belief, steps)
    top.set_title("exact belief", loc="left", pad=3)
    words = []
    for axes, (memory, one) in zip(grid, episodes.items(), strict=True):
        _heat_map(axes, one, one.decoded, steps)
        wrong, unavoidable = (_wrong(one, belief, steps) for belief in (one.decoded, one.belief))
        axes.set_title(f"{_short(memory)}: wrong {wrong:.0%} (exact {unavoidable:.0%})", loc="left", pad=3)
        words.append(f"{memory} {wrong:.0%} (exact belief {unavoidable:.0%})")
    grid[-1].set_xlabel("step")
    figure.supylabel("hidden state", fontsize=11)
    bar = figure.colorbar(image, ax=[top, *grid], location="bottom", aspect=40, shrink=0.6, pad=0.01)
    bar.set_label("believed probability")
    bar.outline.set_visible(False)
    return Picture(
        figure,
        f"Heat maps of the believed probability of each hidden state over the first "
        f"{len(first.hidden[:steps])} steps of an episode, true state dotted. Share of these steps at which "
        f"the most likely state is wrong: {'; '.join(words)}.",
    )


def data_uri(figure: Figure) -> str:
    """The figure as an SVG in a `data:` address, for the src of an <img>: no second file, no clash of ids."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, facecolor="white", dpi=150)
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _canvas(height: float):
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _heat_map(axes, one: Episode, belief: np.ndarray, steps: int):
    image = axes.imshow(
        belief[:steps].T, aspect="auto", origin="lower", cmap="Blues", vmin=0, vmax=1, interpolation="none"
    )
    axes.plot(one.hidden[:steps], ".", color=PALETTE[1], markersize=5, mew=0)
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.spines[:].set_visible(False)
    return image


def _wrong(one: Episode, belief: np.ndarray, steps: int) -> float:
    return float(np.mean(belief[:steps].argmax(1) != one.hidden[:steps]))


def _curve(updates: list[dict], points: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Steps (U,) and reward (U, S); a long run is averaged down to `points` groups of successive updates,
    without those in which nobody acted, whose reward is nan."""
    groups = min(points, len(updates))
    reward = np.array([per_seed(record["reward"]) for record in updates])
    steps = np.array([record["steps"] for record in updates], float)
    return (
        np.array([group[-1] for group in np.array_split(steps, groups)]),
        np.array(
            [np.ma.masked_invalid(group).mean(0).filled(np.nan) for group in np.array_split(reward, groups)]
        ),
    )


def label_ends(axes, ends: Mapping[str, tuple[float, float, str]]) -> None:
    """Write each line's name right of the axes, near its last point (x, y, colour), without overlap."""
    ends = {name: end for name, end in ends.items() if np.isfinite(end[1])}
    if not ends:
        return
    bottom, top = axes.get_ylim()
    order = sorted(ends, key=lambda name: ends[name][1])
    # Least movement that keeps labels a line apart: isotonic regression once the wanted gaps are taken out.
    gaps = np.arange(len(order)) * 0.07 * (top - bottom)
    heights = isotonic_regression([ends[name][1] for name in order] - gaps).x + gaps
    for name, height in zip(order, heights, strict=True):
        x, y, colour = ends[name]
        axes.annotate(
            _short(name),
            xy=(x, y),
            xytext=(1.05, height),
            textcoords=axes.get_yaxis_transform(),
            va="center",
            fontsize=10,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 1.2,
                "shrinkA": 1,
                "shrinkB": 0,
                "relpos": (0, 0.5),
            },
        )


def _short(name: str, length: int = 18) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"

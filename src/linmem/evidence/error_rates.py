"""Counts of wrong decodings at several eps: how they are drawn, compared, and shown.

Shared by the experiments in which several decoders follow the same hidden states and each names the most
probable one after many steps. Decoders are compared on the trajectories where just one of them errs
(McNemar's test), since all saw the same observations.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from rich.console import Console
from scipy import stats

from ..core.types import Inputs
from ..measures.statistics import Interval, wilson_interval
from ..memories.base import AbstractMemory
from ..reports.figures import PALETTE, STYLE, WIDTH, Picture
from ..reports.html import Section, write_page
from ..reports.tables import Table
from ..worlds.tables import POMDP
from .conclude import Evidence, Target, conclude

INVERSE_EPS = tuple(np.linspace(30, 250, 23).tolist())
STEPS = 1000

FALSE_ALARM = 0.05
"""Chance that of a group of true targets one is called missed; shared out among its comparisons."""


# --- trajectories -------------------------------------------------------------------------------------------


def advance(
    model: POMDP, key: PRNGKeyArray, states: Int[Array, " b"], actions: Int[Array, " b"]
) -> tuple[Int[Array, " b"], Int[Array, " b"]]:
    """Move b states by an action each and observe them: (states, observations)."""
    move, read = jax.random.uniform(key, (2, *states.shape))
    states = _draw(move, jnp.asarray(model.transition)[actions, states])
    return states, _draw(read, jnp.asarray(model.emission)[actions, states])


def _draw(uniform: Float[Array, " b"], rows: Float[Array, "b k"]) -> Int[Array, " b"]:
    """How many of the tails P(1 or more), P(2 or more), ... are above a uniform number."""
    tails = jnp.cumsum(rows[:, :0:-1], axis=1)
    return jnp.sum(uniform[:, None] < tails, axis=1)


def remember(
    memory: AbstractMemory, state: Any, observations: Int[Array, " b"], actions: Int[Array, " b"]
) -> tuple[Any, Float[Array, "b f"]]:
    """One step of b trajectories, none of which starts: (states of the memory, features)."""

    def one(state, observation, action):
        return memory.step(state, Inputs(observation, action, jnp.zeros(())), jnp.zeros((), bool))

    return jax.vmap(one)(state, observations, actions)


def wrong_together(guesses: Int[Array, "d b"], states: Int[Array, " b"]) -> Int[Array, "d d"]:
    """On how many trajectories two decoders are wrong together."""
    wrong = (guesses != states).astype(int)
    return wrong @ wrong.T


# --- counts and comparisons ---------------------------------------------------------------------------------


class Point(NamedTuple):
    """What was counted at one eps. both_wrong[i, j]: trajectories on which decoders i and j are wrong."""

    inverse_eps: float
    trajectories: int
    steps: int
    decoders: tuple[str, ...]
    both_wrong: Int[np.ndarray, "d d"]

    def errors(self, decoder: str) -> int:
        i = self.decoders.index(decoder)
        return int(self.both_wrong[i, i])

    def error(self, decoder: str) -> Interval:
        """Share of wrong trajectories with its 95% Wilson interval."""
        errors = self.errors(decoder)
        low, high = wilson_interval(errors, self.trajectories)
        return Interval(errors / self.trajectories, float(low), float(high))

    def excess(self, decoder: str, over: str) -> float:
        """z of "``decoder`` errs more often than ``over``", where just one of them errs."""
        shared = int(self.both_wrong[self.decoders.index(decoder), self.decoders.index(over)])
        alone, other_alone = self.errors(decoder) - shared, self.errors(over) - shared
        return (alone - other_alone) / max(alone + other_alone, 1) ** 0.5

    def z(self, decoder: str, rate: float) -> float:
        """Of the difference from a rate known beforehand."""
        return (self.error(decoder).mean - rate) / (rate * (1 - rate) / self.trajectories) ** 0.5

    def row(self, decoder: str) -> dict[str, Any]:
        """One decoder's count as plain JSON values."""
        error = self.error(decoder)
        return {
            "inverse_eps": self.inverse_eps,
            "decoder": decoder,
            "step": self.steps,
            "trajectories": self.trajectories,
            "errors": self.errors(decoder),
            "error": error.mean,
            "low": error.low,
            "high": error.high,
        }


def check_trajectories(trajectories: int) -> None:
    if trajectories < 1:
        raise ValueError(f"trajectories is {trajectories}; an error rate needs at least 1")


def limit(comparisons: int, sides: int) -> float:
    """The z that any of so many true comparisons exceeds with probability at most FALSE_ALARM."""
    return float(stats.norm.ppf(1 - FALSE_ALARM / (sides * comparisons)))


def orders(points: Sequence[Point], pairs: Sequence[tuple[str, str]]) -> list[Target]:
    """For each (better, worse): better errs no more than worse, at every point."""
    largest = limit(len(pairs) * len(points), sides=1)
    targets = []
    for better, worse in pairs:
        z, where = max((point.excess(better, worse), point.inverse_eps) for point in points)
        measured, required = f"largest z = {z:+.2f} (1/eps = {where:g})", f"z < {largest:.2f}"
        claim = f"{better} errs no more than {worse}, at every point"
        targets.append(Target(claim, z < largest, measured, required))
    return targets


def in_time(seconds: float, most: float) -> Target:
    return Target("time for all points", seconds < most, f"{seconds:.0f} s", f"under {most:.0f} s on 2 cores")


# --- how they look ------------------------------------------------------------------------------------------


X_TICKS, Y_TICKS = [30, 50, 100, 150, 250], [0.01, 0.02, 0.05, 0.1, 0.2, 0.5]
BLACK = "#000000"
COLOURS = (*PALETTE[:5], BLACK)
"""In the order of the decoders; black for the last, which is Bayes' filter."""


@mpl.rc_context(STYLE)
def error_figure(
    rows: Sequence[dict], colours: dict[str, str], y_ends: tuple[float, float]
) -> tuple[Picture, Axes]:
    """Error against 1/eps, both logarithmic, of the decoders with a colour: line = error, band = interval.

    y_ends: given, for a run with few trajectories may count no error, which has no logarithm.
    """
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    words = []
    for decoder, colour in colours.items():
        mine = [row for row in rows if row["decoder"] == decoder]
        columns = ("inverse_eps", "error", "low", "high")
        x, error, low, high = (np.array([row[name] for row in mine]) for name in columns)
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(x, error, color=colour, linewidth=1.5, marker=".", markersize=4)
        axes.annotate(
            decoder,
            (1.03, max(error[-1], y_ends[0])),
            xycoords=axes.get_yaxis_transform(),
            va="center",
            fontsize=9,
            color=colour,
            annotation_clip=False,
        )
        words.append(f"{decoder} from {error[0]:.4f} to {error[-1]:.4f}")
    axes.set(xscale="log", yscale="log", ylim=y_ends)
    axes.set(xlabel="1/eps", ylabel=f"error at step {rows[0]['step']}")
    for axis, ticks in ((axes.xaxis, X_TICKS), (axes.yaxis, Y_TICKS)):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
    axes.grid(color="#e5e5e5", linewidth=0.7)
    alt = (
        f"Share of wrong decodings on logarithmic axes, from 1/eps = {rows[0]['inverse_eps']:g} to "
        f"{rows[-1]['inverse_eps']:g}: {'; '.join(words)}."
    )
    return Picture(figure, alt), axes


def present(
    evidence: Evidence,
    picture: Picture,
    title: str,
    about: str,
    how_to_read: str,
    out: Path,
    json: Path | None,
) -> int:
    """Write the page ``<name>.html`` and its figure ``<name>.svg`` into ``out``, then ``conclude``."""
    out.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        picture.figure.savefig(out / f"{evidence.name}.svg", metadata={"Date": None}, facecolor="white")
    met = Table(
        ["target", "holds", "measured", "required"],
        [[t.name, "yes" if t.holds else "NO", t.measured, t.required] for t in evidence.targets],
    )
    sections = [
        Section("What was run", about + "\n\n" + "\n\n".join(evidence.remarks)),
        Section("Error against 1/eps", how_to_read, None, *picture),
        Section("In short", "", evidence.table),
        Section("Targets", "", met),
        Section("All points", "Error with its 95% Wilson interval.", _every_point(evidence.rows)),
    ]
    page = write_page(out / f"{evidence.name}.html", title, sections)
    code = conclude(evidence, json)
    Console().print(f"page: {page}", soft_wrap=True, highlight=False)
    return code


def _every_point(rows: Sequence[dict]) -> Table:
    decoders = list(dict.fromkeys(row["decoder"] for row in rows))
    cells: dict[float, list] = {}
    for row in rows:
        interval = Interval(row["error"], row["low"], row["high"])
        cells.setdefault(row["inverse_eps"], [f"{row['inverse_eps']:g}"]).append(interval)
    return Table(["1/eps", *decoders], list(cells.values()), places=4)

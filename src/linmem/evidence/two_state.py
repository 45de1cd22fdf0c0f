"""Experiment 6.1: how often six decoders mistake the state of a nearly deterministic two-state chain.

    T = [[eps, 1-eps], [1-eps, eps]],   E = [[.9, .1], [.1, .9]],   pi_0 = [1, 0],   all logits start at 0

At each step the state moves and is then observed, so the first observation follows a move; the filters know
neither pi_0 nor any start. After STEPS steps each decoder names the state of its largest logit. The rates of
the adaptive filter (ALF) are two that Theorem 5.7 admits and three that it does not; the exact filter (LOF)
is the Bayes decoder.

| paper   | here            | shape     | meaning                                              |
|---------|-----------------|-----------|------------------------------------------------------|
| w_k     | logits[:5]      | (5, b, n) | ALF at five rates, b trajectories side by side       |
| l_k     | logits[5]       | (b, n)    | LOF                                                  |
| delta   | RATES           |           | forgetting rate as a function of eps                 |

OPEN in the paper: who wins a tie. Here state 0. It matters to delta = 0 only, whose logits stay 0, and there
by less than 0.0004: P(state 1) = (1 - (2 eps - 1)^1000) / 2 is then 1/2 to within 0.0002, so a constant
guess is as good as any, and the published figures cannot tell the rules apart.

Source: Y. Zhao, O. Eberhard, M. Khammassi, A. H. Sayed, M. Muehlebach, 2026, arXiv:2605.31261, section 6.1;
PUBLISHED is an independent reproduction of its figure with 80,000 trajectories per point.
"""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from rich.progress import track
from scipy import stats

from ..core.types import Inputs
from ..measures.statistics import Interval, wilson_interval
from ..memories.linear_filter import AdaptiveLinearFilter
from ..reports.figures import PALETTE, STYLE, WIDTH, Picture
from ..reports.html import Section, write_page
from ..reports.tables import Table
from ..worlds.tables import POMDP
from .conclude import Evidence, Target, conclude

INVERSE_EPS = tuple(np.linspace(30, 250, 23).tolist())
STEPS = 1000
SECONDS = 120

RATES: dict[str, Callable[[float], float]] = {
    "ALF 0.7/log(1/eps)": lambda eps: 0.7 / np.log(1 / eps),
    "ALF sqrt(eps)": lambda eps: eps**0.5,
    "ALF eps^2": lambda eps: eps**2,
    "ALF 0": lambda eps: 0.0,
    "ALF 1": lambda eps: 1.0,
}
"""The decoders that forget, by name: ALF and its delta."""
LOF = "LOF (Bayes)"
DECODERS = (*RATES, LOF)

Ends = tuple[float, float]

PUBLISHED: dict[float, dict[str, Ends]] = {
    30.0: {
        "ALF 0.7/log(1/eps)": (0.0693, 0.0729),
        "ALF sqrt(eps)": (0.0797, 0.0835),
        "ALF eps^2": (0.4463, 0.4531),
        "ALF 0": (0.497, 0.504),
        "ALF 1": (0.0972, 0.1024),
        LOF: (0.0496, 0.0527),
    },
    250.0: {
        "ALF 0.7/log(1/eps)": (0.0166, 0.0184),
        "ALF sqrt(eps)": (0.0359, 0.0385),
        "ALF eps^2": (0.3945, 0.4013),
        "ALF 0": (0.497, 0.504),
        "ALF 1": (0.0975, 0.1016),
        LOF: (0.0105, 0.0119),
    },
}
"""95% Wilson intervals of the error, by 1/eps and decoder."""
PUBLISHED_TRAJECTORIES = 80_000

FALSE_ALARM = 0.05
"""Chance that of a group of true targets one is called missed; shared out among its comparisons."""


# --- the experiment -----------------------------------------------------------------------------------------


def two_state_model(eps: float) -> POMDP:
    """The chain of the experiment, with one action and nothing to earn."""
    transition = [[[eps, 1 - eps], [1 - eps, eps]]]
    return POMDP(transition, [[0.9, 0.1], [0.1, 0.9]], reward=[0.0, 0.0], initial=[1.0, 0.0], discount=0.0)


class Decoders(eqx.Module):
    """The six decoders of one chain, in the order of DECODERS; logits (6, b, 2)."""

    adaptive: AdaptiveLinearFilter
    """its arrays have a leading axis of rates"""
    log_transition: Float[Array, "n n"]
    """[next, current]"""
    log_emission: Float[Array, "k n"]

    def __init__(self, model: POMDP, eps: float):
        filters = [AdaptiveLinearFilter(model, float(rate(eps))) for rate in RATES.values()]
        self.adaptive = jax.tree.map(lambda *leaves: jnp.stack(leaves), *filters)
        self.log_transition = jnp.log(jnp.asarray(model.transition[0].T))
        self.log_emission = jnp.log(jnp.asarray(model.emission[0].T))

    def step(self, logits: Float[Array, "6 b n"], observations: Int[Array, " b"]) -> Float[Array, "6 b n"]:
        """Take in one observation of each trajectory."""

        def remember(memory, state, observation):
            no_action, no_reward, no_start = jnp.zeros((), int), jnp.zeros(()), jnp.zeros((), bool)
            return memory.step(state, Inputs(observation, no_action, no_reward), no_start)[0]

        each_trajectory = jax.vmap(remember, in_axes=(None, 0, 0))
        each_rate = jax.vmap(each_trajectory, in_axes=(0, 0, None))
        adaptive = each_rate(self.adaptive, logits[:-1], observations)
        # ``Belief`` computes the same for any number of states, and takes 20 times as long on a CPU as the
        # sum of two terms written out: minutes here. The tests hold the two together.
        from_0, from_1 = self.log_transition.T
        exact = self.log_emission[observations] + jnp.logaddexp(
            from_0 + logits[-1, :, :1], from_1 + logits[-1, :, 1:]
        )
        exact -= jnp.max(exact, axis=-1, keepdims=True)  # logits matter up to a constant, and would drift
        return jnp.concatenate([adaptive, exact[None]])


@functools.partial(jax.jit, static_argnames=("trajectories", "steps"))
def _mistakes(model: POMDP, decoders: Decoders, key: PRNGKeyArray, trajectories: int, steps: int):
    """On how many trajectories two decoders are wrong together, (6, 6), after the last step."""
    to_1, reads_1 = model.transition[0, :, 1], model.emission[0, :, 1]
    first, rest = jax.random.split(key)

    def step(carry, key):
        states, logits = carry
        move, read = jax.random.uniform(key, (2, trajectories))
        states = (move < to_1[states]).astype(int)
        observations = (read < reads_1[states]).astype(int)
        return (states, decoders.step(logits, observations)), None

    states = (jax.random.uniform(first, (trajectories,)) < model.initial[1]).astype(int)
    logits = jnp.zeros((len(DECODERS), trajectories, 2))
    (states, logits), _ = jax.lax.scan(step, (states, logits), jax.random.split(rest, steps))
    wrong = (jnp.argmax(logits, axis=-1) != states).astype(int)
    return wrong @ wrong.T


class Point(NamedTuple):
    """What was counted at one eps. both_wrong[i, j]: trajectories on which decoders i and j are wrong."""

    inverse_eps: float
    trajectories: int
    steps: int
    both_wrong: Int[np.ndarray, "6 6"]

    def errors(self, decoder: str) -> int:
        i = DECODERS.index(decoder)
        return int(self.both_wrong[i, i])

    def error(self, decoder: str) -> Interval:
        """Share of wrong trajectories with its 95% Wilson interval."""
        errors = self.errors(decoder)
        low, high = wilson_interval(errors, self.trajectories)
        return Interval(errors / self.trajectories, float(low), float(high))

    def excess(self, decoder: str, over: str) -> float:
        """z of "``decoder`` errs more often than ``over``", on the trajectories where just one of them errs.

        McNemar's test: both saw the same observations, so shared errors say nothing about their difference.
        """
        shared = int(self.both_wrong[DECODERS.index(decoder), DECODERS.index(over)])
        alone, other_alone = self.errors(decoder) - shared, self.errors(over) - shared
        return (alone - other_alone) / max(alone + other_alone, 1) ** 0.5


def measure(
    trajectories: int, seed: int, inverse_eps: Sequence[float] = INVERSE_EPS, steps: int = STEPS
) -> Iterator[Point]:
    """The points one after another, each with randomness of its own."""
    if trajectories < 1:
        raise ValueError(f"trajectories is {trajectories}; an error rate needs at least 1")
    for place, inverse in enumerate(inverse_eps):
        model, key = two_state_model(1 / inverse), jax.random.fold_in(jax.random.key(seed), place)
        both = _mistakes(model, Decoders(model, 1 / inverse), key, trajectories, steps)
        yield Point(inverse, trajectories, steps, np.asarray(both))


# --- what it shows ------------------------------------------------------------------------------------------


def z_against_published(errors: int, trajectories: int, published: Ends) -> float:
    """z of the difference from a published rate, known by its 95% Wilson interval.

    The rate is the interval's centre (off by less than 0.00003, the last digit's rounding) and its standard
    error follows from the width; to it comes that of ``trajectories`` of ours if they had this rate.
    """
    z = stats.norm.ppf(0.975)
    low, high = published
    rate = (low + high) / 2
    variance = ((high - low) / (2 * z)) ** 2 + rate * (1 - rate) / trajectories
    return float((errors / trajectories - rate) / variance**0.5)


def targets_of(
    points: Sequence[Point], published: Mapping[float, Mapping[str, Ends]] = PUBLISHED
) -> list[Target]:
    """Every published cell that was measured, and what must hold at all points."""
    return [*_published_cells(points, published), *_orders(points), *_closed_forms(points)]


def _published_cells(points, published) -> list[Target]:
    limit = _limit(sum(map(len, published.values())), sides=2)
    targets = []
    for point in points:
        for decoder, (low, high) in published.get(point.inverse_eps, {}).items():
            z = z_against_published(point.errors(decoder), point.trajectories, (low, high))
            targets.append(
                Target(
                    f"{decoder} at 1/eps = {point.inverse_eps:g}",
                    abs(z) < limit,
                    f"error {point.error(decoder).mean:.4f}, z = {z:+.2f}",
                    f"{low:.4f}-{high:.4f} within |z| < {limit:.2f}",
                )
            )
    return targets


def _orders(points) -> list[Target]:
    pairs = [*((LOF, decoder) for decoder in RATES), ("ALF 0.7/log(1/eps)", "ALF sqrt(eps)")]
    limit = _limit(len(pairs) * len(points), sides=1)
    targets = []
    for better, worse in pairs:
        z, where = max((point.excess(better, worse), point.inverse_eps) for point in points)
        measured, required = f"largest z = {z:+.2f} (1/eps = {where:g})", f"z < {limit:.2f}"
        claim = f"{better} errs no more than {worse}, at every point"
        targets.append(Target(claim, z < limit, measured, required))
    return targets


def _closed_forms(points) -> list[Target]:
    """Errors known beforehand: an observation is wrong with probability .1, a guess of state 0 with that of
    state 1."""
    limit = _limit(2 * len(points), sides=2)
    targets = []
    for decoder, name, rate in (
        ("ALF 1", "one observation does, .1", lambda point: 0.1),
        ("ALF 0", "a constant guess does, (1 - (2 eps - 1)^k) / 2", _probability_of_1),
    ):
        z, where = max((abs(_z(point, decoder, rate(point))), point.inverse_eps) for point in points)
        measured, required = f"largest |z| = {z:.2f} (1/eps = {where:g})", f"|z| < {limit:.2f}"
        targets.append(Target(f"{decoder} errs as {name}, at every point", z < limit, measured, required))
    return targets


def _probability_of_1(point: Point) -> float:
    # A move keeps the state with probability eps, so each multiplies P(0) - P(1), 1 at first, by 2 eps - 1.
    return (1 - (2 / point.inverse_eps - 1) ** point.steps) / 2


def _z(point: Point, decoder: str, rate: float) -> float:
    spread = (rate * (1 - rate) / point.trajectories) ** 0.5
    return (point.error(decoder).mean - rate) / spread


def _limit(comparisons: int, sides: int) -> float:
    """The z that any of so many true comparisons exceeds with probability at most FALSE_ALARM."""
    return float(stats.norm.ppf(1 - FALSE_ALARM / (sides * comparisons)))


def reproduce(trajectories: int = 20_000, seed: int = 0, progress: bool = False) -> Evidence:
    """The experiment as published (23 points, step 1000) beside the published intervals.

    trajectories: at each point. progress: show a bar while it runs.
    """
    began = time.perf_counter()
    points = measure(trajectories, seed)
    points = list(track(points, "two states", total=len(INVERSE_EPS), disable=not progress, transient=True))
    seconds = time.perf_counter() - began
    required = f"under {SECONDS} s on 2 cores"
    in_time = Target("time for all points", seconds < SECONDS, f"{seconds:.0f} s", required)
    return Evidence(
        "two-state",
        _rows(points),
        _beside_published(points),
        [*targets_of(points), in_time],
        (
            f"{trajectories:,} trajectories at each of {len(points)} values of 1/eps; brackets hold "
            f"95% Wilson intervals, as does the published column ({PUBLISHED_TRAJECTORIES:,} trajectories).",
            "ALF 0 never moves its logits; the tie goes to state 0. Another rule would change its error by "
            "less than 0.0004.",
        ),
    )


def _rows(points: Sequence[Point]) -> list[dict]:
    rows = []
    for point in points:
        for decoder in DECODERS:
            error = point.error(decoder)
            published = PUBLISHED.get(point.inverse_eps, {}).get(decoder)
            rows.append(
                {
                    "inverse_eps": point.inverse_eps,
                    "decoder": decoder,
                    "delta": float(RATES[decoder](1 / point.inverse_eps)) if decoder in RATES else None,
                    "step": point.steps,
                    "trajectories": point.trajectories,
                    "errors": point.errors(decoder),
                    "error": error.mean,
                    "low": error.low,
                    "high": error.high,
                    "published": None if published is None else list(published),
                }
            )
    return rows


def _beside_published(points: Sequence[Point]) -> Table:
    rows = []
    for point in points:
        for decoder, (low, high) in PUBLISHED.get(point.inverse_eps, {}).items():
            z = z_against_published(point.errors(decoder), point.trajectories, (low, high))
            inverse, published = f"{point.inverse_eps:g}", f"{low:.4f}-{high:.4f}"
            rows.append([decoder, inverse, point.error(decoder), published, f"{z:+.2f}"])
    return Table(["decoder", "1/eps", "error", "published", "z"], rows, places=4)


# --- how it looks -------------------------------------------------------------------------------------------


X_TICKS, Y_TICKS = [30, 50, 100, 150, 250], [0.01, 0.02, 0.05, 0.1, 0.2, 0.5]
Y_ENDS = (0.008, 0.7)  # given: a run with few trajectories may count no error, which has no logarithm


@mpl.rc_context(STYLE)
def figure_of(rows: Sequence[dict]) -> Picture:
    """Error against 1/eps, both logarithmic: line = error, band = interval, caps at the ends = published."""
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    words = []
    for decoder, colour in zip(DECODERS, [*PALETTE[:5], "#000000"], strict=True):
        mine = [row for row in rows if row["decoder"] == decoder]
        columns = ("inverse_eps", "error", "low", "high")
        x, error, low, high = (np.array([row[name] for row in mine]) for name in columns)
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(x, error, color=colour, linewidth=1.5, marker=".", markersize=4)
        for row in mine:
            if row["published"] is not None:
                beside = row["inverse_eps"] * (0.96 if row is mine[0] else 1.04)
                bottom, top = row["published"]
                middle, half = (bottom + top) / 2, (top - bottom) / 2
                axes.errorbar(beside, middle, yerr=half, color=colour, capsize=4, elinewidth=1.2)
        axes.annotate(
            decoder,
            (1.03, max(error[-1], Y_ENDS[0])),
            xycoords=axes.get_yaxis_transform(),
            va="center",
            fontsize=9,
            color=colour,
            annotation_clip=False,
        )
        words.append(f"{decoder} from {error[0]:.4f} to {error[-1]:.4f}")
    axes.set(xscale="log", yscale="log", ylim=Y_ENDS)
    axes.set(xlabel="1/eps", ylabel=f"error at step {rows[0]['step']}")
    for axis, ticks in ((axes.xaxis, X_TICKS), (axes.yaxis, Y_TICKS)):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
    axes.grid(color="#e5e5e5", linewidth=0.7)
    return Picture(
        figure,
        f"Share of wrong decodings on logarithmic axes, from 1/eps = {rows[0]['inverse_eps']:g} to "
        f"{rows[-1]['inverse_eps']:g}: {'; '.join(words)}.",
    )


def write(evidence: Evidence, out: Path) -> Path:
    """Write ``two-state.html`` and its figure ``two-state.svg`` into ``out``; returns the page's path."""
    out.mkdir(parents=True, exist_ok=True)
    picture = figure_of(evidence.rows)
    with mpl.rc_context(STYLE):
        picture.figure.savefig(out / "two-state.svg", metadata={"Date": None}, facecolor="white")
    met = Table(
        ["target", "holds", "measured", "required"],
        [[t.name, "yes" if t.holds else "NO", t.measured, t.required] for t in evidence.targets],
    )
    every = Table(
        ["1/eps", *DECODERS],
        [
            [f"{inverse:g}", *(Interval(row["error"], row["low"], row["high"]) for row in group)]
            for inverse, group in _by_point(evidence.rows).items()
        ],
        places=4,
    )
    sections = [
        Section("What was run", _ABOUT + "\n\n" + "\n\n".join(evidence.remarks)),
        Section("Error against 1/eps", _HOW_TO_READ, None, *picture),
        Section("Beside the published intervals", _BESIDE, evidence.table),
        Section("Targets", "", met),
        Section("All points", "Error with its 95% Wilson interval.", every),
    ]
    return write_page(out / "two-state.html", "Two states: linear filters beside the Bayes filter", sections)


def _by_point(rows: Sequence[dict]) -> dict[float, list[dict]]:
    groups: dict[float, list[dict]] = {}
    for row in rows:
        groups.setdefault(row["inverse_eps"], []).append(row)
    return groups


_ABOUT = (
    "A chain with two states swaps them at every step, except with probability eps. Each state is "
    f"observed, wrongly one time in ten. After {STEPS} steps each decoder names the state it holds most "
    "likely; shown is how often it is wrong. ALF is the adaptive linear filter at the forgetting rate in "
    "its name, LOF the exact Bayes filter. This is experiment 6.1 of arXiv:2605.31261."
)
_HOW_TO_READ = (
    "Line and band: error and its 95% Wilson interval. Caps just outside the ends: the published "
    "intervals. The two rates that the theory admits, 0.7/log(1/eps) and sqrt(eps), err less and less as "
    "eps falls, like the exact filter; the other three never get below the error of a single observation."
)
_BESIDE = (
    "z is the difference from the published rate in standard errors of that difference. A cell is met if "
    "|z| is below the limit that, of twelve true cells, any exceeds with probability 5% at most."
)


def main(
    trajectories: int = 20_000, seed: int = 0, out: Path = Path("runs/two-state"), json: Path | None = None
) -> int:
    """Repeat the two-state experiment (6.1) of arXiv:2605.31261 and compare it with its published figures.

    The adaptive linear filter at five forgetting rates and the exact Bayes filter decode the state of a
    noisy two-state chain, at 23 noise levels. Ends with a table beside the published intervals and with the
    targets that hold; exits 1 if one does not. Takes about half a minute on 2 cores.

    Args:
        trajectories: how many trajectories at each noise level.
        seed: of all randomness; the same seed gives the same counts.
        out: folder for the page `two-state.html` and the figure `two-state.svg`.
        json: also write rows and targets to this file.
    """
    from rich.console import Console

    evidence = reproduce(trajectories, seed, progress=True)
    page = write(evidence, out)
    code = conclude(evidence, json)
    Console().print(f"page: {page}", soft_wrap=True, highlight=False)
    return code

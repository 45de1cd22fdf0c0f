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

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from rich.progress import track
from scipy import stats

from ..memories.belief import Belief
from ..memories.linear_filter import AdaptiveLinearFilter
from ..reports.figures import Picture
from ..reports.tables import Table
from ..worlds.tables import POMDP
from .conclude import Evidence, Target
from .error_rates import (
    COLOURS,
    INVERSE_EPS,
    STEPS,
    Point,
    advance,
    check_trajectories,
    error_figure,
    in_time,
    limit,
    orders,
    present,
    remember,
    wrong_together,
)

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


# --- the experiment -----------------------------------------------------------------------------------------


def two_state_model(eps: float) -> POMDP:
    """The chain of the experiment, with one action and nothing to earn."""
    transition = [[[eps, 1 - eps], [1 - eps, eps]]]
    return POMDP(transition, [[0.9, 0.1], [0.1, 0.9]], reward=[0.0, 0.0], initial=[1.0, 0.0], discount=0.0)


class Decoders(eqx.Module):
    """The six decoders of one chain, in the order of DECODERS; logits (6, b, 2)."""

    adaptive: AdaptiveLinearFilter
    """its arrays have a leading axis of rates"""
    exact: Belief

    def __init__(self, model: POMDP, eps: float):
        filters = [AdaptiveLinearFilter(model, float(rate(eps))) for rate in RATES.values()]
        self.adaptive = jax.tree.map(lambda *leaves: jnp.stack(leaves), *filters)
        self.exact = Belief(model)

    def step(self, logits: Float[Array, "6 b n"], observations: Int[Array, " b"]) -> Float[Array, "6 b n"]:
        """Take in one observation of each trajectory."""
        actions = jnp.zeros_like(observations)
        each_rate = jax.vmap(remember, in_axes=(0, 0, None, None))
        adaptive, _ = each_rate(self.adaptive, logits[:-1], observations, actions)
        exact, _ = remember(self.exact, logits[-1], observations, actions)
        return jnp.concatenate([adaptive, exact[None]])


@functools.partial(jax.jit, static_argnames=("trajectories", "steps"))
def _mistakes(model: POMDP, decoders: Decoders, key, trajectories: int, steps: int):
    """On how many trajectories two decoders are wrong together, (6, 6), after the last step."""
    first, rest = jax.random.split(key)
    only_action = jnp.zeros(trajectories, int)

    def step(carry, key):
        states, logits = carry
        states, observations = advance(model, key, states, only_action)
        return (states, decoders.step(logits, observations)), None

    states = (jax.random.uniform(first, (trajectories,)) < model.initial[1]).astype(int)
    logits = jnp.zeros((len(DECODERS), trajectories, 2))
    (states, logits), _ = jax.lax.scan(step, (states, logits), jax.random.split(rest, steps))
    return wrong_together(jnp.argmax(logits, axis=-1), states)


def measure(
    trajectories: int, seed: int, inverse_eps: Sequence[float] = INVERSE_EPS, steps: int = STEPS
) -> Iterator[Point]:
    """The points one after another, each with randomness of its own."""
    check_trajectories(trajectories)
    for place, inverse in enumerate(inverse_eps):
        model, key = two_state_model(1 / inverse), jax.random.fold_in(jax.random.key(seed), place)
        both = _mistakes(model, Decoders(model, 1 / inverse), key, trajectories, steps)
        yield Point(inverse, trajectories, steps, DECODERS, np.asarray(both))


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
    pairs = [*((LOF, decoder) for decoder in RATES), ("ALF 0.7/log(1/eps)", "ALF sqrt(eps)")]
    return [*_published_cells(points, published), *orders(points, pairs), *_closed_forms(points)]


def _published_cells(points, published) -> list[Target]:
    largest = limit(sum(map(len, published.values())), sides=2)
    targets = []
    for point in points:
        for decoder, (low, high) in published.get(point.inverse_eps, {}).items():
            z = z_against_published(point.errors(decoder), point.trajectories, (low, high))
            targets.append(
                Target(
                    f"{decoder} at 1/eps = {point.inverse_eps:g}",
                    abs(z) < largest,
                    f"error {point.error(decoder).mean:.4f}, z = {z:+.2f}",
                    f"{low:.4f}-{high:.4f} within |z| < {largest:.2f}",
                )
            )
    return targets


def _closed_forms(points) -> list[Target]:
    """Errors known beforehand: an observation is wrong with probability .1, a guess of state 0 with that of
    state 1."""
    largest = limit(2 * len(points), sides=2)
    targets = []
    for decoder, name, rate in (
        ("ALF 1", "one observation does, .1", lambda point: 0.1),
        ("ALF 0", "a constant guess does, (1 - (2 eps - 1)^k) / 2", _probability_of_1),
    ):
        z, where = max((abs(point.z(decoder, rate(point))), point.inverse_eps) for point in points)
        measured, required = f"largest |z| = {z:.2f} (1/eps = {where:g})", f"|z| < {largest:.2f}"
        targets.append(Target(f"{decoder} errs as {name}, at every point", z < largest, measured, required))
    return targets


def _probability_of_1(point: Point) -> float:
    # A move keeps the state with probability eps, so each multiplies P(0) - P(1), 1 at first, by 2 eps - 1.
    return (1 - (2 / point.inverse_eps - 1) ** point.steps) / 2


def reproduce(trajectories: int = 20_000, seed: int = 0, progress: bool = False) -> Evidence:
    """The experiment as published (23 points, step 1000) beside the published intervals.

    trajectories: at each point. progress: show a bar while it runs.
    """
    began = time.perf_counter()
    points = measure(trajectories, seed)
    points = list(track(points, "two states", total=len(INVERSE_EPS), disable=not progress, transient=True))
    seconds = time.perf_counter() - began
    return Evidence(
        "two-state",
        _rows(points),
        _beside_published(points),
        [*targets_of(points), in_time(seconds, SECONDS)],
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
            published = PUBLISHED.get(point.inverse_eps, {}).get(decoder)
            rows.append(
                point.row(decoder)
                | {
                    "delta": float(RATES[decoder](1 / point.inverse_eps)) if decoder in RATES else None,
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


def figure_of(rows: Sequence[dict]) -> Picture:
    """Line = error, band = interval, caps at the ends = published."""
    colours = dict(zip(DECODERS, COLOURS, strict=True))
    picture, axes = error_figure(rows, colours, (0.008, 0.7))
    for row in rows:
        if row["published"] is not None:
            beside = row["inverse_eps"] * (0.96 if row["inverse_eps"] == INVERSE_EPS[0] else 1.04)
            bottom, top = row["published"]
            middle, half = (bottom + top) / 2, (top - bottom) / 2
            axes.errorbar(beside, middle, yerr=half, color=colours[row["decoder"]], capsize=4, elinewidth=1.2)
    return picture


_ABOUT = (
    "A chain with two states swaps them at every step, except with probability eps. Each state is "
    f"observed, wrongly one time in ten. After {STEPS} steps each decoder names the state it holds most "
    "likely; shown is how often it is wrong. ALF is the adaptive linear filter at the forgetting rate in "
    "its name, LOF the exact Bayes filter. This is experiment 6.1 of arXiv:2605.31261."
)
_HOW_TO_READ = (
    "Line and band: error and its 95% Wilson interval. Caps just outside the ends: the published "
    "intervals. The two rates that the theory admits, 0.7/log(1/eps) and sqrt(eps), err less and less as "
    "eps falls, like the exact filter; the other three never get below the error of a single observation. "
    "In the table, z is the difference from the published rate in standard errors of that difference. A "
    "cell is met if |z| is below the limit that, of twelve true cells, any exceeds with probability 5% at "
    "most."
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
    evidence = reproduce(trajectories, seed, progress=True)
    title = "Two states: linear filters beside the Bayes filter"
    return present(evidence, figure_of(evidence.rows), title, _ABOUT, _HOW_TO_READ, out, json)

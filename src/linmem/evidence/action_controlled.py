"""Eight states under four actions: the time-varying linear filter beside Bayes, a wrong rate, wrong actions.

    T(a) = P(a) + eps Q(a),    w_k = (1 - delta) P(a_k) w_{k-1} + delta log E[:, y_k]    (eq. 65)

A state is a number of three bits, s = 0..7. The actions permute the states by s + 1, s - 1, -s and 3 s, all
modulo 8; these do not commute. With probability eps a move ends in one of the other seven states instead,
each equally likely. An observation is the three bits, each flipped by itself with a probability of its own,
so every emission is positive and no two states have the same: Assumption 5.8 holds. Theorem 5.9 then admits
delta = lambda / log(1/eps) with lambda below the exponent xi over all ordered pairs of emissions (M = 1);
``analyse`` gives both, and the leading term of the bound on the error.

At each step an action is drawn uniformly, the state moves and is then observed. The filters know neither the
first state (0) nor a start. After STEPS steps each names the state of its largest logit.

| paper        | here                  | shape     | meaning                                             |
|--------------|-----------------------|-----------|-----------------------------------------------------|
| w_k          | logits, all but last  | (4, b, n) | ALF: admitted rate, eps^2, 1, and wrong actions     |
| l_k          | logits, last          | (b, n)    | LOF, the Bayes filter                               |

The wrong-action control runs at the admitted rate and is told the actions of another trajectory.

To first order as eps falls, a decoder errs with probability eps times the steps it needs to notice a slip,
from the state i aimed at to the state j reached, averaged over slips. The mean of w_j - w_i goes from
-KL(E_i || E_j) to KL(E_j || E_i) as (1 - delta)^t falls, so ALF notices after log(1 + KL_ij / KL_ji) / delta
steps. Bayes' log-odds climb from log eps by KL_ji a step. So

    ALF:  error / (eps log(1/eps)) -> mean_ij log(1 + KL_ij / KL_ji) / lambda
    LOF:  error / (eps log(1/eps)) -> mean_ij 1 / KL_ji

which is this library's estimate; the theorem gives the first a bound, kappa. Both decoders have the same
rate, and the ratio of their errors tends to that of the two constants.

Source: Y. Zhao, O. Eberhard, M. Khammassi, A. H. Sayed, M. Muehlebach, 2026, arXiv:2605.31261, Theorem 5.9.
The model and the experiment are this library's; the values of eps and the number of steps are those of
section 6.1.
"""

import functools
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from rich.progress import track

from ..certificates import Certificate, analyse
from ..memories.belief import Belief
from ..memories.linear_filter import AdaptiveLinearFilter
from ..reports.figures import PALETTE, Picture
from ..reports.tables import Table
from ..worlds.tables import POMDP
from .conclude import Evidence, Target
from .error_rates import (
    BLACK,
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

SECONDS = 180
FLIPS = (0.1, 0.15, 0.2)
"""How often each bit of the state is read wrongly; the last is that of the bit worth 1."""
ONE_READING = 1 - float(np.prod(1 - np.array(FLIPS)))
"""How often a single observation names the wrong state: if any bit is flipped."""
MOVES = np.array([[(s + 1) % 8, (s - 1) % 8, -s % 8, 3 * s % 8] for s in range(8)]).T
"""[action, state]: the state that follows, unless the move slips."""

VALID, EPS_SQUARED, NO_MEMORY = "ALF lambda/log(1/eps)", "ALF eps^2", "ALF 1"
WRONG, LOF = "ALF, wrong actions", "LOF (Bayes)"
DECODERS = (VALID, EPS_SQUARED, NO_MEMORY, WRONG, LOF)


# --- the experiment -----------------------------------------------------------------------------------------


def eight_state_model(eps: float) -> POMDP:
    """The model of the experiment, with nothing to earn."""
    backbone = np.eye(8)[MOVES]
    bits = (np.arange(8)[:, None] >> np.array([2, 1, 0])) & 1
    flipped = bits[:, None] != bits
    return POMDP(
        (1 - eps) * backbone + eps / 7 * (1 - backbone),
        np.where(flipped, FLIPS, 1 - np.array(FLIPS)).prod(axis=-1),
        reward=np.zeros(8),
        initial=np.eye(8)[0],
        discount=0.0,
    )


def certificate(model: POMDP) -> Certificate:
    """What Theorem 5.9 promises, and its rate."""
    (found,) = analyse(model).certificates
    return found


class Decoders(eqx.Module):
    """The five decoders of one model, in the order of DECODERS; logits (5, b, 8)."""

    adaptive: AdaptiveLinearFilter
    """its arrays have a leading axis: the first four decoders"""
    exact: Belief

    def __init__(self, model: POMDP, eps: float):
        delta = certificate(model).delta
        assert delta is not None  # xi > 0 and eps > 0
        filters = [AdaptiveLinearFilter(model, rate) for rate in (delta, eps**2, 1.0, delta)]
        self.adaptive = jax.tree.map(lambda *leaves: jnp.stack(leaves), *filters)
        self.exact = Belief(model)

    def step(
        self, logits: Float[Array, "5 b n"], observations: Int[Array, " b"], actions: Int[Array, " b"]
    ) -> Float[Array, "5 b n"]:
        """Take in one observation of each trajectory and the action before it."""
        told = jnp.stack([actions] * 3 + [jnp.roll(actions, 1)])
        each_filter = jax.vmap(remember, in_axes=(0, 0, None, 0))
        adaptive, _ = each_filter(self.adaptive, logits[:-1], observations, told)
        exact, _ = remember(self.exact, logits[-1], observations, actions)
        return jnp.concatenate([adaptive, exact[None]])


@functools.partial(jax.jit, static_argnames=("trajectories", "steps"))
def _mistakes(model: POMDP, decoders: Decoders, key: PRNGKeyArray, trajectories: int, steps: int):
    """On how many trajectories two decoders are wrong together, (5, 5), after the last step."""

    def step(carry, key):
        states, logits = carry
        act_key, move_key = jax.random.split(key)
        actions = jax.random.randint(act_key, (trajectories,), 0, len(MOVES))
        states, observations = advance(model, move_key, states, actions)
        return (states, decoders.step(logits, observations, actions)), None

    none_seen = jnp.zeros(trajectories, int), jnp.zeros((len(DECODERS), trajectories, 8))
    (states, logits), _ = jax.lax.scan(step, none_seen, jax.random.split(key, steps))
    return wrong_together(jnp.argmax(logits, axis=-1), states)


def measure(
    trajectories: int, seed: int, inverse_eps: Sequence[float] = INVERSE_EPS, steps: int = STEPS
) -> Iterator[Point]:
    """The points one after another, each with randomness of its own."""
    check_trajectories(trajectories)
    for place, inverse in enumerate(inverse_eps):
        model, key = eight_state_model(1 / inverse), jax.random.fold_in(jax.random.key(seed), place)
        both = _mistakes(model, Decoders(model, 1 / inverse), key, trajectories, steps)
        yield Point(inverse, trajectories, steps, DECODERS, np.asarray(both))


# --- what it shows ------------------------------------------------------------------------------------------


def targets_of(points: Sequence[Point]) -> list[Target]:
    """What the theorem says of the admitted rate, and what must go wrong with the others."""
    return [
        _falls(points, VALID),
        _falls(points, LOF),
        _beside_bayes(points),
        _below_bound(points),
        *orders(points, [(LOF, VALID), (VALID, NO_MEMORY), (NO_MEMORY, EPS_SQUARED), (NO_MEMORY, WRONG)]),
        _one_reading(points),
    ]


def _falls(points, decoder) -> Target:
    """From each eps to the next smaller one the error does not rise, and from end to end it falls."""
    points = sorted(points, key=lambda point: point.inverse_eps)
    rise, fall = limit(len(points) - 1, sides=1), limit(1, sides=1)
    rises = [_rise(before, after, decoder) for before, after in pairwise(points)]
    whole = _rise(points[0], points[-1], decoder)
    return Target(
        f"the error of {decoder} falls with eps",
        max(rises) < rise and whole < -fall,
        f"steepest rise between neighbours z = {max(rises):+.2f}, end to end z = {whole:+.2f}",
        f"z < {rise:.2f}, z < {-fall:.2f}",
    )


def _rise(before: Point, after: Point, decoder: str) -> float:
    """z of the difference between two independent counts."""
    errors, trials = before.errors(decoder) + after.errors(decoder), before.trajectories + after.trajectories
    pooled = errors / trials
    spread = (pooled * (1 - pooled) * (1 / before.trajectories + 1 / after.trajectories)) ** 0.5
    return (after.error(decoder).mean - before.error(decoder).mean) / max(spread, 1e-12)


def first_order(model: POMDP) -> tuple[float, float]:
    """The limits of error / (eps log(1/eps)) of ALF at the admitted rate and of LOF (module docstring)."""
    rate = certificate(model).rate
    assert rate is not None  # xi > 0 and eps > 0
    E = model.emission[0]
    KL = (E[:, None] * np.log(E[:, None] / E)).sum(axis=-1)
    i, j = np.nonzero(~np.eye(len(E), dtype=bool))
    return float(np.log1p(KL[i, j] / KL[j, i]).mean() / rate), float((1 / KL[j, i]).mean())


def _beside_bayes(points) -> Target:
    largest = limit(len(points), sides=1)
    adaptive, exact = first_order(eight_state_model(1 / points[0].inverse_eps))
    counts = np.array([[point.errors(VALID), point.errors(LOF)] for point in points]).clip(min=1)
    log_ratio = np.log(counts[:, 0] / counts[:, 1])
    # The spread is that of independent counts; errors that both make only lessen it.
    z = (log_ratio - np.log(adaptive / exact)) / (1 / counts).sum(axis=1) ** 0.5
    ratios = np.exp(log_ratio)
    return Target(
        f"error of {VALID} / error of {LOF} is at most the ratio of their limits, {adaptive / exact:.2f}",
        bool(z.max() < largest),
        f"{ratios.min():.2f} to {ratios.max():.2f}, largest z = {z.max():+.2f}",
        f"z < {largest:.2f}",
    )


def _below_bound(points) -> Target:
    """Where the leading term of the bound says anything, the error is below it."""
    bounds = [(point, bound_at(point.inverse_eps)) for point in points]
    shares = [point.error(VALID).high / bound for point, bound in bounds if bound < 1]
    measured = f"{len(shares)} of {len(points)} points"
    if shares:
        measured += f", interval up to {max(shares):.2f} of the bound at most"
    return Target(
        f"{VALID} errs less than kappa eps log(1/eps), where that is below 1",
        bool(shares) and max(shares) < 1,
        measured,
        "a point or more, below 1",
    )


def bound_at(inverse_eps: float) -> float:
    """kappa eps log(1/eps) of Theorem 5.9: the leading term, as eps falls, of a bound on the error."""
    bound = certificate(eight_state_model(1 / inverse_eps)).bound
    assert bound is not None  # xi > 0 and eps > 0
    return bound


def _one_reading(points) -> Target:
    largest = limit(len(points), sides=2)
    z, where = max((abs(point.z(NO_MEMORY, ONE_READING)), point.inverse_eps) for point in points)
    return Target(
        f"{NO_MEMORY} errs as one observation does, {ONE_READING:.3f}, at every point",
        z < largest,
        f"largest |z| = {z:.2f} (1/eps = {where:g})",
        f"|z| < {largest:.2f}",
    )


def reproduce(trajectories: int = 20_000, seed: int = 0, progress: bool = False) -> Evidence:
    """All points, beside the bound. trajectories: at each point. progress: show a bar while it runs."""
    began = time.perf_counter()
    points = measure(trajectories, seed)
    points = list(track(points, "eight states", total=len(INVERSE_EPS), disable=not progress, transient=True))
    seconds = time.perf_counter() - began
    found = certificate(eight_state_model(1 / points[-1].inverse_eps))
    return Evidence(
        "action-controlled",
        _rows(points),
        _table(points),
        [*targets_of(points), in_time(seconds, SECONDS)],
        (
            f"{trajectories:,} trajectories at each of {len(points)} values of 1/eps, error after "
            f"{points[0].steps} steps; brackets hold 95% Wilson intervals.",
            f"Theorem 5.9: xi = {found.xi:.6g}; at 1/eps = {points[-1].inverse_eps:g} "
            f"lambda = {found.rate:.4g}, delta = {found.delta:.4g}, kappa = {found.kappa:.4g}.",
            "The bound is the leading term of a limit: it guides, and is not promised at any one eps.",
            _first_order_sentence(points[-1]),
        ),
    )


def _first_order_sentence(point: Point) -> str:
    scale = np.log(point.inverse_eps) / point.inverse_eps
    limits = first_order(eight_state_model(1 / point.inverse_eps))
    parts = [
        f"{decoder} {point.error(decoder).mean / scale:.2f} (limit {least:.2f})"
        for decoder, least in zip((VALID, LOF), limits, strict=True)
    ]
    return f"error / (eps log(1/eps)) at 1/eps = {point.inverse_eps:g}: {', '.join(parts)}."


def _rows(points: Sequence[Point]) -> list[dict]:
    rows = []
    for point in points:
        eps = 1 / point.inverse_eps
        found = certificate(eight_state_model(eps))
        rates = dict(zip(DECODERS, (found.delta, eps**2, 1.0, found.delta, None), strict=True))
        for decoder in DECODERS:
            bound = found.bound if decoder == VALID else None
            rows.append(point.row(decoder) | {"delta": rates[decoder], "bound": bound})
    return rows


def _table(points: Sequence[Point]) -> Table:
    rows = []
    for point in (points[0], points[len(points) // 2], points[-1]):
        inverse = f"{point.inverse_eps:g}"
        bound = f"{bound_at(point.inverse_eps):.3f}"
        for decoder in DECODERS:
            rows.append([decoder, inverse, point.error(decoder), bound if decoder == VALID else ""])
    return Table(["decoder", "1/eps", "error", "bound"], rows, places=4)


def figure_of(rows: Sequence[dict]) -> Picture:
    colours: dict[str, str] = dict(zip(DECODERS, [*PALETTE[:4], BLACK], strict=True))
    picture, axes = error_figure(rows, colours, (0.01, 1.2))
    bounded = [row for row in rows if row["bound"] is not None]
    axes.plot(
        [row["inverse_eps"] for row in bounded],
        [row["bound"] for row in bounded],
        color=colours[VALID],
        linestyle=":",
        linewidth=1.5,
    )
    alt = f"{picture.alt} The bound goes from {bounded[0]['bound']:.3f} to {bounded[-1]['bound']:.3f}."
    return Picture(picture.figure, alt)


_ABOUT = (
    "Eight states are permuted by four actions, drawn at random; a move slips with probability eps. The "
    "state's three bits are observed, each with errors of its own. After 1000 steps each decoder names the "
    "state it holds most likely; shown is how often it is wrong. ALF is the adaptive linear filter, LOF the "
    "exact Bayes filter. The model is ours; the filter and its rate are those of Theorem 5.9 of "
    "arXiv:2605.31261."
)
_HOW_TO_READ = (
    "Line and band: error and its 95% Wilson interval. Dotted: the leading term of the theorem's bound on "
    "the filter at the admitted rate. eps^2 forgets too slowly for the theorem, 1 keeps one observation "
    "only, and the wrong-action control has the admitted rate but is told the actions of another trajectory."
)


def main(
    trajectories: int = 20_000,
    seed: int = 0,
    out: Path = Path("runs/action-controlled"),
    json: Path | None = None,
) -> int:
    """Decode eight states under four actions with the time-varying linear filter of Theorem 5.9.

    Beside it: the exact Bayes filter, a rate that the theorem does not admit, no memory, and the same filter
    told wrong actions, at 23 noise levels. Ends with a table and with the targets that hold; exits 1 if one
    does not. Takes about two minutes on 2 cores.

    Args:
        trajectories: how many trajectories at each noise level.
        seed: of all randomness; the same seed gives the same counts.
        out: folder for the page `action-controlled.html` and the figure `action-controlled.svg`.
        json: also write rows and targets to this file.
    """
    evidence = reproduce(trajectories, seed, progress=True)
    title = "Eight states, four actions: the time-varying linear filter beside the Bayes filter"
    return present(evidence, figure_of(evidence.rows), title, _ABOUT, _HOW_TO_READ, out, json)

"""Choosing the forgetting rate without eps: a self-tuning filter and a bank with a learned read-out.

On the two-state chain of experiment 6.1 (``two_state.py``) the paper takes delta = 0.7 / log(1/eps), and
so knows eps. Two memories that do not are put beside it:

self-tuning  nine rates, weighed by how well each predicted the observations; nothing is fitted beforehand
             (``memories/self_tuning.py``).
bank         the same nine rates side by side (``memories/filter_bank.py``), and a linear read-out of all
             their logits, learned from the states of other trajectories of the same chain.

The bank is compared with the best of its own rates, which is chosen at each eps after the fact, on the very
trajectories that count.

Source: this library's.
"""

import functools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from rich.progress import track

from ..measures.decoding import Readout, fit_readout
from ..measures.statistics import Interval
from ..memories.belief import Belief
from ..memories.filter_bank import RATES, FilterBank
from ..memories.linear_filter import AdaptiveLinearFilter
from ..memories.self_tuning import SelfTuningFilter
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
from .two_state import two_state_model

SECONDS = 300
LAMBDA = 0.7
FITTED_TRAJECTORIES, SNAPSHOTS = 4000, 20
"""The read-out is learned from so many trajectories, at so many evenly spaced steps of each."""

SCHEDULE, TUNED, BANK, LOF = "ALF 0.7/log(1/eps)", "self-tuning", "bank, learned read-out", "LOF (Bayes)"
SINGLE = tuple(f"ALF {rate:.3g}" for rate in RATES)
BEST = "best single rate"
DECODERS = (SCHEDULE, TUNED, BANK, LOF, *SINGLE)
SHOWN = (SCHEDULE, TUNED, BEST, BANK, LOF)


def schedule(eps: float) -> float:
    """The paper's forgetting rate."""
    return float(LAMBDA / np.log(1 / eps))


class Decoders(eqx.Module):
    """What follows the trajectories: the scheduled filter, the self-tuning one, whose bank gives the single
    rates and the read-out's features, and the exact one."""

    scheduled: AdaptiveLinearFilter
    tuned: SelfTuningFilter
    exact: Belief

    def __init__(self, model: POMDP, eps: float):
        self.scheduled = AdaptiveLinearFilter(model, schedule(eps))
        self.tuned, self.exact = SelfTuningFilter(model), Belief(model)


class Seen(NamedTuple):
    """What the decoders held after the last step."""

    states: Int[Array, " b"]
    scheduled: Float[Array, "b n"]
    tuned: Float[Array, "b n"]
    delta: Float[Array, " b"]
    bank: Float[Array, "b d"]
    exact: Float[Array, "b n"]


@functools.partial(jax.jit, static_argnames=("trajectories", "steps"))
def _follow(model: POMDP, decoders: Decoders, key: PRNGKeyArray, trajectories: int, steps: int) -> Seen:
    only_action = jnp.zeros(trajectories, int)

    def step(carry, key):
        states, memories, _ = carry
        states, observations = advance(model, key, states, only_action)
        pairs = zip((decoders.scheduled, decoders.tuned, decoders.exact), memories, strict=True)
        after = [remember(memory, held, observations, only_action) for memory, held in pairs]
        return (states, tuple(held for held, _ in after), after[1][1]), None

    begun = tuple(
        jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (trajectories, *leaf.shape)), memory.init())
        for memory in (decoders.scheduled, decoders.tuned, decoders.exact)
    )
    carry = jnp.zeros(trajectories, int), begun, jnp.zeros((trajectories, model.n_states))
    (states, (scheduled, tuned, exact), belief), _ = jax.lax.scan(step, carry, jax.random.split(key, steps))
    delta = jax.vmap(decoders.tuned.delta)(tuned)
    return Seen(states, scheduled, belief, delta, tuned[0], exact)


@functools.partial(jax.jit, static_argnames=("trajectories", "steps"))
def _snapshots(model: POMDP, bank: FilterBank, key: PRNGKeyArray, trajectories: int, steps: int):
    """States and logits of the bank (snapshots, trajectories, ...) at evenly spaced steps up to the last."""
    only_action = jnp.zeros(trajectories, int)

    def step(carry, key):
        states, logits = carry
        states, observations = advance(model, key, states, only_action)
        return (states, remember(bank, logits, observations, only_action)[0]), None

    def walk(carry, keys):
        carry, _ = jax.lax.scan(step, carry, keys)
        return carry, carry

    count = min(SNAPSHOTS, steps)
    keys = jax.random.split(key, (count, steps // count))
    return jax.lax.scan(walk, (jnp.zeros(trajectories, int), jnp.zeros((trajectories, bank.out_size))), keys)[
        1
    ]


def learned_readout(model: POMDP, key: PRNGKeyArray, steps: int = STEPS) -> Readout:
    """The bank's read-out, from trajectories of the model whose states are known.

    Fitted by cross-entropy on one half of them. Where a single rate errs less on the other half, it is taken
    instead: the log-odds that cross-entropy fits are not linear in the logits, so its best linear read-out
    need not be the one that errs least.
    """
    states, logits = map(np.asarray, _snapshots(model, FilterBank(model), key, FITTED_TRAJECTORIES, steps))
    n, d = model.n_states, logits.shape[-1]
    half = FITTED_TRAJECTORIES // 2
    fitted = fit_readout(logits[:, :half].reshape(-1, d), np.eye(n)[states[:, :half].reshape(-1)])
    picks = np.eye(d).reshape(-1, n, d)
    singles = [Readout(pick, np.zeros(n), np.zeros(d), np.ones(d)) for pick in picks]

    def errors(readout):
        return np.sum(readout(logits[:, half:]).argmax(axis=-1) != states[:, half:])

    return min([fitted, *singles], key=errors)


class Measured(NamedTuple):
    """The counts at one eps, and the mean over trajectories of the rate that the self-tuning filter found."""

    point: Point
    delta: float

    @property
    def best(self) -> str:
        """The single rate that erred least."""
        return min(SINGLE, key=self.point.errors)


def measure(
    trajectories: int, seed: int, inverse_eps: Sequence[float] = INVERSE_EPS, steps: int = STEPS
) -> Iterator[Measured]:
    """The points one after another, each with randomness of its own, and other again for the read-out."""
    check_trajectories(trajectories)
    for place, inverse in enumerate(inverse_eps):
        model = two_state_model(1 / inverse)
        fit_key, key = jax.random.split(jax.random.fold_in(jax.random.key(seed), place))
        readout = learned_readout(model, fit_key, steps)
        seen = _follow(model, Decoders(model, 1 / inverse), key, trajectories, steps)
        read_out = readout(np.asarray(seen.bank))
        singles = np.asarray(seen.bank).reshape(trajectories, len(RATES), -1)
        held = [seen.scheduled, seen.tuned, read_out, seen.exact, *np.swapaxes(singles, 0, 1)]
        guesses = jnp.stack([jnp.argmax(jnp.asarray(each), axis=-1) for each in held])
        both = np.asarray(wrong_together(guesses, seen.states))
        yield Measured(Point(inverse, trajectories, steps, DECODERS, both), float(seen.delta.mean()))


# --- what it shows ------------------------------------------------------------------------------------------


def targets_of(measured: Sequence[Measured]) -> list[Target]:
    points = [each.point for each in measured]
    # The best of several in hindsight: as many comparisons as there are rates.
    largest = limit(len(SINGLE) * len(points), sides=1)
    z, where = max((each.point.excess(BANK, each.best), each.point.inverse_eps) for each in measured)
    bank = Target(
        f"{BANK} errs no more than the {BEST}, at every point",
        z < largest,
        f"largest z = {z:+.2f} (1/eps = {where:g})",
        f"z < {largest:.2f}",
    )
    return [bank, *orders(points, [(TUNED, SCHEDULE), (LOF, TUNED), (LOF, BANK)])]


def reproduce(trajectories: int = 20_000, seed: int = 0, progress: bool = False) -> Evidence:
    """All points. trajectories: at each point. progress: show a bar while it runs."""
    began = time.perf_counter()
    points = measure(trajectories, seed)
    bar = track(points, "forgetting rates", total=len(INVERSE_EPS), disable=not progress, transient=True)
    measured = list(bar)
    seconds = time.perf_counter() - began
    errors, deltas = zip(*map(_ratios, measured), strict=True)
    rows = _rows(measured)
    return Evidence(
        "delta",
        rows,
        _table(rows),
        [*targets_of(measured), in_time(seconds, SECONDS)],
        (
            f"{trajectories:,} trajectories at each of {len(measured)} values of 1/eps, error after "
            f"{measured[0].point.steps} steps; brackets hold 95% Wilson intervals.",
            f"self-tuning / schedule: error {np.exp(np.mean(np.log(errors))):.2f} in geometric mean, "
            f"{min(errors):.2f} to {max(errors):.2f}; delta {np.exp(np.mean(np.log(deltas))):.2f}, "
            f"{min(deltas):.2f} to {max(deltas):.2f}.",
            f"The read-out was learned from {FITTED_TRAJECTORIES:,} other trajectories.",
        ),
    )


def _ratios(measured: Measured) -> tuple[float, float]:
    """Error and delta of the self-tuning filter, as multiples of the schedule's."""
    point = measured.point
    error = max(point.errors(TUNED), 1) / max(point.errors(SCHEDULE), 1)
    return error, measured.delta / schedule(1 / point.inverse_eps)


def _rows(measured: Sequence[Measured]) -> list[dict]:
    rows = []
    for each in measured:
        rates = dict(zip(SINGLE, RATES, strict=True))
        rates |= {SCHEDULE: schedule(1 / each.point.inverse_eps), TUNED: each.delta}
        rows += [each.point.row(decoder) | {"delta": rates.get(decoder)} for decoder in DECODERS]
        rows.append(each.point.row(each.best) | {"decoder": BEST, "delta": rates[each.best]})
    return rows


def _table(rows: Sequence[dict]) -> Table:
    points = list(dict.fromkeys(row["inverse_eps"] for row in rows))
    cells = []
    for inverse in (points[0], points[len(points) // 2], points[-1]):
        mine = {row["decoder"]: row for row in rows if row["inverse_eps"] == inverse}
        for decoder in SHOWN:
            row = mine[decoder]
            delta = "" if row["delta"] is None else f"{row['delta']:.3f}"
            error = Interval(row["error"], row["low"], row["high"])
            ratio = f"{row['error'] / max(mine[SCHEDULE]['error'], 1e-12):.2f}"
            cells.append([decoder, f"{inverse:g}", delta, error, ratio])
    return Table(["decoder", "1/eps", "delta", "error", "/ schedule"], cells, places=4)


def figure_of(rows: Sequence[dict]) -> Picture:
    shown: dict[str, str] = dict(zip(SHOWN, [*PALETTE[:4], BLACK], strict=True))
    return error_figure(rows, shown, (0.008, 0.12))[0]


_ABOUT = (
    "The two-state chain of experiment 6.1. The paper's forgetting rate is a function of eps; the "
    "self-tuning filter and the bank do not know eps. The first weighs nine rates by how well each predicts "
    "the observations. The second holds the logits of all nine, and a linear read-out is learned from the "
    "states of other trajectories."
)
_HOW_TO_READ = (
    "Line and band: error and its 95% Wilson interval. The best single rate is the one of the nine that "
    "erred least at that eps, chosen afterwards."
)


def main(
    trajectories: int = 20_000, seed: int = 0, out: Path = Path("runs/delta"), json: Path | None = None
) -> int:
    """Choose the forgetting rate without knowing eps, beside the paper's schedule, which knows it.

    A filter that weighs nine rates by their predictions, and a bank of the nine with a learned read-out, on
    the two-state chain at 23 noise levels. Ends with a table and with the targets that hold; exits 1 if one
    does not. Takes about four minutes on 2 cores.

    Args:
        trajectories: how many trajectories at each noise level.
        seed: of all randomness; the same seed gives the same counts.
        out: folder for the page `delta.html` and the figure `delta.svg`.
        json: also write rows and targets to this file.
    """
    evidence = reproduce(trajectories, seed, progress=True)
    title = "Two states: choosing the forgetting rate without eps"
    return present(evidence, figure_of(evidence.rows), title, _ABOUT, _HOW_TO_READ, out, json)

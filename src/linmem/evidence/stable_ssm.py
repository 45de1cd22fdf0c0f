"""StableSSM: which maps from a free parameter to the decay let a state space learn a slow memory.

    y_t = sum_{s >= 0} rho_s u_{t-s},   rho_s = 1 / (s + 1)^1.1                     the target
    Re Lambda = f(w):   exp, softplus, best (-1 / (w^2 + 0.1)), direct (w itself)

One S4D layer, with the same start for every map, learns the target from white noise by Adam, at several
learning rates and seeds. A polynomial memory pulls decay rates towards 0; with the direct map a step may
carry them across, and the state then grows. Two starts: eigenvalues of a step (Delta = 1, on a ring, as LRU
has them), where a rate w above 0 grows by exp(w) at every step; and S4D's own (Delta between 0.001 and 0.1),
where the same w grows ten to a thousand times more slowly, so that the window may end before it shows.

Source: S. Wang, Q. Li, "StableSSM", 2023, arXiv:2311.14495, section 4 (curve of memory 1 / (t + 1)^1.1); the
maps in continuous time as in the authors' code (radarFudan/StableSSM, where b = 0.1).
Departures: one layer, one input and output, of a size and with learning rates of our own.
"""

import functools
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.progress import track

from ..memories.convolution import convolve
from ..memories.diagonal import DECAYS, INITS
from ..memories.s4d import S4D
from ..reports.figures import PALETTE
from ..reports.tables import Table
from .conclude import Evidence, Target, conclude
from .drawing import panels, save

POWER = 1.1
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
SEEDS = 3
STEPS, BATCH, LENGTH, STATE = 500, 8, 256, 64
UNIT, FINE = "ring, Delta = 1", "lin, Delta in [0.001, 0.1]"
STARTS = {UNIT: (INITS["ring"], (1.0, 1.0)), FINE: (INITS["lin"], (0.001, 0.1))}
FITS = 0.1
"""Relative error of the learned memory below which a run counts as having converged."""


def target_memory(length: int) -> np.ndarray:
    """rho_s, s < length."""
    return 1 / (np.arange(length) + 1) ** POWER


def memory_error(layer: S4D) -> jax.Array:
    """||K - rho|| / ||rho|| over LENGTH steps, K with the feedthrough."""
    rho = jnp.asarray(target_memory(LENGTH))
    learned = layer.kernel(LENGTH)[:, 0].at[0].add(layer.d[0])
    return jnp.linalg.norm(learned - rho) / jnp.linalg.norm(rho)


@functools.partial(jax.jit, static_argnames=("start", "name", "steps"))
def train(start: str, name: str, rates: jax.Array, seeds: jax.Array, steps: int = STEPS) -> jax.Array:
    """Relative error of the memory before each step, (rates, seeds, steps), for one map."""

    def one(rate, seed):
        layer_key, data_key = jax.random.split(jax.random.key(seed))
        init, ends = STARTS[start]
        layer = S4D(1, STATE, key=layer_key, decay=DECAYS[name], init=init, steps=ends)
        floats, rest = eqx.partition(layer, eqx.is_inexact_array)
        optimiser = optax.adam(rate)

        def loss(floats, key):
            xs = jax.random.normal(key, (BATCH, LENGTH, 1))
            rho = jnp.asarray(target_memory(LENGTH))[:, None]
            ys = jax.vmap(eqx.combine(floats, rest).convolve)(xs)
            return jnp.mean((ys - jax.vmap(lambda x: _filtered(rho, x))(xs)) ** 2)

        def step(carry, key):
            floats, state = carry
            error = memory_error(eqx.combine(floats, rest))
            updates, state = optimiser.update(jax.grad(loss)(floats, key), state)
            return (optax.apply_updates(floats, updates), state), error

        carry = (floats, optimiser.init(floats))
        return jax.lax.scan(step, carry, jax.random.split(data_key, steps))[1]

    return jax.vmap(lambda rate: jax.vmap(lambda seed: one(rate, seed))(seeds))(rates)


def _filtered(rho, x):
    return convolve(rho.astype(x.dtype), x)


def measure(start: str, name: str) -> list[dict]:
    """A row for each learning rate: the errors of all seeds at the end."""
    errors = np.asarray(train(start, name, jnp.asarray(RATES), jnp.arange(SEEDS)))
    return [
        {"start": start, "map": name, "rate": rate, "final": course[:, -1].tolist()}
        for rate, course in zip(RATES, errors, strict=True)
    ]


def converged(row: dict) -> bool:
    """Whether every seed fits."""
    return all(np.isfinite(error) and error < FITS for error in row["final"])


def failed(row: dict) -> bool:
    """Whether no seed fits."""
    return not any(np.isfinite(error) and error < FITS for error in row["final"])


def targets_of(rows: list[dict]) -> list[Target]:
    """With eigenvalues of a step there are learning rates at which each stable map converges and the direct
    one fails."""
    by = {(row["map"], row["rate"]): row for row in rows if row["start"] == UNIT}
    refused = [rate for rate in RATES if failed(by["direct", rate])]
    targets = []
    for name in DECAYS:
        if name == "direct":
            continue
        good = [rate for rate in RATES if converged(by[name, rate])]
        both = [rate for rate in good if rate in refused]
        targets.append(
            Target(
                f"{UNIT}: a learning rate where {name} converges for every seed and direct for none",
                bool(both),
                f"{', '.join(f'{rate:g}' for rate in both) or 'none'}",
                "at least one",
            )
        )
    return targets


def figure_of(rows: list[dict]):
    """Error at the end by learning rate; a run that became infinite stands at the top."""
    figure, both = panels(len(STARTS), 2.8)
    top = 1e3
    for axes, start in zip(both, STARTS, strict=True):
        for name, colour in zip(DECAYS, PALETTE, strict=False):
            mine = [row for row in rows if row["map"] == name and row["start"] == start]
            height = [np.clip(np.nan_to_num(np.median(row["final"]), nan=top), 1e-3, top) for row in mine]
            axes.plot([row["rate"] for row in mine], height, "o-", color=colour, label=name, linewidth=1.4)
        axes.axhline(FITS, color="#888888", linestyle=":", linewidth=1)
        axes.set(xscale="log", yscale="log", xlabel="learning rate", ylim=(3e-3, 2 * top))
        axes.set(ylabel="relative error", title=f"{start}: median of seeds; 1000 stands for more")
        axes.legend(frameon=False, fontsize=9)
        axes.grid(color="#e5e5e5", linewidth=0.7)
    return figure


def main(out: Path = Path("runs/stable-ssm"), json: Path | None = None) -> int:
    """Learn a polynomially decaying memory with four maps of the decay (arXiv:2311.14495).

    Ends with a table, a figure and the targets that hold; exits 1 if one does not. Takes about two minutes.

    Args:
        out: folder for the figure `stable-ssm.svg`.
        json: also write rows and targets to this file.
    """
    cases = [(start, name) for start in STARTS for name in DECAYS]
    rows = [row for case in track(cases, "maps", transient=True) for row in measure(*case)]
    path = save(figure_of(rows), out / "stable-ssm.svg")
    table = Table(
        ["start", "map", *(f"rate {rate:g}" for rate in RATES)],
        [
            [
                start,
                name,
                *(_shown(row["final"]) for row in rows if (row["start"], row["map"]) == (start, name)),
            ]
            for start, name in cases
        ],
    )
    remarks = (
        f"Relative error of the learned memory after {STEPS} steps, one number for each of {SEEDS} seeds; a "
        f"run converges below {FITS:g}.",
        f"figure: {path}",
    )
    return conclude(Evidence("stable-ssm", rows, table, targets_of(rows), remarks), json)


def _shown(errors: list[float]) -> str:
    return " ".join(f"{error:.2g}" for error in errors)

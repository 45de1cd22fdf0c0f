"""StableSSM: which maps from a free parameter to the decay let a state space learn a slow memory.

    y_t = sum_{s >= 0} rho_s u_{t-s},   rho_s = 1 / (s + 1)^1.1                     the target
    Re Lambda = f(w):   exp, softplus, best (-1 / (w^2 + 0.1)), direct (w itself)

S4D layers side by side, their outputs mixed into one, learn the target from white noise by AdamW at the
authors' learning rates. A polynomial memory pulls decay rates towards 0; with the direct map a step may carry
them across, and the state then grows. Every map begins at the same rates, -1/2. The authors' code begins the
direct map at +1/2, where the state grows from the first step on; that is a row of its own and no target.

Source: S. Wang, Q. Li, "StableSSM", 2023, arXiv:2311.14495, section 4 (a memory of 1 / (t + 1)^1.1); from the
authors' code (radarFudan/StableSSM, experiment LF): the maps with b = 0.1, S4D-Lin with Delta between 0.001
and 0.1, 64 states a channel, 100 steps, learning rates 5e-6 to 5 by tens, weight decay 0.01, a cosine down to
0, no clipping, 3 repetitions.
Departures: 16 channels, not 64, and no nonlinearity, norm or residual, so that what is learned is the memory
alone; B is learned beside C; batches of 16, not 128; no rates below 5e-4.
"""

import functools
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from rich.progress import track

from ..memories.convolution import convolve
from ..memories.diagonal import DECAYS, Decay
from ..memories.s4d import S4D
from ..reports.figures import PALETTE
from ..reports.tables import Table
from .conclude import Evidence, Target, conclude
from .drawing import panels, save
from .rows import kept

POWER = 1.1
RATES = (5e-4, 5e-3, 5e-2, 0.5, 5.0)
SEEDS = 3
BATCH, LENGTH, CHANNELS, STATE = 16, 100, 16, 64
WEIGHT_DECAY = 0.01
FITS = 0.1
"""Relative error of the learned memory below which a run counts as having converged."""

GROWING = "direct, begun at +1/2"
MAPS: dict[str, Decay] = DECAYS | {GROWING: DECAYS["direct"]}


class Mixture(eqx.Module):
    """Channels that all read one input, and the weights of their sum."""

    channels: S4D
    mix: Float[Array, " h"]

    def kernel(self, length: int) -> Float[Array, " length"]:
        """The response to an impulse, with the feedthrough."""
        d = self.channels.d @ self.mix
        return (self.channels.kernel(length) @ self.mix).at[0].add(d)


def begun(name: str, key: jax.Array) -> Mixture:
    """A model with the map of this name, before training."""
    layer_key, mix_key = jax.random.split(key)
    layer = S4D(CHANNELS, STATE, key=layer_key, decay=MAPS[name])
    if name == GROWING:
        layer = eqx.tree_at(lambda one: one.weight, layer, -layer.weight)
    return Mixture(layer, jax.random.normal(mix_key, (CHANNELS,)) / CHANNELS)


def target_memory(length: int) -> np.ndarray:
    """rho_s, s < length."""
    return 1 / (np.arange(length) + 1) ** POWER


def memory_error(model: Mixture) -> jax.Array:
    """||K - rho|| / ||rho|| over LENGTH steps."""
    rho = jnp.asarray(target_memory(LENGTH))
    return jnp.linalg.norm(model.kernel(LENGTH) - rho) / jnp.linalg.norm(rho)


@functools.partial(jax.jit, static_argnames=("name", "steps"))
def train(name: str, rates: jax.Array, seeds: jax.Array, steps: int) -> jax.Array:
    """Error of the memory after training, (rates, seeds), for one map."""

    def one(rate, seed):
        model_key, data_key = jax.random.split(jax.random.key(seed))
        floats, rest = eqx.partition(begun(name, model_key), eqx.is_inexact_array)
        optimiser = optax.adamw(optax.cosine_decay_schedule(rate, steps), weight_decay=WEIGHT_DECAY)

        def loss(floats, key):
            xs = jax.random.normal(key, (LENGTH, BATCH))
            rho = jnp.asarray(target_memory(LENGTH), xs.dtype)
            wrong = eqx.combine(floats, rest).kernel(LENGTH) - rho  # outputs are linear in the memory
            return jnp.mean(convolve(jnp.broadcast_to(wrong[:, None], xs.shape), xs) ** 2)

        def step(carry, key):
            floats, state = carry
            updates, state = optimiser.update(jax.grad(loss)(floats, key), state, floats)
            return (optax.apply_updates(floats, updates), state), None

        (floats, _), _ = jax.lax.scan(
            step, (floats, optimiser.init(floats)), jax.random.split(data_key, steps)
        )
        trained: Any = eqx.combine(floats, rest)
        return memory_error(trained)

    return jax.vmap(lambda rate: jax.vmap(lambda seed: one(rate, seed))(seeds))(rates)


def measure(name: str, steps: int) -> dict:
    """Of one map: the errors of all seeds at each learning rate."""
    return {"errors": np.asarray(train(name, jnp.asarray(RATES), jnp.arange(SEEDS), steps)).tolist()}


def converged(row: dict) -> bool:
    """Whether every seed fits."""
    return all(np.isfinite(error) and error < FITS for error in row["final"])


def failed(row: dict) -> bool:
    """Whether no seed fits."""
    return not any(np.isfinite(error) and error < FITS for error in row["final"])


def targets_of(rows: list[dict]) -> list[Target]:
    """There are learning rates at which each stable map converges and the direct one fails."""
    by = {(row["map"], row["rate"]): row for row in rows}
    refused = [rate for rate in RATES if failed(by["direct", rate])]
    targets = []
    for name in DECAYS:
        if name == "direct":
            continue
        both = [rate for rate in RATES if converged(by[name, rate]) and rate in refused]
        targets.append(
            Target(
                f"a learning rate where {name} converges for every seed and direct for none",
                bool(both),
                ", ".join(f"{rate:g}" for rate in both) or "none",
                "at least one",
            )
        )
    return targets


def figure_of(rows: list[dict]):
    """Error at the end by learning rate; a run that became infinite stands at the top."""
    figure, (axes,) = panels(1, 3.6)
    top = 1e3
    for name, colour in zip(MAPS, PALETTE, strict=False):
        mine = [row for row in rows if row["map"] == name]
        height = [np.median(np.clip(np.nan_to_num(row["final"], nan=top), 1e-4, top)) for row in mine]
        axes.plot([row["rate"] for row in mine], height, "o-", color=colour, label=name, linewidth=1.4)
    axes.axhline(FITS, color="#888888", linestyle=":", linewidth=1)
    axes.set(xscale="log", yscale="log", xticks=RATES, xlabel="learning rate", ylim=(3e-4, 2 * top))
    axes.set(ylabel="relative error", title="median of seeds; 1000 stands for more")
    axes.legend(frameon=False, fontsize=9)
    axes.grid(color="#e5e5e5", linewidth=0.7)
    return figure


def main(steps: int = 10_000, out: Path = Path("runs/stable-ssm"), json: Path | None = None) -> int:
    """Learn a polynomially decaying memory with four maps of the decay (arXiv:2311.14495).

    Ends with a table, a figure and the targets that hold; exits 1 if one does not. Finished maps are kept,
    and the same command goes on from there. Takes about five minutes.

    Args:
        steps: of AdamW; the authors take as many.
        out: folder of the finished maps and the figure `stable-ssm.svg`.
        json: also write rows and targets to this file.
    """
    rows = []
    for name in track(MAPS, "maps", transient=True):
        settings = {"map": name, "steps": steps}
        measured = kept(out, settings, functools.partial(measure, name, steps))
        assert measured is not None
        rows += [
            {"map": name, "rate": rate, "final": final}
            for rate, final in zip(RATES, measured["errors"], strict=True)
        ]
    path = save(figure_of(rows), out / "stable-ssm.svg")
    table = Table(
        ["map", *(f"rate {rate:g}" for rate in RATES)],
        [[name, *(_shown(row["final"]) for row in rows if row["map"] == name)] for name in MAPS],
    )
    remarks = (
        f"Relative error of the learned memory after {steps} steps, one number for each of {SEEDS} seeds; a "
        f"run converges below {FITS:g}.",
        f"figure: {path}",
    )
    return conclude(Evidence("stable-ssm", rows, table, targets_of(rows), remarks), json)


def _shown(errors: list[float]) -> str:
    return " ".join(f"{error:.2g}" for error in errors)

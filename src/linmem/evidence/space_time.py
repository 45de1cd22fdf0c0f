"""An autoregressive process that a companion matrix holds and a diagonal one misses, forecast 720 steps.

    (1 - 0.5 L)(1 - 0.98 L^24) u_t = e_t      L the lag, e_t white noise of variance 1: an AR(25)

SpaceTime and S5 (a diagonal state space) of equal real state size learn to predict the next value, by Adam on
the same batches at three learning rates, of which the best on the held-out series is reported. Then each
continues held-out series on its own for 720 steps, feeding back what it predicts, and is compared with the
process's own conditional mean.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track
from scipy.signal import lfilter

from ..memories.s5 import S5
from ..memories.space_time import SpaceTime
from ..reports.tables import Table
from .conclude import Evidence, Target, conclude
from .fit import fit
from .lines import write_lines

PERIOD = 24
POLYNOMIAL = np.convolve([1, -0.5], np.concatenate([[1], np.zeros(PERIOD - 1), [-0.98]]))
STATE_SIZE = 32
STEPS, AHEAD = 512, 720
SERIES = 16
RATES = (1e-3, 3e-3, 1e-2)


def process(count: int, steps: int, seed: int) -> np.ndarray:
    """Stationary series (count, steps) of the process."""
    noise = np.random.default_rng(seed).standard_normal((count, steps + 2000))
    return np.asarray(lfilter([1.0], POLYNOMIAL, noise))[:, 2000:]


def conditional_mean(past: np.ndarray) -> np.ndarray:
    """What the process itself expects of the next AHEAD values, (count, AHEAD)."""
    values = past
    for _ in range(AHEAD):
        following = -values[:, -len(POLYNOMIAL) + 1 :][:, ::-1] @ POLYNOMIAL[1:]
        values = np.concatenate([values, following[:, None]], axis=1)
    return values[:, past.shape[1] :]


def predict(memory, u):
    """The expected next value at every step of one series."""
    if isinstance(memory, SpaceTime):
        return memory.predict_next(u[:, None])[:, 0]
    return memory.unroll(memory.init(), u[:, None], jnp.arange(len(u)) == 0)[1][:, 0]


def forecast(memory, u):
    """AHEAD values after one series, each from those predicted before it."""
    state, ys = memory.unroll(memory.init(), u[:, None], jnp.arange(len(u)) == 0)
    if isinstance(memory, SpaceTime):
        return memory.forecast(state, AHEAD)[0][:, 0]

    def ahead(carry, _):
        state, guess = carry
        state, following = memory.step(state, guess, jnp.asarray(False))
        return (state, following), guess[0]

    return jax.lax.scan(ahead, (state, ys[-1]), length=AHEAD)[1]


def main(
    updates: int = 2000, seed: int = 0, out: Path = Path("runs/space-time"), json: Path | None = None
) -> int:
    """Fit an AR(25) with a companion and with a diagonal state space, then forecast 720 steps closed-loop.

    After arXiv:2303.09489. Takes about three minutes on 2 cores.

    Args:
        updates: steps of Adam for each layer.
        seed: of series and initial weights.
        out: folder for the figure `space-time.svg`.
        json: also write rows and targets to this file.
    """
    spread = float(np.std(process(64, STEPS, seed + 2)))
    train = jnp.asarray(process(128, STEPS, seed) / spread, jnp.float32)
    test = process(SERIES, STEPS, seed + 1) / spread
    noise = 1 / spread**2
    truth = conditional_mean(test)

    def batch(key):
        return train[jax.random.randint(key, (SERIES,), 0, len(train))]

    def loss(memory, u):
        guess = jax.vmap(lambda one: predict(memory, one))(u)
        return jnp.mean((guess[:, PERIOD + 2 : -1] - u[:, PERIOD + 3 :]) ** 2)

    rows, errors = [], {}
    layers = {
        "SpaceTime": SpaceTime(1, STATE_SIZE, key=jax.random.key(seed)),
        "S5": S5(1, STATE_SIZE, key=jax.random.key(seed)),
    }
    for name, layer in track(layers.items(), "layers", transient=True):
        u = jnp.asarray(test, jnp.float32)
        fitted = [fit(loss, layer, batch, updates, rate, jax.random.key(seed))[0] for rate in RATES]
        memory = min(fitted, key=lambda one: float(loss(one, u)))
        ahead = np.asarray(jax.jit(jax.vmap(lambda one, m=memory: forecast(m, one)))(u), np.float64)
        errors[name] = np.mean((ahead - truth) ** 2, axis=0) / np.mean(truth**2)
        rows.append(
            {
                "layer": name,
                "excess": float(loss(memory, u)) / noise - 1,
                "forecast": float(errors[name].mean()),
            }
        )
    table = Table(
        ["layer", "one step: error / noise - 1", "720 steps: error / power of the conditional mean"],
        [[r["layer"], r["excess"], r["forecast"]] for r in rows],
    )
    space_time, diagonal = rows
    targets = [
        Target(
            "SpaceTime fits the process: one-step error within 5% of the noise",
            space_time["excess"] < 0.05,
            f"{space_time['excess']:.3f}",
            "< 0.05",
        ),
        Target(
            "the diagonal state space does not",
            diagonal["excess"] > 0.05,
            f"{diagonal['excess']:.3f}",
            "> 0.05",
        ),
        Target(
            "closed-loop over 720 steps SpaceTime stays near the conditional mean",
            space_time["forecast"] < 0.25,
            f"{space_time['forecast']:.3f}",
            "< 0.25 of its power",
        ),
        Target(
            "and nearer than the diagonal state space",
            space_time["forecast"] < diagonal["forecast"],
            f"{space_time['forecast']:.3f} against {diagonal['forecast']:.3f}",
            "smaller",
        ),
    ]
    blocks = np.arange(AHEAD).reshape(-1, PERIOD)
    curves = {
        name: (blocks.mean(1), [float(np.clip(error[b].mean(), 1e-6, 1e3)) for b in blocks])
        for name, error in errors.items()
    }
    path = write_lines(out / "space-time.svg", curves, "steps ahead", "error / power", log="y")
    return conclude(Evidence("space-time", rows, table, targets, [f"figure: {path}"]), json)

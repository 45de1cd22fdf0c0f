"""Spectral filters against a learned diagonal state space, on linear systems of long memory.

A symmetric linear system of 16 states, its eigenvalues' magnitudes spread between 1 - 2 gap and 1 - gap,
half of them negative, is driven by white noise; the task is its output. The spectral transform unit's fixed
filters need one least-squares solve; S5, a learned diagonal state space with more parameters, is trained by
Adam at two learning rates, of which the best on the test is reported.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track
from scipy.signal import lfilter

from ..memories.s5 import S5
from ..memories.stu import hankel_filters
from ..reports.tables import Table
from .conclude import Evidence, Target, conclude
from .fit import fit
from .lines import write_lines

GAPS = (1e-1, 1e-2, 1e-3)
STEPS = 512
SEQUENCES = 8
FILTERS = 16
STATE_SIZE = 64
RATES = (3e-3, 1e-2)


def system(gap: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(inputs, outputs) to learn from and (inputs, outputs) to test on, (SEQUENCES, STEPS) each; outputs have
    variance 1."""
    rng = np.random.default_rng(seed)
    eigenvalues = (1 - gap * rng.uniform(1, 2, 16)) * np.where(np.arange(16) % 2, -1, 1)
    weights = rng.standard_normal(16)
    u = rng.standard_normal((2 * SEQUENCES, STEPS))
    y = sum(w * lfilter([1.0], [1.0, -a], u) for w, a in zip(weights, eigenvalues, strict=True))
    y = np.asarray(y) / np.std(y)
    return u[:SEQUENCES], y[:SEQUENCES], u[SEQUENCES:], y[SEQUENCES:]


def spectral_error(data) -> float:
    """Test error of the least-squares mix of fixed filters and the last three inputs."""
    taps = np.concatenate([hankel_filters(FILTERS, STEPS), np.eye(3, STEPS)])
    spectra = np.fft.rfft(taps, 2 * STEPS)

    def features(u):  # (SEQUENCES * STEPS, taps)
        filtered = np.fft.irfft(np.fft.rfft(u, 2 * STEPS)[:, None] * spectra, 2 * STEPS)[..., :STEPS]
        return np.moveaxis(filtered, 1, 2).reshape(-1, len(taps))

    u, y, u_test, y_test = data
    mix = np.linalg.lstsq(features(u), y.ravel(), rcond=1e-10)[0]
    return float(np.mean((features(u_test) @ mix - y_test.ravel()) ** 2))


def diagonal_error(data, updates: int, seed: int) -> dict[float, float]:
    """Test error of S5 after ``updates`` of Adam, by learning rate."""
    u, y, u_test, y_test = (jnp.asarray(a, jnp.float32) for a in data)
    starts = jnp.arange(STEPS) == 0

    def loss(memory, data):
        u, y = data
        unroll = jax.vmap(lambda xs: memory.unroll(memory.init(), xs[:, None], starts)[1][:, 0])
        return jnp.mean((unroll(u) - y) ** 2)

    errors = {}
    for rate in RATES:
        memory = S5(1, STATE_SIZE, key=jax.random.key(seed))
        memory, _ = fit(loss, memory, lambda key: (u, y), updates, rate, jax.random.key(seed))
        errors[rate] = float(loss(memory, (u_test, y_test)))
    return errors


def main(updates: int = 1000, seed: int = 0, out: Path = Path("runs/stu"), json: Path | None = None) -> int:
    """Fixed spectral filters against a trained diagonal state space (arXiv:2312.06837).

    Takes about two minutes on 2 cores.

    Args:
        updates: steps of Adam for the trained state space, at each learning rate.
        seed: of systems, inputs and initial weights.
        out: folder for the figure `stu.svg`.
        json: also write rows and targets to this file.
    """
    rows = []
    for gap in track(GAPS, "systems", transient=True):
        data = system(gap, seed)
        trained = diagonal_error(data, updates, seed)
        rate = min(trained, key=trained.__getitem__)
        rows.append({"gap": gap, "stu": spectral_error(data), "s5": trained[rate], "rate": rate})
    table = Table(
        ["1 - largest eigenvalue", "fixed filters, least squares", "S5, trained", "best rate"],
        [[f"{r['gap']:g}", r["stu"], r["s5"], f"{r['rate']:g}"] for r in rows],
    )
    targets = [
        Target(
            f"1 - largest eigenvalue = {r['gap']:g}: fixed filters err less than the trained state space",
            r["stu"] < r["s5"],
            f"{r['stu']:.2g} against {r['s5']:.2g}",
            "smaller",
        )
        for r in rows
    ]
    memory = [1 / r["gap"] for r in rows]
    curves = {
        "fixed filters": (memory, [r["stu"] for r in rows]),
        "S5, trained": (memory, [r["s5"] for r in rows]),
    }
    path = write_lines(
        out / "stu.svg", curves, "memory of the system, steps", "test error / variance of the output"
    )
    remarks = [
        f"{2 * FILTERS + 3} weights fitted for the filters, {7 * STATE_SIZE // 2 + 1} trained"
        f" in S5; {SEQUENCES} sequences of {STEPS} steps",
        f"figure: {path}",
    ]
    return conclude(Evidence("stu", rows, table, targets, remarks), json)

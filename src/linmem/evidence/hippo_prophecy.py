"""HiPPO-Prophecy without training: how well fixed weights predict the next state of systems never seen.

Four systems of ordinary differential equations from random initial states; each coordinate is one channel.
Errors are root mean squares over the second half of each trajectory, divided by that of persistence ("the
next state is the present one"); two-point extrapolation (2 u_t - u_{t-1}) stands beside them.
"""

from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from rich.progress import track
from scipy.integrate import solve_ivp

from ..memories.prophecy import HippoProphecy
from ..reports.tables import Table
from .conclude import Evidence, Target, conclude
from .lines import write_lines

SIZES = (2, 4, 8, 16, 32)
WINDOW = 50
STEPS = 2000
SMALL = 0.05
"""Of persistence: what the largest state must reach."""

System = tuple[Callable[[float, np.ndarray], list], int, float]
SYSTEMS: dict[str, System] = {
    "van der Pol": (lambda t, y: [y[1], 1.5 * (1 - y[0] ** 2) * y[1] - y[0]], 2, 0.02),
    "Lorenz": (
        lambda t, y: [10 * (y[1] - y[0]), y[0] * (28 - y[2]) - y[1], y[0] * y[1] - 8 / 3 * y[2]],
        3,
        0.005,
    ),
    "predator and prey": (lambda t, y: [y[0] * (1 - y[1]), y[1] * (y[0] - 1.5)], 2, 0.02),
    "pendulum": (lambda t, y: [y[1], -np.sin(y[0])], 2, 0.05),
}
"""By name: the right-hand side, the number of coordinates, and the step."""


def trajectory(system: str, seed: int) -> np.ndarray:
    """STEPS states, each coordinate with mean 0 and standard deviation 1."""
    slope, size, step = SYSTEMS[system]
    begin = np.random.default_rng(seed).uniform(0.5, 1.5, size)
    when = np.arange(STEPS) * step
    states = solve_ivp(slope, (0, when[-1]), begin, t_eval=when, rtol=1e-9, atol=1e-9).y.T
    return (states - states.mean(0)) / states.std(0)


def error(predicted: np.ndarray, states: np.ndarray) -> float:
    """Root mean square error of ``predicted[t]`` as a guess of ``states[t + 1]``, over the second half."""
    late = slice(len(states) // 2, len(states) - 1)
    return float(np.sqrt(np.mean((predicted[late] - states[1:][late]) ** 2)))


def measure(system: str, seed: int) -> dict[str, float]:
    """Errors over persistence: of each state size, and of two-point extrapolation."""
    states = trajectory(system, seed)
    still = error(states, states)
    straight = np.concatenate([states[:1], 2 * states[1:] - states[:-1]])
    found = {"extrapolation": error(straight, states) / still}
    starts = jnp.arange(STEPS) == 0
    for size in SIZES:
        memory = HippoProphecy(states.shape[1], size, WINDOW)
        _, guess = eqx.filter_jit(memory.unroll)(memory.init(), jnp.asarray(states, jnp.float32), starts)
        found[str(size)] = error(np.asarray(guess, np.float64), states) / still
    return found


def main(seed: int = 0, out: Path = Path("runs/hippo-prophecy"), json: Path | None = None) -> int:
    """Predict the next state of unseen dynamical systems with fixed weights, as arXiv:2407.09375 does.

    Exits 1 unless the error falls with the state's size on every system. Takes seconds.

    Args:
        seed: of the initial states.
        out: folder for the figure `hippo-prophecy.svg`.
        json: also write rows and targets to this file.
    """
    found = {system: measure(system, seed) for system in track(SYSTEMS, "systems", transient=True)}
    columns = [*map(str, SIZES), "extrapolation"]
    table = Table(
        ["system", *(f"n = {n}" for n in SIZES), "2-point extrapolation"],
        [[system, *(row[c] for c in columns)] for system, row in found.items()],
    )
    targets = []
    for system, row in found.items():
        errors = [row[str(n)] for n in SIZES]
        targets.append(
            Target(
                f"{system}: the error falls from n = 4 to 8 to 16 and ends there or lower",
                errors[1] > errors[2] > errors[3] and errors[4] <= 1.1 * errors[3],
                ", ".join(f"{e:.3g}" for e in errors),
                "each below the one before, the last within 10%",
            )
        )
        targets.append(
            Target(
                f"{system}: n = {SIZES[-1]} predicts, where persistence errs by 1",
                errors[-1] < SMALL,
                f"{errors[-1]:.3g}",
                f"< {SMALL}",
            )
        )
    curves = {system: (SIZES, [row[str(n)] for n in SIZES]) for system, row in found.items()}
    curves["persistence"] = (SIZES, [1.0] * len(SIZES))
    path = write_lines(out / "hippo-prophecy.svg", curves, "state size", "error / error of persistence")
    rows = [{"system": system, **row} for system, row in found.items()]
    remarks = [f"window {WINDOW} steps; nothing was trained", f"figure: {path}"]
    return conclude(Evidence("hippo-prophecy", rows, table, targets, remarks), json)

"""Forecasts of a long real series, closed loop: every model feeds back what it predicts for two years.

The series is the carbon dioxide in the air over Mauna Loa, weekly from 1958 to 2001: a year's rhythm on a
trend that steepens, with 59 missing weeks filled in linearly. A window is PAST weeks to read and AHEAD to
forecast; its last known value is subtracted. Models learn on windows before 1987, their learning rate (or
order) is chosen on 1987 to 1993, and the table is about 1993 to 2001, looked at once.

    learned     u'_{t+1} = u_t + W memory(V u_t)              one layer in a residual block
    SpaceTime   u'_{t+1} = K x_t,  x_{t+1} = (A + B K) x_t    one linear channel, closed inside the layer
    AR(p)       u'_{t+1} = c + sum_i phi_i u_{t-i}            by least squares

Learned models minimise the squared error of the next value over PAST and of the closed loop over AHEAD, in
equal parts, by Adam.

Source: M. Zhang et al., 2023, arXiv:2303.09489 (closed-loop forecasts of a companion state space); the
series: C. D. Keeling, T. P. Whorf, 2004, "Atmospheric CO2 concentrations derived from flask air samples at
sites in the SIO network", as statsmodels ships it.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from rich.console import Console

from ..memories import GRU, S4, S5, SpaceTime
from ..memories.base import AbstractMemory
from ..memories.stack import Layer, Residual
from ..reports.figures import PALETTE
from ..reports.tables import Table
from .conclude import Evidence, Target, conclude
from .drawing import panels, save
from .fit import fit
from .rows import kept

YEAR = 52
PAST, AHEAD = 3 * YEAR, 2 * YEAR
CHOOSE, TEST = 1500, 1850
"""Weeks at which the windows' forecasts begin to serve for choosing, and for the table."""
WIDTH, STATE, BATCH = 16, 64, 8
RATES = (1e-3, 3e-3, 1e-2)
ORDERS = (1, 2, 4, 26, 53, 60, 104, 156)


def series() -> np.ndarray:
    """Parts per million, weekly, (2284,)."""
    try:
        from statsmodels.datasets import co2
    except ImportError as error:
        raise ImportError(
            "the series comes with statsmodels, which is not installed: pip install 'linmem[data]'"
        ) from error
    found: Any = co2.load_pandas()
    values = np.asarray(found.data["co2"], np.float64)
    known, weeks = np.isfinite(values), np.arange(len(values))
    return np.interp(weeks, weeks[known], values[known])


def windows(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Windows (n, PAST + AHEAD) to learn from, to choose by, and to report: forecasts of one set begin after
    those of the set before have ended."""
    every = np.lib.stride_tricks.sliding_window_view(values, PAST + AHEAD)
    learned, chosen = CHOOSE - AHEAD - PAST + 1, TEST - AHEAD - PAST + 1
    return every[:learned], every[CHOOSE - PAST : chosen], every[TEST - PAST :]


# --- what needs no training ---------------------------------------------------------------------------------


def naive(past: np.ndarray) -> np.ndarray:
    """The last value, for ever."""
    return np.repeat(past[:, -1:], AHEAD, axis=1)


def seasonal(past: np.ndarray) -> np.ndarray:
    """The last year, again and again."""
    return np.tile(past[:, -YEAR:], AHEAD // YEAR)


def seasonal_drift(past: np.ndarray) -> np.ndarray:
    """The last year, higher each year by as much as it was above the one before."""
    rise = past[:, -YEAR:].mean(axis=1) - past[:, -2 * YEAR : -YEAR].mean(axis=1)
    years = 1 + np.arange(AHEAD) // YEAR
    return seasonal(past) + rise[:, None] * years


def autoregression(values: np.ndarray, order: int) -> Callable[[np.ndarray], np.ndarray]:
    """AR(``order``) with a constant, fitted to ``values`` by least squares: a forecaster."""
    centre, scale = values.mean(), values.std()
    u = (values - centre) / scale
    lags = np.stack([u[order - i - 1 : len(u) - i - 1] for i in range(order)], axis=1)
    weights = np.linalg.lstsq(np.column_stack([lags, np.ones(len(lags))]), u[order:], rcond=None)[0]

    def forecast(past: np.ndarray) -> np.ndarray:
        u = (past - centre) / scale
        for _ in range(AHEAD):
            following = u[:, -1 : -order - 1 : -1] @ weights[:-1] + weights[-1]
            u = np.concatenate([u, following[:, None]], axis=1)
        return u[:, past.shape[1] :] * scale + centre

    return forecast


# --- what learns --------------------------------------------------------------------------------------------


class Network(eqx.Module):
    """A memory between two linear maps; what it gives is added to the present value."""

    enter: eqx.nn.Linear
    memory: AbstractMemory
    leave: eqx.nn.Linear

    def __init__(self, layer: Layer, *, key: PRNGKeyArray):
        keys = jax.random.split(key, 4)
        self.enter = eqx.nn.Linear(1, WIDTH, key=keys[0])
        self.memory = Residual(layer(WIDTH, keys[1]), key=keys[2])
        self.leave = eqx.nn.Linear(WIDTH, 1, key=keys[3])

    def read(self, past: Float[Array, " past"]):
        """(state, the expected next value at every step)."""
        starts = jnp.arange(len(past)) == 0
        state, ys = self.memory.unroll(self.memory.init(), jax.vmap(self.enter)(past[:, None]), starts)
        return state, past + jax.vmap(self.leave)(ys)[:, 0]

    def go_on(self, state, guess: Float[Array, ""]) -> Float[Array, " ahead"]:
        """AHEAD values, the first of them ``guess``."""

        def ahead(carry, _):
            state, u = carry
            state, y = self.memory.step(state, self.enter(u[None]), jnp.asarray(False))
            return (state, u + self.leave(y)[0]), u

        return jax.lax.scan(ahead, (state, guess), length=AHEAD)[1]


class ClosedSpaceTime(eqx.Module):
    """One linear channel that continues its own input."""

    memory: SpaceTime

    def read(self, past: Float[Array, " past"]):
        starts = jnp.arange(len(past)) == 0
        state, _ = self.memory.unroll(self.memory.init(), past[:, None], starts)
        return state, self.memory.predict_next(past[:, None])[:, 0]

    def go_on(self, state, guess: Float[Array, ""]) -> Float[Array, " ahead"]:
        return self.memory.forecast(state, AHEAD)[0][:, 0]


MODELS: dict[str, Callable[[PRNGKeyArray], Any]] = {
    "SpaceTime, closed inside": lambda key: ClosedSpaceTime(SpaceTime(1, 2 * STATE, key=key)),  # pyright: ignore[reportCallIssue]
    "SpaceTime, network": lambda key: Network(lambda n, k: SpaceTime(n, STATE, key=k), key=key),
    "S4": lambda key: Network(lambda n, k: S4(n, STATE, key=k), key=key),
    "S5": lambda key: Network(lambda n, k: S5(n, STATE, key=k), key=key),
    "GRU": lambda key: Network(lambda n, k: GRU(n, n, key=k), key=key),
}


def closed_loop(model, past: Float[Array, " past"]) -> Float[Array, " ahead"]:
    state, following = model.read(past)
    return model.go_on(state, following[-1])


def loss(model, window: Float[Array, "n weeks"]) -> Float[Array, ""]:
    """Mean squared error of the next value over the past, and of the closed loop."""

    def one(window):
        past, ahead = window[:PAST], window[PAST:]
        state, following = model.read(past)
        near = jnp.mean((following[:-1] - past[1:]) ** 2)
        return near + jnp.mean((model.go_on(state, following[-1]) - ahead) ** 2)

    return jnp.mean(jax.vmap(one)(window))


def learn(name: str, updates: int, seeds: int, seed: int) -> dict[str, Any]:
    """The row of a learned model: all rates and seeds trained side by side."""
    values = series()
    train, chosen, test = windows(values)
    scale = float(np.std(train - train[:, PAST - 1 : PAST]))

    def ready(window):
        return jnp.asarray((window - window[:, PAST - 1 : PAST]) / scale, jnp.float32)

    weeks = ready(train)

    def batch(key):
        return weeks[jax.random.randint(key, (BATCH,), 0, len(weeks))]

    @eqx.filter_jit
    @functools.partial(eqx.filter_vmap, in_axes=(0, None))
    @functools.partial(eqx.filter_vmap, in_axes=(None, 0))
    def fitted(rate, key):
        make_key, fit_key = jax.random.split(key)
        return fit(loss, MODELS[name](make_key), batch, updates, rate, fit_key)[0]

    @eqx.filter_jit
    @functools.partial(eqx.filter_vmap, in_axes=(0, None))
    @functools.partial(eqx.filter_vmap, in_axes=(0, None))
    def forecasts(model, past):
        return jax.vmap(functools.partial(closed_loop, model))(past)

    keys = jax.random.split(jax.random.key(seed), seeds)
    models = fitted(jnp.asarray(RATES), keys)

    def errors(window) -> np.ndarray:
        """Absolute errors in parts per million, (rates, seeds, windows, AHEAD)."""
        made = np.asarray(forecasts(models, ready(window)[:, :PAST]), np.float64)
        return np.abs(made * scale + window[:, PAST - 1 : PAST] - window[:, PAST:])

    looked = np.nan_to_num(errors(chosen).mean(axis=(1, 2, 3)), nan=np.inf)
    best = int(np.argmin(looked))
    found = errors(test)[best]
    floats = eqx.filter(MODELS[name](keys[0]), eqx.is_inexact_array)
    return _row(name, found, f"rate {RATES[best]:g}") | {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(floats)),
        "seeds": found.mean(axis=(1, 2)).tolist(),
        "chosen_by": looked.tolist(),
    }


def fixed() -> list[dict[str, Any]]:
    """The rows of what needs no training, with the order of the autoregression chosen as rates are."""
    values = series()
    _, chosen, test = windows(values)

    def errors(forecaster, window):
        return np.abs(forecaster(window[:, :PAST]) - window[:, PAST:])

    orders = {order: autoregression(values[:CHOOSE], order) for order in ORDERS}
    best = min(orders, key=lambda order: float(errors(orders[order], chosen).mean()))
    forecasters = {
        "naive": (naive, "", 0),
        "seasonal naive": (seasonal, "", 0),
        "seasonal naive with drift": (seasonal_drift, "", 0),
        "AR": (orders[best], f"order {best}", best + 1),
    }
    return [
        _row(name, errors(forecaster, test)[None], choice) | {"parameters": parameters}
        for name, (forecaster, choice, parameters) in forecasters.items()
    ]


def _row(name: str, errors: np.ndarray, choice: str) -> dict[str, Any]:
    """``errors`` (seeds, windows, AHEAD)."""
    ahead = errors.mean(axis=(0, 1))
    return {"model": name, "choice": choice, "error": float(ahead.mean()), "ahead": ahead.tolist()}


# --- results ------------------------------------------------------------------------------------------------

OWN = "SpaceTime, closed inside"


def targets_of(rows: Sequence[dict[str, Any]]) -> list[Target]:
    """Claims made before the first run: a companion state space closed on itself forecasts better than last
    year's curve and than the other state spaces and a GRU that feed back their guesses."""
    error = {row["model"]: row["error"] for row in rows}
    return [
        Target(
            f"{OWN}, against {other}", error[OWN] < error[other], f"{error[OWN]:.3f}", f"< {error[other]:.3f}"
        )
        for other in ("naive", "seasonal naive", "S4", "S5", "GRU")
    ]


def table_of(rows: Sequence[dict[str, Any]]) -> Table:
    base = next(row["error"] for row in rows if row["model"] == "seasonal naive")
    return Table(
        ["model", "chosen", "parameters", "error, ppm", "of seasonal naive", "week 1", "week 52", "week 104"],
        [
            [
                row["model"],
                row["choice"] or None,
                f"{row['parameters']:,}",
                row["error"],
                row["error"] / base,
                *(row["ahead"][week - 1] for week in (1, YEAR, AHEAD)),
            ]
            for row in rows
        ],
    )


def figure_of(rows: Sequence[dict[str, Any]]):
    """Error by week ahead."""
    figure, (axes,) = panels(1, 4.2)
    for i, row in enumerate(rows):
        style = "-" if "seeds" in row else ":"
        axes.plot(
            np.arange(1, AHEAD + 1), row["ahead"], style, color=PALETTE[i % len(PALETTE)], label=row["model"]
        )
    axes.set(xlabel="weeks ahead", ylabel="mean absolute error, ppm", ylim=(0, None))
    axes.grid(color="#e5e5e5", linewidth=0.7)
    figure.legend(loc="outside lower center", frameon=False, fontsize=8, ncols=2)
    return figure


def main(
    updates: int = 400,
    seeds: int = 2,
    seed: int = 0,
    out: Path = Path("runs/forecasting"),
    json: Path | None = None,
) -> int:
    """Forecast the carbon dioxide over Mauna Loa two years ahead, closed loop (after arXiv:2303.09489).

    SpaceTime, S4, S5 and a GRU beside the naive forecasts and an autoregression. Ends with a table, a figure
    and the targets that hold; exits 1 if one does not. Finished rows are kept, and the same command goes on
    from there. Takes some minutes.

    Args:
        updates: steps of Adam.
        seeds: models of each kind and learning rate.
        seed: from which all random numbers follow.
        out: folder of the finished rows and the figure `forecasting.svg`.
        json: also write rows and targets to this file.
    """
    console, rows = Console(), fixed()
    for name in MODELS:
        settings = {"model": name, "updates": updates, "seeds": seeds, "seed": seed}
        row = kept(out, settings, functools.partial(learn, *settings.values()))
        assert row is not None
        rows.append(row)
        console.print(f"{name}: {row['error']:.3f} ppm", highlight=False)
    path = save(figure_of(rows), out / "forecasting.svg")
    remarks = (
        f"Mean absolute error over {AHEAD} weeks, from every week of 1993 to 1999; learned models: mean of "
        f"{seeds} seeds at the best of {len(RATES)} learning rates by the years before.",
        f"figure: {path}",
    )
    return conclude(Evidence("forecasting", rows, table_of(rows), targets_of(rows), remarks), json)

"""S4's kernel three ways, and what dropping its low-rank part costs.

1. The Cauchy form in float32 beside C Abar^l Bbar by powers of A in float64, same parameters.
2. Seconds for the kernel by the Cauchy form and by powers, as the length grows.
3. The state's answer to a slow input, of the diagonal system (N, B / 2) beside the full one, as the state
   size grows: it converges for HiPPO-LegS (S4D-LegS), and not for the same step taken with LegT and FouT.

Source: A. Gu, K. Goel, C. Ré, 2021, arXiv:2111.00396, theorems 1-3; A. Gu, A. Gupta, K. Goel, C. Ré, 2022,
arXiv:2206.11893, theorem 3. That theorem holds for each smooth input; for an impulse the two never agree
(`linmem reproduce ptd`), so the kernels are compared by what they do to a smooth input.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track

from ..memories.hippo import HIPPO, Hippo, dplr, zoh
from ..memories.s4 import S4
from ..reports.figures import PALETTE
from ..reports.tables import Table
from .conclude import Evidence, Target, conclude
from .drawing import panels, save
from .timing import bound, medians

LENGTH, STATE, CHANNELS = 4096, 64, 8
LENGTHS = (256, 1024, 4096, 16384)
STATES = (8, 16, 32, 64, 128, 256)
ALLOWED = 1e-5


def dense(layer: S4) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(Abar, Bbar, C) of each channel in float64, all conjugate pairs."""
    f = lambda a: np.asarray(a, np.float64)  # noqa: E731
    both = lambda z: np.concatenate([z, z.conj()])  # noqa: E731
    low_rank, b = (both(f(z[0]) + 1j * f(z[1])) for z in (layer.low_rank, layer.b))
    a = np.diag(both(-np.exp(f(layer.log_decay)) + 1j * f(layer.frequency))) - low_rank @ low_rank.conj().T
    found = []
    for log_step, real, imag in zip(f(layer.log_step), *f(layer.c), strict=True):
        half = np.exp(log_step) / 2 * a
        ahead = np.linalg.inv(np.eye(len(b)) - half)
        found.append((ahead @ (np.eye(len(b)) + half), ahead @ b * np.exp(log_step), both(real + 1j * imag)))
    return found


def kernel_by_powers(system: tuple[np.ndarray, np.ndarray, np.ndarray], length: int) -> np.ndarray:
    """C Abar^l Bbar, l < length, one power after another."""
    transition, x, c = system
    values = []
    for _ in range(length):
        values.append(np.real(c @ x))
        x = transition @ x
    return np.array(values)


def precision(layer: S4) -> list[dict]:
    """Error of the Cauchy form, and of powers in float32, relative to the largest entry of each kernel."""
    cauchy = np.asarray(jax.jit(lambda layer: layer.kernel(LENGTH))(layer))
    rows = []
    for channel, system in enumerate(dense(layer)):
        exact = kernel_by_powers(system, LENGTH)
        single = kernel_by_powers(tuple(part.astype(np.complex64) for part in system), LENGTH)  # pyright: ignore[reportArgumentType]
        scale = np.abs(exact).max()
        rows.append(
            {
                "part": "precision",
                "step": float(np.exp(layer.log_step[channel])),
                "cauchy": float(np.abs(cauchy[:, channel] - exact).max() / scale),
                "powers": float(np.abs(single - exact).max() / scale),
            }
        )
    return rows


def speed(layer: S4, repeats: int = 5) -> list[dict]:
    """Median seconds of both ways, all channels, by length."""
    transition, into, output = (
        jnp.asarray(np.stack(parts), jnp.complex64) for parts in zip(*dense(layer), strict=True)
    )
    rows = []
    for length in LENGTHS:

        def powers(transition, into, output, length=length):
            def body(x, _):
                return jnp.einsum("hij,hj->hi", transition, x), jnp.sum(output * x, axis=1).real

            return jax.lax.scan(body, into, None, length)[1]

        seconds = medians(
            {
                "cauchy": bound(lambda layer, length=length: layer.kernel(length), layer),
                "powers": bound(powers, transition, into, output),
            },
            repeats,
        )
        rows.append({"part": "speed", "length": length, **seconds})
    return rows


def responses(hippo: Hippo, steps: int = 2000, step: float = 0.0025) -> tuple[np.ndarray, np.ndarray]:
    """Answer of the first 4 state entries to sin^2, of the full system and of its normal part with B / 2."""
    transition, into = zoh(hippo.a, hippo.b, step)
    diagonal = dplr(hippo)
    turning, half = zoh(np.diag(diagonal.eigenvalues), diagonal.b / 2, step)
    turning, x, z, full, normal = np.diag(turning), np.zeros(len(into)), np.zeros(len(half), complex), [], []
    for u in np.sin(np.pi * step * np.arange(steps) / 2) ** 2:
        x, z = transition @ x + into * u, turning * z + half * u
        full.append(x[:4])
        normal.append(2 * (diagonal.vectors[:4] @ z).real)
    return np.array(full), np.array(normal)


def convergence() -> list[dict]:
    """Largest difference of the two answers, relative to the largest, by HiPPO matrix and state size."""
    rows = []
    for name, hippo in HIPPO.items():
        for size in STATES:
            full, normal = responses(hippo(size))
            error = float(np.abs(full - normal).max() / np.abs(full).max())
            rows.append({"part": "diagonal", "hippo": name, "state": size, "error": error})
    return rows


def targets_of(rows: list[dict]) -> list[Target]:
    """The three parts' targets."""
    part = lambda name: [row for row in rows if row["part"] == name]  # noqa: E731
    worst = max(row["cauchy"] for row in part("precision"))
    first, last = part("speed")[0], part("speed")[-1]
    ratio = last["powers"] / last["cauchy"]
    errors = {name: [r["error"] for r in part("diagonal") if r["hippo"] == name] for name in HIPPO}
    falls = max(after / before for before, after in zip(errors["legs"], errors["legs"][1:], strict=False))
    stays = min(min(errors[name]) for name in ("legt", "fout"))
    growth = lambda name: f"{last[name] / first[name]:.0f}"  # noqa: E731
    return [
        Target(
            f"Cauchy in float32 against powers in float64, length {LENGTH}, state {STATE}",
            worst < ALLOWED,
            f"{worst:.1e} of the largest entry",
            f"< {ALLOWED:g}",
        ),
        Target(
            f"Cauchy is faster than powers at length {last['length']}",
            ratio > 1,
            f"{ratio:.1f} times; from length {first['length']} on, times {growth('cauchy')} against "
            f"{growth('powers')}",
            "> 1 times",
        ),
        Target(
            "S4D-LegS converges to LegS: each doubling of the state lowers the error",
            falls < 1 and errors["legs"][-1] < 1e-3,
            f"{errors['legs'][0]:.2g} to {errors['legs'][-1]:.2g}, times {falls:.2f} at most",
            "times < 1, below 0.001 at the end",
        ),
        Target("the same for LegT and FouT does not", stays > 0.3, f"{stays:.2g} at least", "> 0.3"),
    ]


def figure_of(rows: list[dict]):
    """Seconds by length; error of the diagonal system by state size."""
    figure, (above, below) = panels(2, 2.8)
    timed = [row for row in rows if row["part"] == "speed"]
    for name, colour in (("cauchy", PALETTE[0]), ("powers", PALETTE[1])):
        above.plot([r["length"] for r in timed], [r[name] for r in timed], "o-", color=colour, label=name)
    above.set(xscale="log", yscale="log", xticks=LENGTHS, xlabel="length", ylabel="seconds for the kernel")
    for name, colour in zip(HIPPO, PALETTE, strict=False):
        mine = [row for row in rows if row["part"] == "diagonal" and row["hippo"] == name]
        below.plot([r["state"] for r in mine], [r["error"] for r in mine], "o-", color=colour, label=name)
    below.set(xscale="log", yscale="log", xticks=STATES, xlabel="state size", ylabel="error without low rank")
    for axes in (above, below):
        axes.legend(frameon=False, fontsize=9)
        axes.grid(color="#e5e5e5", linewidth=0.7)
    return figure


def main(out: Path = Path("runs/s4"), json: Path | None = None) -> int:
    """Check S4's kernel by powers of A, time it, and show when a diagonal system stands in for it.

    Ends with a table, a figure and the targets that hold; exits 1 if one does not. Takes about a minute.

    Args:
        out: folder for the figure `s4.svg`.
        json: also write rows and targets to this file.
    """
    layer = S4(CHANNELS, STATE, key=jax.random.key(0))
    parts = (lambda: precision(layer), lambda: speed(layer), convergence)
    rows = [row for part in track(parts, "S4", transient=True) for row in part()]
    path = save(figure_of(rows), out / "s4.svg")
    lines = []
    for row in rows:
        if row["part"] == "precision":
            what = f"error at length {LENGTH}, Delta = {row['step']:.4f}"
            lines.append([what, f"Cauchy {row['cauchy']:.1e}", f"float32 powers {row['powers']:.1e}"])
        elif row["part"] == "speed":
            what = f"seconds at length {row['length']}"
            lines.append([what, f"Cauchy {row['cauchy']:.4f}", f"powers {row['powers']:.4f}"])
        else:
            lines.append(
                [f"{row['hippo']} without low rank, state {row['state']}", f"{row['error']:.1e}", ""]
            )
    table = Table(["what", "measured", "beside it"], lines)
    return conclude(Evidence("s4", rows, table, targets_of(rows), (f"figure: {path}",)), json)

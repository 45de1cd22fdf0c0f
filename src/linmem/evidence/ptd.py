"""Perturb-then-diagonalise: which diagonal system answers like HiPPO-LegS at every frequency.

    G(i w) = C (i w I - A)^-1 B

for HiPPO-LegS itself, for the diagonal system that drops its low-rank part (S4D-LegS, also the start of S5:
(N, B / 2), N the normal part), and for the eigenvalues of A + E with ||E||_2 = epsilon (PTD). C is random
with |B_n C_n| = 1. Measured: the condition number of the eigenvectors, the largest deviation of G over a grid
of frequencies, and how far the output of a slow signal moves when a tenth of one Fourier mode is added.

| paper     | here      | meaning                                                   |
|-----------|-----------|-----------------------------------------------------------|
| n         | SIZES     | state size                                                |
| epsilon   | EPSILONS  | size of the perturbation                                  |
| kappa(V)  | condition | condition number of the eigenvectors                      |

Source: A. Yu, A. Nigmetov, D. Morozov, M. W. Mahoney, N. B. Erichson, "Robustifying State-space Models for
Long Sequences via Approximate Diagonalization", 2023, arXiv:2310.01698, section 3 (S4D converges for each
smooth input, not for all inputs together) and section 4: the deviation of PTD is at most about
(2 log n + 4) epsilon. The paper tests trained networks on noisy images; here the systems are as they begin.
"""

from pathlib import Path

import jax
import numpy as np

from ..memories.diagonal import Basis, legs_normal, perturb_then_diagonalise
from ..memories.hippo import Hippo, legs, zoh
from ..reports.figures import PALETTE
from ..reports.tables import Table
from .conclude import Evidence, Target, conclude
from .drawing import panels, save

SIZES = (16, 32, 64)
EPSILONS = (0.001, 0.01, 0.1)
MODE = 0.1
"""Amplitude of the added Fourier mode, beside a slow signal of amplitude 1."""
SPIKE, FACTOR = 1.0, 20.0

System = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Eigenvalues, B and C; the output is 2 Re(C z)."""


def systems(n: int) -> tuple[Hippo, np.ndarray, dict[str, tuple[System, float]]]:
    """HiPPO-LegS, a random C, and by name each diagonal system with the condition number of its vectors."""
    hippo = legs(n)
    c = np.random.default_rng(0).choice([-1.0, 1.0], n) / hippo.b
    found = {"S4D-LegS, S5": (_system(legs_normal(n, jax.random.key(0)), c, 0.5), 1.0)}
    for epsilon in EPSILONS:
        basis = perturb_then_diagonalise(epsilon)(n, jax.random.key(0))
        found[f"PTD, epsilon = {epsilon:g}"] = (_system(basis, c, 1.0), condition(basis))
    return hippo, c, found


def _system(basis: Basis, c: np.ndarray, share: float) -> System:
    return basis.eigenvalues, share * basis.b, c @ basis.back


def condition(basis: Basis) -> float:
    """Condition number of all eigenvectors, of unit length."""
    alone = basis.eigenvalues.imag == 0
    vectors = np.concatenate([basis.back, basis.back[:, ~alone].conj()], axis=1)
    return float(np.linalg.cond(vectors / np.linalg.norm(vectors, axis=0)))


def transfer(hippo: Hippo, c: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """G(i w) by solving with A."""
    one = np.eye(len(c))
    return np.array([c @ np.linalg.solve(1j * w * one - hippo.a, hippo.b) for w in frequencies])


def diagonal_transfer(system: System, frequencies: np.ndarray) -> np.ndarray:
    """G(i w) of a diagonal system and its conjugate half."""
    eigenvalues, b, c = system
    s = 1j * frequencies[:, None]
    return np.sum(b * c / (s - eigenvalues) + (b * c).conj() / (s - eigenvalues.conj()), axis=1)


def output(hippo: Hippo, c: np.ndarray, signal: np.ndarray, step: float) -> np.ndarray:
    """y for a signal held over each step."""
    transition, into = zoh(hippo.a, hippo.b, step)
    x, out = np.zeros(len(c)), []
    for u in signal:
        x = transition @ x + into * u
        out.append(c @ x)
    return np.array(out)


def diagonal_output(system: System, signal: np.ndarray, step: float) -> np.ndarray:
    """The same for a diagonal system."""
    eigenvalues, b, c = system
    transition = np.exp(eigenvalues * step)
    into = (transition - 1) / eigenvalues * b
    z, out = np.zeros(len(b), complex), []
    for u in signal:
        z = transition * z + into * u
        out.append(2 * (c @ z).real)
    return np.array(out)


def measure(n: int) -> tuple[list[dict], dict[str, np.ndarray]]:
    """Rows of one size, and what the figure shows: deviation by frequency."""
    hippo, c, found = systems(n)
    frequencies = np.concatenate([np.linspace(0, 3 * n, 1500), np.geomspace(3 * n, n**2, 1500)])
    exact = transfer(hippo, c, frequencies)
    curves = {name: np.abs(diagonal_transfer(one, frequencies) - exact) for name, (one, _) in found.items()}
    worst = frequencies[curves["S4D-LegS, S5"].argmax()]
    step = 0.25 / worst
    times = step * np.arange(6000)
    slow = np.sin(np.pi * times / times[-1]) ** 2
    noisy = slow + MODE * np.cos(worst * times)
    rows = []
    for name, (one, kappa) in found.items():
        clean, hit = (
            float(np.abs(diagonal_output(one, u, step) - output(hippo, c, u, step)).max())
            for u in (slow, noisy)
        )
        row = {"n": n, "system": name, "condition": kappa, "deviation": float(curves[name].max())}
        rows.append(row | {"clean": clean, "noisy": hit, "mode": float(worst)})
    direct = np.linalg.cond(np.linalg.eig(hippo.a)[1])
    rows.append({"n": n, "system": "eigenvectors of A itself", "condition": float(direct)})
    return rows, {"frequency": frequencies, **curves}


def targets_of(rows: list[dict]) -> list[Target]:
    """What must hold at every size."""

    s4d = min(row["deviation"] for row in rows if row["system"].startswith("S4D"))
    margin = max(
        r["deviation"] / float((2 * np.log(r["n"]) + 4) * epsilon)
        for r in rows
        for epsilon in EPSILONS
        if _is(r, epsilon)
    )
    pairs = [
        (one["noisy"], other["noisy"])
        for one in rows
        for other in rows
        if one["n"] == other["n"] and one["system"].startswith("S4D") and _is(other, 0.1)
    ]
    ratio = min(one / other for one, other in pairs)
    kept = max(r["condition"] for r in rows if r["system"].startswith("PTD"))
    largest = max(SIZES)
    direct = next(r for r in rows if r["n"] == largest and "itself" in r["system"])["condition"]
    return [
        Target("S4D-LegS deviates at some frequency, at every n", s4d > SPIKE, f"{s4d:.2f}", f"> {SPIKE:g}"),
        Target(
            "PTD stays within (2 log n + 4) epsilon", margin <= 1, f"{margin:.3f} of it at most", "at most 1"
        ),
        Target(
            "a Fourier mode moves S4D further from HiPPO than PTD (epsilon = 0.1)",
            ratio > FACTOR,
            f"{ratio:.0f} times at least",
            f"> {FACTOR:g} times",
        ),
        Target(
            f"eigenvectors at n = {largest}: PTD can be inverted in float64, those of A cannot",
            kept < 1e8 and direct > 1e16,
            f"condition {kept:.1e} at most against {direct:.1e}",
            "< 1e8 and > 1e16",
        ),
    ]


def _is(row: dict, epsilon: float) -> bool:
    return row["system"].endswith(f"= {epsilon:g}")


def figure_of(curves: dict[str, np.ndarray]):
    """Deviation from HiPPO by frequency at the largest size."""
    figure, (axes,) = panels(1)
    for name, colour in zip(list(curves)[1:], PALETTE, strict=False):
        axes.plot(curves["frequency"][1:], curves[name][1:], color=colour, linewidth=1.2, label=name)
    axes.set(xscale="log", yscale="log", ylim=(1e-8, 30))
    axes.set(xlabel="frequency", ylabel="deviation from HiPPO-LegS")
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    axes.grid(color="#e5e5e5", linewidth=0.7)
    return figure


def main(out: Path = Path("runs/ptd"), json: Path | None = None) -> int:
    """Compare diagonal starts with HiPPO-LegS at every frequency (arXiv:2310.01698).

    S4D-LegS and S5 drop the low-rank part; PTD perturbs, then diagonalises. Ends with a table, a figure and
    the targets that hold; exits 1 if one does not. Takes about half a minute.

    Args:
        out: folder for the figure `ptd.svg`.
        json: also write rows and targets to this file.
    """
    rows, curves = [], {}
    for n in SIZES:
        more, curves = measure(n)
        rows += more
    path = save(figure_of(curves), out / "ptd.svg")
    blank = lambda row, key, form: format(row[key], form) if key in row else ""  # noqa: E731
    table = Table(
        ["n", "system", "condition", "deviation", "clean signal", "with the mode"],
        [
            [
                str(row["n"]),
                row["system"],
                f"{row['condition']:.1e}",
                *(blank(row, key, ".2e") for key in ("deviation", "clean", "noisy")),
            ]
            for row in rows
        ],
    )
    remarks = (
        "deviation: largest |G - G_HiPPO| over the frequencies. clean signal, with the mode: largest "
        f"difference from HiPPO's output for a slow signal, and with {MODE:g} of the Fourier mode at which "
        "S4D deviates most.",
        f"figure: {path}",
    )
    return conclude(Evidence("ptd", rows, table, targets_of(rows), remarks), json)

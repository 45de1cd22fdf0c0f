"""What a frozen random recurrence remembers of a path: iterated integrals, by a linear readout.

    h_{k+1} = h_k + A(dx_k) h_k + B dx_k,   h_0 fixed;      target = W [h_T, 1], W by ridge regression

| recurrence | A(dx)                          | second order (signed area) | third order             |
|------------|--------------------------------|----------------------------|-------------------------|
| dense      | sum_i dx_i A_i                 | yes                        | yes                     |
| diagonal   | sum_i dx_i diag(a_i)           | yes                        | not all                 |
| constant   | A, whatever the input          | no                         | no                      |

The state of the dense recurrence is a random projection of the path's signature, of which every iterated
integral is a coordinate. A diagonal one has, beside functions of the end point, integrals of
phi(x_T - x_t) dx_t only: the signed area 1/2 int (x dy - y dx) is one of them, the bracket
[x, [x, y]] = S(xxy) - 2 S(xyx) + S(yxx) is not. A constant transition is linear in the path.

Source: N. M. Cirone, A. Orvieto, B. Walker, C. Salvi, T. Lyons, "Theoretical Foundations of Deep Selective
State-Space Models", 2024, arXiv:2402.19047. The examples of integrals are ours.
"""

from pathlib import Path

import numpy as np

from ..reports.tables import Table
from .conclude import Evidence, Target, conclude

STEPS, STATE, SCALE = 50, 128, 1.0
"""of a path; of the recurrences; mean length of a path's end point"""
KNOWN, UNKNOWN = 0.9, 0.5
"""R^2 on new paths from which a target counts as remembered, and below which as not"""
EXPECTED = {
    "dense": (True, True),
    "diagonal": (True, False),
    "constant": (False, False),
}


def integrals(steps: np.ndarray) -> np.ndarray:
    """Targets (paths, 2) of paths given by their steps (paths, T, 2): signed area, and [x, [x, y]]."""
    signature = {"": np.ones(len(steps))}
    words = ("x", "y", "xx", "xy", "yx", "xxy", "xyx", "yxx")
    signature |= {word: np.zeros(len(steps)) for word in words}
    for k in range(steps.shape[1]):
        step = dict(zip("xy", steps[:, k].T, strict=True))
        for word in reversed(words):  # longest first: each reads its prefix as it was before the step
            signature[word] += signature[word[:-1]] * step[word[-1]]
    area = (signature["xy"] - signature["yx"]) / 2
    return np.stack([area, signature["xxy"] - 2 * signature["xyx"] + signature["yxx"]], axis=1)


def final_states(kind: str, steps: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """h_T (paths, STATE) of the frozen random recurrence."""
    start, b = rng.normal(size=STATE), rng.normal(size=(2, STATE))
    dense = rng.normal(size=(2, STATE, STATE)) / STATE**0.5
    diagonal = rng.normal(size=(2, STATE))
    h = np.broadcast_to(start, (len(steps), STATE)).copy()
    for k in range(steps.shape[1]):
        dx = steps[:, k]
        if kind == "dense":
            moved = sum(dx[:, i : i + 1] * (h @ dense[i].T) for i in range(2))
        elif kind == "diagonal":
            moved = (dx @ diagonal) * h
        else:
            moved = (h @ dense[0].T) / STEPS
        h = h + moved + dx @ b
    return h


def explained(states: np.ndarray, targets: np.ndarray, ridge: float = 1e-6) -> np.ndarray:
    """R^2 (targets,) on the second half of the paths of a readout fitted to the first."""
    half = len(states) // 2
    mean, deviation = states[:half].mean(0), states[:half].std(0) + 1e-12
    features = np.concatenate([(states - mean) / deviation, np.ones((len(states), 1))], axis=1)
    train, test = features[:half], features[half:]
    gram = train.T @ train + ridge * half * np.eye(train.shape[1])
    guess = test @ np.linalg.solve(gram, train.T @ targets[:half])
    return 1 - ((guess - targets[half:]) ** 2).mean(0) / targets[half:].var(0)


def main(paths: int = 4000, seed: int = 0, json: Path | None = None) -> int:
    """Regress iterated integrals of random 2-D paths on the last state of frozen random recurrences.

    Args:
        paths: how many; half of them to fit the readout.
        seed: of paths and recurrences.
        json: also write rows and targets to this file.
    """
    rng, rows, checks = np.random.default_rng(seed), [], []
    steps = rng.normal(size=(paths, STEPS, 2)) * SCALE / (2 * STEPS) ** 0.5
    targets = integrals(steps)
    names = ("signed area", "third-order bracket")
    for kind, expected in EXPECTED.items():
        scores = explained(final_states(kind, steps, rng), targets)
        rows.append({"recurrence": kind} | dict(zip(names, map(float, scores), strict=True)))
        for name, score, known in zip(names, scores, expected, strict=True):
            holds = score >= KNOWN if known else score <= UNKNOWN
            required = f"R^2 >= {KNOWN}" if known else f"R^2 <= {UNKNOWN}"
            verb = "remembers" if known else "does not remember"
            checks.append(Target(f"{kind} {verb} {name}", bool(holds), f"R^2 {score:.3f}", required))
    table = Table(["recurrence", *names], [[r["recurrence"], *(f"{r[n]:.3f}" for n in names)] for r in rows])
    return conclude(Evidence("signature", rows, table, checks), json)

"""`linmem bench scan`: our scan against `jax.lax.associative_scan` with automatic differentiation, and its
methods against each other. The floor of a forward scan is one pass over the same arrays: a + b."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track

from ..core.algebra import BlockDiagonal, Dense, Diagonal, Element, LogSumExp, Ordinary, Permutation, Permuted
from ..core.scan import choose, scan
from ..reports.tables import Table
from .conclude import Evidence, Target, conclude
from .timing import bound, medians

CASES = ((256, 16, 128), (1024, 16, 128), (1024, 64, 12), (16384, 1, 128), (100000, 1, 12))
MEAN_SPEEDUP, LEAST_SPEEDUP, MOST_PASSES = 3.5, 2.0, 4.0
METHODS = ("sequential", "associative", "chunked")
SLACK = 1.5  # how much slower than the fastest method the chosen one may be: the noise of a busy machine


def main(repeats: int = 41, methods: bool = False, json: Path | None = None) -> int:
    """Time the diagonal scan, forward and backward, against jax.lax.associative_scan and one pass of a + b.

    Args:
        repeats: timings per program; the median counts.
        methods: compare the methods of our own scan with each other instead, for every kind of element.
        json: write rows and targets to this file.
    """
    return conclude(_methods(repeats) if methods else _against_associative(repeats), json)


def _against_associative(repeats: int) -> Evidence:
    rows, targets = [], []
    for dtype in (jnp.float32, jnp.complex64):
        for shape in track(CASES, f"timing {dtype.__name__}"):
            rows.append(_case(shape, dtype, repeats))
        of_type = [row for row in rows if row["dtype"] == dtype.__name__]
        speedups, passes = [r["speedup"] for r in of_type], [r["passes"] for r in of_type]
        mean = float(np.exp(np.mean(np.log(speedups))))
        name = f"{dtype.__name__} forward + backward against associative_scan"
        targets += [
            Target(f"{name}, geometric mean", mean >= MEAN_SPEEDUP, f"{mean:.2f}x", f">= {MEAN_SPEEDUP}x"),
            Target(
                f"{name}, least",
                min(speedups) >= LEAST_SPEEDUP,
                f"{min(speedups):.2f}x",
                f">= {LEAST_SPEEDUP}x",
            ),
            Target(
                f"{dtype.__name__} forward against a + b, most",
                max(passes) <= MOST_PASSES,
                f"{max(passes):.2f} passes",
                f"<= {MOST_PASSES}",
            ),
        ]
    table = Table(
        ("type", "(T, B, D)", "forward ms", "of a + b", "fwd + bwd ms", "associative ms", "speed-up"),
        [
            (
                r["dtype"],
                str(tuple(r["shape"])),
                f"{1e3 * r['forward']:.2f}",
                f"{r['passes']:.2f}",
                f"{1e3 * r['both']:.2f}",
                f"{1e3 * r['associative']:.2f}",
                f"{r['speedup']:.2f}",
            )
            for r in rows
        ],
    )
    return Evidence("bench scan", rows, table, targets)


def _case(shape: tuple[int, int, int], dtype: Any, repeats: int) -> dict[str, Any]:
    keys = jax.random.split(jax.random.key(0), 3)
    a = jax.random.uniform(keys[0], shape, minval=0.5, maxval=0.99).astype(dtype)
    b, g = (jax.random.normal(key, shape).astype(dtype) for key in keys[1:])

    def ours(a, b):
        return scan(Diagonal(), Element(a, b), jnp.zeros_like(b[0]))[1]

    def associative(a, b):
        def combine(left, right):
            return right[0] * left[0], right[0] * left[1] + right[1]

        return jax.lax.associative_scan(combine, (a, b))[1]

    def both(run):
        def forward_and_backward(a, b, g):
            states, pull = jax.vjp(run, a, b)
            return states, pull(g)

        return forward_and_backward

    forward = medians({"add": bound(jnp.add, a, b), "ours": bound(ours, a, b)}, repeats)
    full = medians(
        {"ours": bound(both(ours), a, b, g), "associative": bound(both(associative), a, b, g)}, repeats
    )
    return {
        "dtype": dtype.__name__,
        "shape": list(shape),
        "add": forward["add"],
        "forward": forward["ours"],
        "passes": forward["ours"] / forward["add"],
        "both": full["ours"],
        "associative": full["associative"],
        "speedup": full["associative"] / full["ours"],
    }


def _methods(repeats: int) -> Evidence:
    sizes = ((4096, 1, 1), (100000, 1, 1), (100000, 1, 4), (4096, 1, 16), (100000, 1, 16), (1024, 16, 16))
    cases = [("diagonal", size) for size in sizes]
    cases += [("log diagonal", size) for size in ((100000, 1, 1), (1024, 16, 16))]
    cases += [("permutation", size) for size in ((100000, 1, 4), (1024, 16, 16))]
    cases += [("blocks of 4", size) for size in ((16384, 1, 4), (1024, 16, 16))]
    cases += [("dense", size) for size in ((16384, 1, 4), (1024, 4, 16))]
    rows = []
    for kind, shape in track(cases, "timing methods"):
        algebra, elements, initial = _elements(kind, shape)

        def both(elements, initial, method, algebra=algebra):
            states, pull = jax.vjp(
                lambda b: scan(algebra, elements._replace(input=b), initial, None, method)[1], elements.input
            )
            return states, pull(states)

        times = medians(
            {m: bound(lambda e, h, m=m: both(e, h, m), elements, initial) for m in METHODS},
            repeats,
        )
        auto = choose(jax.default_backend(), algebra, shape[0], initial.size)
        rows.append({"kind": kind, "shape": list(shape), "auto": auto, **times})
    worst = max(row[row["auto"]] / min(row[m] for m in METHODS) for row in rows)
    table = Table(
        ("kind", "(T, B, D)", *(f"{m} ms" for m in METHODS), "auto takes"),
        [
            (r["kind"], str(tuple(r["shape"])), *(f"{1e3 * r[m]:.2f}" for m in METHODS), r["auto"])
            for r in rows
        ],
    )
    target = Target("auto against the fastest method, most", worst <= SLACK, f"{worst:.2f}x", f"<= {SLACK}x")
    return Evidence("bench scan --methods", rows, table, [target])


def _elements(kind: str, shape: tuple[int, int, int]):
    keys = jax.random.split(jax.random.key(0), 3)
    steps, batch, size = shape
    b = jax.random.normal(keys[0], shape)
    match kind:
        case "diagonal" | "log diagonal":
            reading = Ordinary() if kind == "diagonal" else LogSumExp()
            return Diagonal(reading), Element(jax.random.uniform(keys[1], shape), b), b[0]
        case "permutation":
            source = jnp.argsort(jax.random.normal(keys[1], shape), axis=-1)
            return Permutation(), Element(Permuted(source, jnp.full(shape, 0.9)), b), b[0]
        case "blocks of 4":
            blocks = jax.random.normal(keys[1], (steps, batch, size // 4, 4, 4)) / 4
            b = b.reshape(steps, batch, size // 4, 4)
            return BlockDiagonal(), Element(blocks, b), b[0]
        case _:
            matrices = jax.random.normal(keys[1], (steps, batch, size, size)) / size
            return Dense(), Element(matrices, b), b[0]

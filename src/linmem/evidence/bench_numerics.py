"""`linmem bench numerics`: how far the chunked kernels and the compiled loops are from the float64
recurrence, and whether a long run stays finite.

The inputs are float32 numbers, and the recurrence in float64 is given the same. With others the comparison
would measure the problem and not the kernel: where mLSTM's n . q almost cancels, rounding the inputs to
float32 moves the exact answer of this data by up to 2.5e-4 of the largest entry.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track

from ..core.chunked.decay import Decay
from ..core.chunked.delta import DeltaInputs, DeltaRule
from ..core.chunked.kernel import unroll, walk
from ..core.chunked.normalised import Normalised, NormalisedInputs
from ..core.chunked.scalar_decay import ScalarDecay, ScalarInputs
from ..core.chunked.vector_decay import VectorDecay, VectorInputs
from ..core.chunked.vector_delta import VectorDelta, VectorDeltaInputs
from ..core.native import library
from ..reports.tables import Table
from .conclude import Evidence, Target, conclude

KERNELS = ("scalar decay", "vector decay", "normalised", "delta rule", "gated, 2 writes", "vector delta")
DK, DV = 8, 12
FLOAT32, FLOAT64 = 1e-4, 1e-9


def main(steps: int = 4096, long: int = 1_000_000, json: Path | None = None) -> int:
    """Compare chunks and compiled loops with stepping in float64: values and derivatives, decays from
    exp(-20) to 1 of either sign.

    Args:
        steps: length of the compared sequences, with a start every few hundred steps.
        long: length of the run that must stay finite; it has no start.
        json: write rows and targets to this file.
    """
    before = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_enable_x64", True)
    try:
        forms = {"chunks": unroll} | (
            {"compiled": _compiled} if library.serves(jnp.zeros((), jnp.float32)) else {}
        )
        every = [(kind, form) for kind in KERNELS for form in forms]
        rows: list[dict[str, Any]] = [
            _row(kind, forms[form], steps, long) | {"form": form}
            for kind, form in track(every, "comparing kernels")
        ]
    finally:
        jax.config.update("jax_enable_x64", before)
    largest = {name: max(row[name] for row in rows) for name in rows[0] if name.startswith("float")}
    targets = [
        Target(f"{name}, largest error", error <= allowed, f"{error:.1e}", f"<= {allowed:g}")
        for name, error in largest.items()
        for allowed in [FLOAT32 if name.startswith("float32") else FLOAT64]
    ]
    finite = all(row["finite"] for row in rows)
    targets.append(Target(f"{long:,} steps stay finite", finite, "yes" if finite else "no", "yes"))
    table = Table(
        ("kernel", "form", *largest, "finite"),
        [
            (r["kernel"], r["form"], *(f"{r[name]:.1e}" for name in largest), "yes" if r["finite"] else "NO")
            for r in rows
        ],
    )
    remarks = [f"T = {steps}; errors relative to the largest entry of each array; state {DK} x {DV}."]
    return conclude(Evidence("bench numerics", rows, table, targets, remarks), json)


def _compiled(kernel: Any, state: Any, xs: Any, starts: Any) -> tuple[Any, Any]:
    """``unroll`` of one head by the compiled loop."""
    one = jax.tree.map(lambda x: x[None], state), jax.tree.map(lambda x: x[:, None], xs)
    state, ys = kernel.compiled(*one, starts)
    return jax.tree.map(lambda x: x[0], state), ys[:, 0]


def _row(kind: str, run: Any, steps: int, long: int) -> dict[str, Any]:
    kernel, xs = _example(kind, steps, jnp.float32)
    xs = jax.tree.map(lambda x: x.astype(jnp.float64), xs)
    starts = jnp.asarray(np.random.default_rng(1).uniform(size=steps) < 1 / 300)
    exact = _everything(walk, kernel, xs, starts, jnp.float64)
    row: dict[str, Any] = {"kernel": kind}
    for dtype in (jnp.float32, jnp.float64):
        cast = jax.tree.map(lambda x: x.astype(dtype), xs)  # noqa: B023
        for what, got, right in zip(
            ("values", "derivatives"), _everything(run, kernel, cast, starts, dtype), exact, strict=True
        ):
            errors = map(_error, jax.tree.leaves(got), jax.tree.leaves(right))
            row[f"{dtype.__name__} {what}"] = max(errors)
    _, xs = _example(kind, long, jnp.float32)
    state = _state(kernel, jnp.float32)
    outputs = jax.jit(lambda *a: run(kernel, *a))(state, xs, jnp.zeros(long, bool))
    row["finite"] = all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(outputs))
    return row


def _error(got: Any, exact: Any) -> float:
    return float(jnp.abs(got - exact).max() / jnp.maximum(jnp.abs(exact).max(), 1e-30))


def _state(kernel: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(dtype), kernel.init(DK, DV))


def _everything(run: Any, kernel: Any, xs: Any, starts: Any, dtype: Any) -> tuple[Any, Any]:
    def loss(xs):
        last, ys = run(kernel, _state(kernel, dtype), xs, starts)
        weights = jnp.cos(jnp.arange(ys.size)).reshape(ys.shape).astype(dtype)
        return jnp.sum(weights * ys), (last, ys)

    derivatives, values = jax.jit(jax.grad(loss, has_aux=True))(xs)
    return values, derivatives


def _example(kind: str, steps: int, dtype: Any) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)

    def f(*shape):
        return jnp.asarray(rng.normal(size=(steps, *shape)), dtype)

    def uniform(*shape):
        return jnp.asarray(rng.uniform(size=(steps, *shape)), dtype)

    def decay(*shape):  # many near 1, some down to exp(-20)
        sign = rng.choice([-1.0, 1.0], (steps, *shape))
        return Decay(-20 * uniform(*shape) ** 8, jnp.asarray(sign, dtype))

    def unit(*shape):
        return (x := f(*shape)) / jnp.linalg.norm(x, axis=-1, keepdims=True)

    q, k, v = f(DK), f(DK), f(DV)
    match kind:
        case "scalar decay":
            return ScalarDecay(), ScalarInputs(q, k, v, decay())
        case "vector decay":
            return VectorDecay(), VectorInputs(q, k, v, decay(DK))
        case "normalised":
            return Normalised(), NormalisedInputs(q, k, v, 5 * f(), decay())
        case "delta rule":
            return DeltaRule(), DeltaInputs(q, unit(1, DK), f(1, DV), 2 * uniform(1), None)
        case "gated, 2 writes":
            return DeltaRule(), DeltaInputs(q, unit(2, DK), f(2, DV), 2 * uniform(2), decay())
        case _:
            a = unit(DK)
            return VectorDelta(), VectorDeltaInputs(q, k, v, a, -a * uniform(DK), decay(DK))

"""What a filter's order costs: the transfer function by FFT, and the companion recurrence beside it.

Forward and backward pass of one layer over one batch, by the order of its filters. The two give the same
features, which is checked on the way.
"""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
from rich.progress import track

from ..memories.rtf import RTF
from ..reports.tables import Table
from .conclude import Evidence, Target, conclude
from .lines import write_lines
from .timing import bound, medians

ORDERS = (16, 64, 256, 1024)
CHANNELS, BATCH = 16, 2
FLAT = 1.5
"""Largest over smallest time that still counts as flat: what two medians of one program differ by here."""


def layer(order: int, seed: int) -> RTF:
    """A stable layer: sum |a| < 1 in every channel."""
    keys = jax.random.split(jax.random.key(seed), 3)
    shape = (CHANNELS, order)
    coefficients = (
        jax.random.normal(keys[0], shape) / order**0.5,
        jax.random.uniform(keys[1], shape, minval=-0.9 / order, maxval=0.9 / order),
    )
    memory = RTF(CHANNELS, order, key=keys[2])
    return eqx.tree_at(lambda m: (m.numerator, m.denominator), memory, coefficients)


def convolved(memory, xs):
    """Features of a batch by FFT."""
    return jax.vmap(memory.convolve)(xs)


def stepped(memory, xs):
    """Features of a batch by the companion recurrence."""
    starts = jnp.arange(xs.shape[1]) == 0
    return jax.vmap(lambda one: memory.unroll(memory.init(), one, starts)[1])(xs)


def main(steps: int = 2048, repeats: int = 5, out: Path = Path("runs/rtf"), json: Path | None = None) -> int:
    """Time the rational transfer function at orders 16 to 1024 (arXiv:2405.06147): its cost should be flat.

    Takes about a minute on 2 cores.

    Args:
        steps: length of the sequences.
        repeats: timed calls of each program; the median is reported.
        out: folder for the figure `rtf.svg`.
        json: also write rows and targets to this file.
    """
    xs = jax.random.normal(jax.random.key(1), (BATCH, steps, CHANNELS))
    programs, differences = {}, {}
    for order in track(ORDERS, "compiling", transient=True):
        memory = layer(order, 0)
        for name, run in (("FFT", convolved), ("recurrence", stepped)):
            gradient = jax.grad(lambda memory, xs, run=run: jnp.sum(run(memory, xs) ** 2))
            programs[name, order] = bound(gradient, memory, xs)
        by_fft, by_step = jax.jit(convolved)(memory, xs), jax.jit(stepped)(memory, xs)
        differences[order] = float(jnp.max(jnp.abs(by_fft - by_step)) / jnp.max(jnp.abs(by_step)))
    seconds = medians(programs, repeats)  # pyright: ignore[reportArgumentType]
    rows = [
        {
            "order": order,
            "fft": seconds["FFT", order],  # pyright: ignore[reportArgumentType]
            "recurrence": seconds["recurrence", order],  # pyright: ignore[reportArgumentType]
            "difference": differences[order],
        }
        for order in ORDERS
    ]
    table = Table(
        ["order", "FFT, ms", "recurrence, ms", "largest difference"],
        [[r["order"], 1e3 * r["fft"], 1e3 * r["recurrence"], f"{r['difference']:.1e}"] for r in rows],
    )
    ratio, grown = (max(t) / min(t) for t in ([r["fft"] for r in rows], [r["recurrence"] for r in rows]))
    worst = max(differences.values())
    targets = [
        Target(
            "by FFT the cost is flat in the order, 16 to 1024", ratio < FLAT, f"{ratio:.2f}x", f"< {FLAT}x"
        ),
        Target("the recurrence's cost is not", grown > 2 * FLAT, f"{grown:.1f}x", f"> {2 * FLAT}x"),
        Target("both give the same features", worst < 1e-4, f"{worst:.1e}", "< 1e-4 of the largest"),
    ]
    curves = {
        "transfer function, FFT": (ORDERS, [1e3 * r["fft"] for r in rows]),
        "companion recurrence": (ORDERS, [1e3 * r["recurrence"] for r in rows]),
    }
    path = write_lines(out / "rtf.svg", curves, "order of the filters", "forward and backward, ms")
    remarks = [f"{BATCH} sequences of {steps} steps, {CHANNELS} channels, float32", f"figure: {path}"]
    return conclude(Evidence("rtf", rows, table, targets, remarks), json)

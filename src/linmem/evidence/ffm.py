"""How much faster linear memories train than a GRU: one gradient of one layer over a batch of sequences.

The papers compare on GPUs with the GRU of their time: Fast and Forgetful Memory claims two orders of
magnitude (arXiv:2310.04128), S5 five times and more in RL (arXiv:2303.03982). Here all three run compiled on
the same CPU, the GRU with its own derivative (one matrix product for its weights after the loop).
"""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
from rich.progress import track

from ..memories.base import unroll_batch
from ..memories.ffm import FFM
from ..memories.gru import GRU
from ..memories.s5 import S5
from ..reports.tables import Table
from .conclude import Evidence, Target, conclude
from .lines import write_lines
from .timing import bound, medians

LENGTHS = (64, 256, 1024)
WIDTH = 128
CLAIMS = {"FFM": 100.0, "S5": 5.0}
"""How many times faster than a GRU, at 1024 steps."""


def main(batch: int = 16, repeats: int = 5, out: Path = Path("runs/ffm"), json: Path | None = None) -> int:
    """Time a training step of FFM, S5 and GRU at 64, 256 and 1024 steps.

    Exits 1 where a paper's claim about its GPU does not hold on this machine. Takes about a minute.

    Args:
        batch: sequences side by side.
        repeats: timed calls of each program; the median is reported.
        out: folder for the figure `ffm.svg`.
        json: also write rows and targets to this file.
    """
    keys = jax.random.split(jax.random.key(0), 4)
    layers = {
        "FFM": FFM(WIDTH, WIDTH, 32, 4, key=keys[0]),
        "S5": S5(WIDTH, WIDTH, key=keys[1]),
        "GRU": GRU(WIDTH, WIDTH, key=keys[2]),
    }
    programs = {}
    for steps in track(LENGTHS, "compiling", transient=True):
        xs = jax.random.normal(keys[3], (steps, batch, WIDTH))
        starts = jnp.zeros((steps, batch), bool).at[0].set(True)
        for name, layer in layers.items():
            floats, rest = eqx.partition(layer, eqx.is_inexact_array)

            def loss(floats, xs, rest=rest, starts=starts):
                return jnp.sum(unroll_batch(eqx.combine(floats, rest), xs, starts)[1] ** 2)

            programs[f"{name} {steps}"] = bound(jax.grad(loss), floats, xs)
    seconds = medians(programs, repeats)
    rows = [{"steps": steps, **{n: seconds[f"{n} {steps}"] for n in layers}} for steps in LENGTHS]
    table = Table(
        ["steps", *(f"{name}, ms" for name in layers), "GRU / FFM", "GRU / S5"],
        [[r["steps"], *(1e3 * r[n] for n in layers), r["GRU"] / r["FFM"], r["GRU"] / r["S5"]] for r in rows],
    )
    last = rows[-1]
    targets = [
        Target(
            f"{name} trains {claim:g} times as fast as a GRU at {last['steps']} steps (the paper's claim)",
            last["GRU"] / last[name] >= claim,
            f"{last['GRU'] / last[name]:.2f}x",
            f">= {claim:g}x",
        )
        for name, claim in CLAIMS.items()
    ]
    curves = {name: (LENGTHS, [1e3 * r[name] for r in rows]) for name in layers}
    path = write_lines(out / "ffm.svg", curves, "steps", "gradient of one layer, ms")
    remarks = [
        f"{batch} sequences, width {WIDTH}, float32; S5 of state {WIDTH}, FFM of 32 x 4 complex states",
        "A GPU spends a GRU's time on starting one small kernel after another, which a linear scan avoids. A"
        " CPU core has no such cost: a step of a compiled loop takes what its products take, and long batches"
        " of states leave the cache, so ratios are those of arithmetic and memory traffic.",
        f"figure: {path}",
    ]
    return conclude(Evidence("ffm", rows, table, targets, remarks), json)

"""`linmem bench layers`: tokens per second of every learned layer, beside other libraries and the machine.

The layers are those of the registry, without encoder and residual block, at width 128. Forward is
``unroll_batch``, whose arrays begin with time; the others' begin with the batch. Backward is the gradient in
parameters and inputs.

The floor of a layer is the larger of its operations over the measured speed of a large matrix product, and
its bytes over the measured speed of a + b. Operations of a token are those of one ``step`` (as the compiler
counts them, weights constant), 3 times that with the backward pass, since each product has two derivatives;
where a layer learns by chunks, the count of `linmem bench kernels` is taken. Bytes are the inputs and the
features only: read and write one each forward; read inputs and cotangents and write a gradient backward. A
layer that learns by FFT may do with fewer operations than its steps, and then comes below its "floor".
"""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from rich.progress import track

from ..core.registry import UnknownName
from ..memories import learned_layers
from ..memories.base import AbstractMemory, unroll_batch
from ..memories.matrix_memory import AbstractMatrixMemory
from ..reports.tables import Table
from .bench_kernels import floor as chunked_floor
from .conclude import Evidence, Target, conclude
from .peers import Peer, mambapy, peers
from .timing import Machine, beside_machine, described, medians

BATCH, SIZE = 16, 128
SPEEDUPS = {"lru": 3.0, "s5": 3.0, "ffm": 3.0, "gru": 1.5, "mamba": 8.0, "deltanet": 20.0}
"""How many times as fast as the best peer a layer should be, unless it is near its floor."""
NEAR = 2.0
MAMBAPY_LONGEST = 1024
"""It holds all states several times over: at T = 4096 more than ``ROOM``."""
ROOM = 6e9
"""Bytes that a program may hold between its passes; one that needs more is not run."""


def main(
    only: tuple[str, ...] = (),
    steps: tuple[int, ...] = (256, 1024, 4096),
    repeats: int = 5,
    longest: float = 20.0,
    alone: bool = False,
    whole: bool = False,
    json: Path | None = None,
) -> int:
    """Time the learned layers, forward and backward, at 16 sequences of width 128 in float32.

    Layers of memax, memorax and mambapy (`pip install 'linmem[peers]'`) are timed in turn with ours.

    Args:
        only: layers by the names of `linmem list`; by default all that are learned.
        steps: lengths of the sequences.
        repeats: timings of each program; the median counts.
        longest: leave out a program whose call takes more than so many seconds.
        alone: leave out the other libraries.
        whole: run all steps of ours at once, also where `unroll_batch` would go block by block.
        json: write rows and targets to this file.
    """
    layers = learned_layers()
    if unknown := [name for name in only if name not in layers]:
        raise UnknownName(f"unknown layer '{unknown[0]}'; known: {', '.join(layers)}")
    others, remarks = ({}, []) if alone else peers()
    rows, slow = [], set()
    for name, length in track([(name, n) for name in only or layers for n in steps], "timing layers"):
        memory = layers[name](SIZE, jax.random.key(0))
        made = {library: make(SIZE) for library, make in others.get(name, {}).items()}
        programs, notes = {}, []
        for label, (weights, apply, backward) in _candidates(memory, made, whole).items():
            if (name, label) in slow:
                continue
            time_axis = 1 if label in made else 0
            program, reason = _ready(weights, apply, backward, length, time_axis, longest)
            if program is None:
                slow.add((name, label))
                notes.append(f"{name}, {label}, T = {length}: left out, {reason}")
            else:
                programs[label] = program
        if name == "mamba" and not alone and length <= MAMBAPY_LONGEST:
            try:
                programs["mambapy"] = mambapy(SIZE, BATCH, length)
            except ImportError as error:
                notes.append(f"mambapy is left out: {error}")
        remarks += notes
        seconds, machine = beside_machine(programs, repeats)
        rows.append(_row(name, length, memory, seconds, machine))
    remarks.insert(0, f"{described(rows)}; B = {BATCH}, width {SIZE}")
    return conclude(Evidence("bench layers", rows, _table(rows), _targets(rows), remarks), json)


# --- programs -----------------------------------------------------------------------------------------------


def _candidates(
    memory: AbstractMemory, made: dict[str, Peer], whole: bool = False
) -> dict[str, tuple[Any, Any, bool]]:
    """(weights, apply, with gradients) by label; ours first."""
    weights, rest = eqx.partition(memory, eqx.is_inexact_array)

    def apply(weights, xs, starts):
        memory = eqx.combine(weights, rest)
        if whole:
            return jax.vmap(memory.unroll, (None, 1, 1), (0, 1))(memory.init(), xs, starts)[1]
        return unroll_batch(memory, xs, starts)[1]

    ours = {"forward": (weights, apply, False), "forward + backward": (weights, apply, True)}
    return ours | {library: (peer.weights, peer.apply, True) for library, peer in made.items()}


def _ready(weights, apply, backward: bool, length: int, time_axis: int, longest: float):
    """(program to call, None), or (None, why it is left out)."""
    first = jnp.expand_dims(jnp.arange(length) == 0, 1 - time_axis)
    starts = jnp.repeat(first, BATCH, axis=1 - time_axis)
    xs = jax.random.normal(jax.random.key(1), (*starts.shape, SIZE))

    def loss(weights, xs, starts, g):
        return jnp.sum(apply(weights, xs, starts) * g)

    if backward:
        features = jax.eval_shape(apply, weights, xs, starts)
        arguments = (weights, xs, starts, jnp.cos(jnp.arange(features.size)).reshape(features.shape))
        compiled = jax.jit(jax.grad(loss, (0, 1))).lower(*arguments).compile()
    else:
        compiled = jax.jit(apply).lower(weights, xs, starts).compile()
        arguments = (weights, xs, starts)
    kept: Any = compiled.memory_analysis()
    if kept is not None and kept.temp_size_in_bytes > ROOM:
        return None, f"it needs {kept.temp_size_in_bytes / 1e9:.0f} GB"
    call = lambda: compiled(*arguments)  # noqa: E731
    took = medians({"": call}, 1)[""]
    return (call, None) if took <= longest else (None, f"a call takes {took:.0f} s")


# --- floors -------------------------------------------------------------------------------------------------


def operations(memory: AbstractMemory, size: int) -> float:
    """Floating-point operations of one ``step`` as the compiler counts them; a multiply-add is two."""
    x = jnp.zeros(size)
    compiled = jax.jit(lambda state, x: memory.step(state, x, jnp.asarray(False))).lower(memory.init(), x)
    counted: Any = compiled.compile().cost_analysis()
    return counted["flops"]


def floor(memory: AbstractMemory, tokens: int, machine: Machine) -> float:
    """Seconds of a forward and backward pass that the machine cannot beat (see the top of the file)."""
    if isinstance(memory, AbstractMatrixMemory):
        return chunked_floor(memory, tokens, machine)
    return tokens * max(3 * operations(memory, SIZE) / machine.peak, 5 * 4 * SIZE / machine.bandwidth)


# --- results ------------------------------------------------------------------------------------------------


def _row(name, length, memory, seconds: dict[str, float], machine: Machine) -> dict[str, Any]:
    tokens = BATCH * length
    ideal = floor(memory, tokens, machine)
    ours = seconds.get("forward + backward")
    theirs = {k: v for k, v in seconds.items() if not k.startswith("forward")}
    best = min(theirs, key=lambda k: theirs[k]) if theirs else None
    return {
        "layer": name,
        "steps": length,
        "forward": tokens / seconds["forward"] if "forward" in seconds else None,
        "both": tokens / ours if ours else None,
        "floors": ours / ideal if ours else None,
        "peers": {library: tokens / s for library, s in theirs.items()},
        "best": best,
        "speedup": theirs[best] / ours if best and ours else None,
        **machine._asdict(),
    }


def _targets(rows: list[dict[str, Any]]) -> list[Target]:
    targets = []
    for name, required in SPEEDUPS.items():
        for row in (r for r in rows if r["layer"] == name and r["speedup"] is not None):
            targets.append(
                Target(
                    f"{name}, T = {row['steps']}, forward + backward",
                    row["speedup"] >= required or row["floors"] <= NEAR,
                    f"{row['speedup']:.1f}x of {row['best']}, {row['floors']:.1f} floors",
                    f">= {required:g}x of the best peer, or within {NEAR:g} floors",
                )
            )
    return targets


def _table(rows: list[dict[str, Any]]) -> Table:
    def number(value, form):
        return None if value is None else format(value, form)

    return Table(
        ("layer", "T", "forward, tokens/s", "fwd + bwd, tokens/s", "of floor", "best peer", "times as fast"),
        [
            (
                r["layer"],
                r["steps"],
                number(r["forward"], ",.0f"),
                number(r["both"], ",.0f"),
                number(r["floors"], ".1f"),
                f"{r['best']} {r['peers'][r['best']]:,.0f}" if r["best"] else None,
                number(r["speedup"], ".1f"),
            )
            for r in rows
        ],
    )

"""`linmem bench kernels`: the layers of the registry at width 128, in three parts.

- speed: the layers on chunked kernels, forward and backward, against scans that hold a matrix for every step,
  memax's DeltaNet among them, and against the machine.
- growth: of these and the other selective and state-tracking layers, memory of forward and backward beside
  the inputs' size, and time a step of a long sequence beside that of a short one.
- acting: all learned layers, one step at a time.

The floor of a layer is the larger of its operations over the measured speed of a large matrix product, and
its bytes over the measured speed of a + b. Counted per step, forward, as multiply-adds (a product with a
decay is one, too), the fewer of the two forms, with C the chunk length that was chosen and n the writes a
step:

| kernel          | in chunks (a causal product meets C / 2 steps on average) | step by step    |
|-----------------|-----------------------------------------------------------|-----------------|
| scalar, vector  | C/2 (dk + dv) + 2 dk dv                                   | 3 dk dv         |
| normalised      | C/2 (dk + dv) + 2 dk dv + 2 dk                            | 3 dk (dv + 1)   |
| delta           | (n + 1) n C/2 (dk + dv) + (2 n + 1) dk dv                 | (2 n + 2) dk dv |
| vector delta    | 4 C/2 (dk + dv) + 4 dk dv                                 | 5 dk dv         |

plus one multiply-add per entry of every projection matrix. The backward pass costs twice the forward one
(each product has two derivatives), so operations are 6 times the multiply-adds. Computing states again is our
choice and not counted. Bytes: every number that enters or leaves a layer or a kernel is written once and
read once forward, read once backward, and its derivative written once and read once: 5 passes.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from rich.progress import track

from ..core.algebra import Diagonal, Element
from ..core.chunked.delta import DeltaInputs, DeltaRule
from ..core.chunked.kernel import choose, unroll, walk
from ..core.chunked.normalised import Normalised
from ..core.chunked.vector_delta import VectorDelta
from ..core.scan import scan
from ..core.unit import unit
from ..memories import DeltaNet, Mamba2, learned_layers
from ..memories.base import AbstractMemory, unroll_batch
from ..memories.matrix_memory import AbstractMatrixMemory, Run
from ..reports.tables import Table
from .conclude import Evidence, Target, conclude
from .peers import memax_deltanet
from .timing import Machine, beside_machine, bound, described, medians

BATCH, STEPS, SIZE = 16, 1024, 128
LONG = 32768
CHUNKED = ("mamba2", "gla", "mlstm", "deltanet", "gated_deltanet", "deltaproduct", "rwkv7")
"""Layers with a matrix state in each of 4 heads."""
GROWING = (
    *CHUNKED,
    "mamba",
    "s7",
    "longhorn",
    "sd_ssm",
    "slice_diagonal",
    "slice_block",
    "slice_low_rank",
    "slice_sparse",
    "slice_hadamard",
    "fixed_point_rnn",
)
FLOORS, STEP_RATE = 5.0, 3000
LINEAR = 1.3  # how much more a step may cost in a sequence 32 times as long: the noise of a busy machine
LENGTHS = (8, 16, 32, 64)
SLACK = 1.25
Part = Literal["speed", "growth", "acting"]


def main(
    parts: tuple[Part, ...] = ("speed", "growth", "acting"),
    repeats: int = 5,
    lengths: bool = False,
    json: Path | None = None,
) -> int:
    """Time the layers, forward and backward, at (B, T, D) = (16, 1024, 128), in long sequences and acting.

    Args:
        parts: what to measure: the speed of the layers with matrix states, how time and memory of selective
            and state-tracking layers grow with T, and how fast every learned layer acts.
        repeats: timings per program; the median counts.
        lengths: compare chunk lengths of every kernel instead.
        json: write rows and targets to this file.
    """
    return conclude(_lengths(repeats) if lengths else _layers(parts, repeats), json)


# --- programs -----------------------------------------------------------------------------------------------


def _inputs(batch: int, steps: int) -> tuple[jax.Array, jax.Array]:
    """(xs, starts), with leading axes (T, B)."""
    xs = jax.random.normal(jax.random.key(1), (steps, batch, SIZE))
    return xs, jnp.zeros((steps, batch), bool).at[0].set(True)


def _learning(apply: Callable[..., jax.Array], weights: Any, xs: jax.Array, starts: jax.Array):
    """A program of forward and backward in weights and inputs, and its arguments."""

    def loss(weights, xs, starts, g):
        return jnp.sum(apply(weights, xs, starts) * g)

    return jax.value_and_grad(loss, (0, 1)), (weights, xs, starts, jnp.cos(xs))


def _ours(memory: AbstractMemory, batch: int, steps: int, run: Run | None = None):
    """The same of a layer as agents learn with it, or with ``run`` over time."""
    weights, rest = eqx.partition(memory, eqx.is_inexact_array)

    def apply(weights, xs, starts):
        memory: Any = eqx.combine(weights, rest)
        if run is None:
            return unroll_batch(memory, xs, starts)[1]
        return jax.vmap(lambda xs, starts: memory.unroll(memory.init(), xs, starts, run)[1], 1, 1)(xs, starts)

    return _learning(apply, weights, *_inputs(batch, steps))


def _memax(state: int):
    """The same of memax's DeltaNet, whose arrays begin with the batch. Raises ImportError."""
    peer, (xs, starts) = memax_deltanet(SIZE, state), _inputs(BATCH, STEPS)
    return _learning(peer.apply, peer.weights, xs.swapaxes(0, 1), starts.T)


def dense_associative(kernel: Any, state: Any, xs: DeltaInputs, starts: Any):
    """DeltaNet as an associative scan over composed dense maps S -> A S + b, a pair of matrices for every
    step."""

    def combine(first, second):
        (a, b), (c, d) = first, second
        return c @ a, c @ b + d

    q, k, beta = unit(xs.q), unit(xs.k[:, 0]), xs.beta
    a = jnp.eye(k.shape[-1]) - beta[:, :, None] * k[:, :, None] * k[:, None, :]
    b = beta[:, :, None] * k[:, :, None] * xs.v
    a, b = jax.lax.associative_scan(combine, (jnp.where(starts[:, None, None], 0.0, a), b))
    states = a @ state + b
    return states[-1], jnp.einsum("tk,tkv->tv", q, states)


def materialised(kernel: Any, state: Any, xs: Any, starts: Any):
    """Mamba-2 as our own scan over all states, an outer product for every step."""
    decay = jnp.broadcast_to(xs.decay.value()[:, None], xs.k.shape)
    inputs = (xs.k[:, :, None] * xs.v[:, None, :]).reshape(len(starts), -1)
    decay = jnp.repeat(decay, state.shape[1], axis=1)
    last, states = scan(Diagonal(), Element(decay, inputs), state.ravel(), starts)
    states = states.reshape(-1, *state.shape)
    return last.reshape(state.shape), jnp.einsum("tk,tkv->tv", xs.q, states)


# --- floors -------------------------------------------------------------------------------------------------


def floor(memory: AbstractMatrixMemory, tokens: int, machine: Machine) -> float:
    """Seconds that no program for this layer can beat on this machine (see the top of the file)."""
    heads, dk, dv = memory.sizes
    x = jax.ShapeDtypeStruct((SIZE,), jnp.float32)
    inputs, rest = jax.eval_shape(lambda x: memory.encode(x, _mixed(memory, x)), x)
    chunk = choose(jax.default_backend(), memory.kernel.writes(inputs))
    match memory.kernel:
        case DeltaRule():
            n = inputs.k.shape[1]
            forms = (n + 1) * n * chunk / 2 * (dk + dv) + (2 * n + 1) * dk * dv, (2 * n + 2) * dk * dv
        case VectorDelta():
            forms = 4 * chunk / 2 * (dk + dv) + 4 * dk * dv, 5 * dk * dv
        case Normalised():
            forms = chunk / 2 * (dk + dv) + 2 * dk * dv + 2 * dk, 3 * dk * (dv + 1)
        case _:
            forms = chunk / 2 * (dk + dv) + 2 * dk * dv, 3 * dk * dv
    matrices = [leaf for leaf in jax.tree.leaves(memory) if leaf.ndim == 2 and leaf.shape[0] != heads]
    weights = sum(leaf.size for leaf in matrices)
    if memory.convolution is not None:
        weights -= memory.convolution.weight.size  # no product of matrices
    numbers = 2 * SIZE + heads * dv + sum(leaf.size for leaf in jax.tree.leaves((inputs, rest)))
    return tokens * max(
        6 * (heads * min(forms) + weights) / machine.peak, 4 * 5 * numbers / machine.bandwidth
    )


def _mixed(memory, x):
    mixed = memory.mix(x)
    return (
        mixed
        if memory.convolution is None
        else memory.convolution.step(memory.init().window, mixed, False)[1]
    )


# --- measurements -------------------------------------------------------------------------------------------


def _layers(parts: tuple[Part, ...], repeats: int) -> Evidence:
    layers = learned_layers()
    measures = {
        "speed": (CHUNKED, lambda memory: _speed(memory, repeats)),
        "growth": (GROWING, lambda memory: _growth(memory, repeats)),
        "acting": (tuple(layers), lambda memory: {"steps_per_second": _acting(memory)}),
    }
    found: dict[str, dict[str, Any]] = {}
    for part, name in track([(p, name) for p in parts for name in measures[p][0]], "timing layers"):
        row = found.setdefault(name, {"layer": name})
        row |= measures[part][1](layers[name](SIZE, jax.random.key(0)))
    rows = [found[name] for name in layers if name in found]
    remarks = [f"{described(rows)}; (B, T, D) = {(BATCH, STEPS, SIZE)}, 4 heads."]
    targets, speedups = _targets(rows), []
    if "speed" in parts:
        speedups, notes = _speedups(repeats)
        remarks += [f"{s['speedup']}: {s['value']:.1f}x" for s in speedups] + notes
        targets += [
            Target(
                f"{s['speedup']}, forward + backward",
                s["value"] >= s["required"],
                f"{s['value']:.1f}x",
                f">= {s['required']:g}x",
            )
            for s in speedups
            if s["required"] is not None
        ]
    return Evidence("bench kernels", rows + speedups, _table(rows), targets, remarks)


def _speed(memory: Any, repeats: int) -> dict[str, float]:
    seconds, machine = beside_machine({"": bound(*_flat(_ours(memory, BATCH, STEPS)))}, repeats)
    ideal = floor(memory, BATCH * STEPS, machine)
    return {"seconds": seconds[""], "floor": ideal, "floors": seconds[""] / ideal, **machine._asdict()}


def _growth(memory: AbstractMemory, repeats: int) -> dict[str, float]:
    program, arguments = _ours(memory, BATCH, STEPS)
    kept: Any = jax.jit(program).lower(*arguments).compile().memory_analysis()
    programs = {str(steps): bound(*_flat(_ours(memory, BATCH, steps))) for steps in (STEPS, LONG)}
    seconds = medians(programs, repeats)
    return {
        "memory": kept.temp_size_in_bytes / arguments[1].nbytes,
        "long_over_short": seconds[str(LONG)] / LONG / (seconds[str(STEPS)] / STEPS),
    }


def _flat(program_and_arguments):
    program, arguments = program_and_arguments
    return program, *arguments


def _acting(memory: AbstractMemory, steps: int = 1000) -> float:
    """Steps per second of one agent that calls a compiled ``step`` from Python."""
    weights, rest = eqx.partition(memory, eqx.is_inexact_array)
    step = jax.jit(lambda weights, state, x, start: eqx.combine(weights, rest).step(state, x, start))
    x, start = jnp.ones(SIZE), jnp.asarray(False)

    def episode():
        state = memory.init()
        for _ in range(steps):
            state, y = step(weights, state, x, start)
        return y

    return steps / medians({"step": episode}, 3)["step"]


def _speedups(repeats: int) -> tuple[list[dict[str, Any]], list[str]]:
    """(how many times as fast as its baselines a layer is, and should be; what could not be compared)."""
    found, notes = [], []
    for name, make, baseline, required in track(_BASELINES, "timing baselines"):
        memory = make(jax.random.key(0))
        ours = _ours(memory, BATCH, STEPS)
        try:
            if isinstance(baseline, int):
                other = _memax(baseline)
            else:
                other = _ours(memory, BATCH, STEPS, baseline)
        except ImportError as error:
            notes.append(f"{name}: left out, {error}")
            continue
        times = medians({"ours": bound(*_flat(ours)), "baseline": bound(*_flat(other))}, repeats)
        found.append({"speedup": name, "value": times["baseline"] / times["ours"], "required": required})
    return found, notes


def _deltanet(key: jax.Array) -> AbstractMatrixMemory:
    return DeltaNet(SIZE, key=key)


def _mamba2(key: jax.Array) -> AbstractMatrixMemory:
    return Mamba2(SIZE, key=key)


def _deltanet_of_11(key: jax.Array) -> AbstractMatrixMemory:
    return DeltaNet(SIZE, heads=1, key_size=11, value_size=11, key=key)


_BASELINES: tuple[tuple[str, Callable[[jax.Array], AbstractMatrixMemory], Run | int, float | None], ...] = (
    ("DeltaNet over its dense associative scan", _deltanet, dense_associative, 20.0),
    ("DeltaNet over stepping", _deltanet, walk, None),
    ("Mamba-2 over a scan of materialised states", _mamba2, materialised, 5.0),
    ("Mamba-2 over stepping", _mamba2, walk, None),
    # our 4 heads of 32 x 32 are as many numbers
    ("DeltaNet over memax's, 64 x 64", _deltanet, 64, 20.0),
    ("DeltaNet over memax's, both 11 x 11", _deltanet_of_11, 11, 3.0),
)
"""(name, our layer, how else its heads run over time or the side of memax's state, times as fast)."""


def _targets(rows: list[dict[str, Any]]) -> list[Target]:
    """Of the parts that were measured, the worst layer."""
    targets = []
    for key, name, worst, form, limit in (
        ("floors", "distance to the floor, most", max, "{:.1f}", FLOORS),
        ("long_over_short", f"time per step at T = {LONG} over T = {STEPS}, most", max, "{:.2f}", LINEAR),
        ("steps_per_second", "acting, least", min, "{:,.0f} steps/s", STEP_RATE),
    ):
        measured = {row["layer"]: row[key] for row in rows if key in row}
        if measured:
            layer = worst(measured, key=measured.__getitem__)
            value = measured[layer]
            holds, sign = (value <= limit, "<=") if worst is max else (value >= limit, ">=")
            targets.append(Target(name, holds, f"{form.format(value)} ({layer})", f"{sign} {limit:g}"))
    return targets


_COLUMNS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("seconds", "fwd + bwd ms", lambda s: f"{1e3 * s:.0f}"),
    ("seconds", "tokens/s", lambda s: f"{BATCH * STEPS / s:,.0f}"),
    ("floor", "floor ms", lambda s: f"{1e3 * s:.0f}"),
    ("floors", "of floor", lambda x: f"{x:.1f}"),
    ("memory", "memory / inputs", lambda x: f"{x:.0f}"),
    ("long_over_short", "long / short", lambda x: f"{x:.2f}"),
    ("steps_per_second", "steps/s", lambda x: f"{x:,.0f}"),
)


def _table(rows: list[dict[str, Any]]) -> Table:
    """With the columns that were measured."""
    shown = [column for column in _COLUMNS if any(column[0] in row for row in rows)]
    return Table(
        ("layer", *(heading for _, heading, _ in shown)),
        [(r["layer"], *(form(r[key]) if key in r else None for key, _, form in shown)) for r in rows],
    )


def _lengths(repeats: int) -> Evidence:
    rows = []
    for name in track(CHUNKED, "timing chunk lengths"):
        memory = learned_layers()[name](SIZE, jax.random.key(0))
        runs = {str(length): functools.partial(unroll, length=length) for length in LENGTHS}
        programs = {
            label: bound(*_flat(_ours(memory, BATCH, STEPS, run)))
            for label, run in (runs | {"auto": None}).items()
        }
        rows.append({"layer": name, **medians(programs, repeats)})
    worst = max(row["auto"] / min(row[str(length)] for length in LENGTHS) for row in rows)
    table = Table(
        ("layer", *(f"C = {length}, ms" for length in LENGTHS), "chosen, ms"),
        [(r["layer"], *(f"{1e3 * r[k]:.0f}" for k in (*map(str, LENGTHS), "auto"))) for r in rows],
    )
    target = Target("chosen against the fastest, most", worst <= SLACK, f"{worst:.2f}x", f"<= {SLACK}x")
    return Evidence("bench kernels --lengths", rows, table, [target])

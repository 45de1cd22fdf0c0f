"""`linmem bench kernels`: the layers on chunked kernels, against scans that hold a matrix for every step,
and against the machine.

The floor of a layer is the larger of its operations over the measured speed of a large matrix product, and
its bytes over the measured speed of a + b. Counted per step, forward, as multiply-adds, with C the chunk
length that was chosen and n the writes a step:

| kernel          | multiply-adds per head and step (a causal product meets C / 2 steps on average) |
|-----------------|----------------------------------------------------------------------------------|
| scalar, vector  | C/2 (dk + dv) + 2 dk dv                                                            |
| normalised      | C/2 (dk + dv) + 2 dk dv + 2 dk                                                     |
| delta           | (n + 1) n C/2 (dk + dv) + (2 n + 1) dk dv                                          |
| vector delta    | 4 C/2 (dk + dv) + 4 dk dv                                                          |

plus one multiply-add per entry of every projection matrix. The backward pass costs twice the forward one
(each product has two derivatives), so operations are 6 times the multiply-adds. Recomputing chunks is our
choice and not counted. Bytes: every number that enters or leaves a layer or a kernel is written once and
read once forward, read once backward, and its derivative written once and read once: 5 passes.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from ..memories import GLA, MLSTM, RWKV7, DeltaNet, DeltaProduct, GatedDeltaNet, Mamba2
from ..memories.matrix_memory import AbstractMatrixMemory, Run
from ..reports.tables import Table
from .conclude import Evidence, Target, conclude
from .timing import bound, medians

BATCH, STEPS, SIZE, HEADS = 16, 1024, 128, 4
BASELINE_BATCH = 2  # the baselines hold a matrix for every step, several times over
LONG = 32768
LAYERS: dict[str, Callable[..., AbstractMatrixMemory]] = {
    "Mamba-2": Mamba2,
    "GLA": GLA,
    "mLSTM": MLSTM,
    "DeltaNet": DeltaNet,
    "Gated DeltaNet": GatedDeltaNet,
    "DeltaProduct, n = 2": DeltaProduct,
    "RWKV-7": RWKV7,
}
FLOORS, STEP_RATE, DELTANET_SPEEDUP, MAMBA2_SPEEDUP = 5.0, 3000, 20.0, 5.0
LINEAR = 1.3  # how much more a step may cost in a sequence 32 times as long: the noise of a busy machine
LENGTHS = (8, 16, 32, 64)
SLACK = 1.25


def main(repeats: int = 5, lengths: bool = False, json: Path | None = None) -> int:
    """Time the layers with matrix states, forward and backward, at (B, T, D) = (16, 1024, 128) and 4 heads.

    Args:
        repeats: timings per program; the median counts.
        lengths: compare chunk lengths of every kernel instead.
        json: write rows and targets to this file.
    """
    return conclude(_lengths(repeats) if lengths else _layers(repeats), json)


# --- programs -----------------------------------------------------------------------------------------------


def _arguments(
    memory: AbstractMatrixMemory, batch: int, steps: int, length: int | None = None, run: Run = unroll
):
    """A program of forward and backward in parameters and inputs, and its arguments."""
    if length is not None:
        run = functools.partial(unroll, length=length)
    xs = jax.random.normal(jax.random.key(1), (batch, steps, SIZE))
    starts = jnp.zeros((batch, steps), bool).at[:, 0].set(True)
    weights, rest = eqx.partition(memory, eqx.is_inexact_array)

    def loss(weights, xs, starts, g):
        memory = eqx.combine(weights, rest)

        def one(xs, starts):
            return memory.unroll(memory.init(), xs, starts, run)[1]

        return jnp.sum(jax.vmap(one)(xs, starts) * g)

    return jax.value_and_grad(loss, (0, 1)), (weights, xs, starts, jnp.cos(xs))


def dense_associative(kernel: Any, state: Any, xs: DeltaInputs, starts: Any):
    """DeltaNet as an associative scan over composed dense maps S -> A S + b, a pair of matrices for every
    step."""

    def combine(first, second):
        (a, b), (c, d) = first, second
        return c @ a, c @ b + d

    k, beta = xs.k[:, 0], xs.beta
    a = jnp.eye(k.shape[-1]) - beta[:, :, None] * k[:, :, None] * k[:, None, :]
    b = beta[:, :, None] * k[:, :, None] * xs.v
    a, b = jax.lax.associative_scan(combine, (jnp.where(starts[:, None, None], 0.0, a), b))
    states = a @ state + b
    return states[-1], jnp.einsum("tk,tkv->tv", xs.q, states)


def materialised(kernel: Any, state: Any, xs: Any, starts: Any):
    """Mamba-2 as our own scan over all states, an outer product for every step."""
    decay = jnp.broadcast_to(xs.decay.value()[:, None], xs.k.shape)
    inputs = (xs.k[:, :, None] * xs.v[:, None, :]).reshape(len(starts), -1)
    decay = jnp.repeat(decay, state.shape[1], axis=1)
    last, states = scan(Diagonal(), Element(decay, inputs), state.ravel(), starts)
    states = states.reshape(-1, *state.shape)
    return last.reshape(state.shape), jnp.einsum("tk,tkv->tv", xs.q, states)


# --- floors -------------------------------------------------------------------------------------------------


def machine() -> tuple[float, float]:
    """Operations per second of a large float32 product, and bytes per second of a + b."""
    size, rounds = 1024, 10
    square = jax.random.normal(jax.random.key(0), (size, size)) / size
    wide = jnp.ones(2**24)

    def multiply(x):
        return jax.lax.fori_loop(0, rounds, lambda _, y: y @ x, x)

    def add(x):  # in place, so that no page is new
        return jax.lax.fori_loop(0, rounds, lambda i, y: y + x, x)

    seconds = medians({"multiply": bound(multiply, square), "add": bound(add, wide)}, 5)
    return 2 * rounds * size**3 / seconds["multiply"], 3 * 4 * rounds * wide.size / seconds["add"]


def floor(memory: AbstractMatrixMemory, tokens: int, peak: float, bandwidth: float) -> float:
    """Seconds that no program for this layer can beat on this machine (see the top of the file)."""
    heads, dk, dv = memory.sizes
    x = jax.ShapeDtypeStruct((SIZE,), jnp.float32)
    inputs, rest = jax.eval_shape(lambda x: memory.encode(x, _mixed(memory, x)), x)
    chunk = choose(jax.default_backend(), memory.kernel.writes(inputs))
    match memory.kernel:
        case DeltaRule():
            n = inputs.k.shape[1]
            kernel = (n + 1) * n * chunk / 2 * (dk + dv) + (2 * n + 1) * dk * dv
        case VectorDelta():
            kernel = 4 * chunk / 2 * (dk + dv) + 4 * dk * dv
        case Normalised():
            kernel = chunk / 2 * (dk + dv) + 2 * dk * dv + 2 * dk
        case _:
            kernel = chunk / 2 * (dk + dv) + 2 * dk * dv
    matrices = [leaf for leaf in jax.tree.leaves(memory) if leaf.ndim == 2 and leaf.shape[0] != heads]
    weights = sum(leaf.size for leaf in matrices)
    if memory.convolution is not None:
        weights -= memory.convolution.weight.size  # no product of matrices
    numbers = 2 * SIZE + heads * dv + sum(leaf.size for leaf in jax.tree.leaves((inputs, rest)))
    return tokens * max(6 * (heads * kernel + weights) / peak, 4 * 5 * numbers / bandwidth)


def _mixed(memory, x):
    mixed = memory.mix(x)
    return (
        mixed
        if memory.convolution is None
        else memory.convolution.step(memory.init().window, mixed, False)[1]
    )


# --- measurements -------------------------------------------------------------------------------------------


def _layers(repeats: int) -> Evidence:
    peak, bandwidth = machine()
    rows = [_layer(name, repeats, peak, bandwidth) for name in track(LAYERS, "timing layers")]
    speedups = {
        "DeltaNet over its dense associative scan": (
            _speedup(DeltaNet, dense_associative, repeats),
            DELTANET_SPEEDUP,
        ),
        "DeltaNet over stepping": (_speedup(DeltaNet, walk, repeats), None),
        "Mamba-2 over a scan of materialised states": (
            _speedup(Mamba2, materialised, repeats),
            MAMBA2_SPEEDUP,
        ),
        "Mamba-2 over stepping": (_speedup(Mamba2, walk, repeats), None),
    }
    least = min(rows, key=lambda row: row["steps_per_second"])
    far, slow = (max(rows, key=lambda row: row[name]) for name in ("floors", "long_over_short"))
    targets = [
        Target(f"{name}, forward + backward", value >= required, f"{value:.1f}x", f">= {required:g}x")
        for name, (value, required) in speedups.items()
        if required is not None
    ]
    targets += [
        Target(
            "distance to the floor, most",
            far["floors"] <= FLOORS,
            f"{far['floors']:.1f} ({far['layer']})",
            f"<= {FLOORS:g}",
        ),
        Target(
            "acting, least",
            least["steps_per_second"] >= STEP_RATE,
            f"{least['steps_per_second']:,.0f} steps/s ({least['layer']})",
            f">= {STEP_RATE}",
        ),
        Target(
            f"time per step at T = {LONG} over T = {STEPS}, most",
            slow["long_over_short"] <= LINEAR,
            f"{slow['long_over_short']:.2f} ({slow['layer']})",
            f"<= {LINEAR}",
        ),
    ]
    table = Table(
        (
            "layer",
            "fwd + bwd ms",
            "tokens/s",
            "floor ms",
            "of floor",
            "memory / inputs",
            "long / short",
            "steps/s",
        ),
        [
            (
                r["layer"],
                f"{1e3 * r['seconds']:.0f}",
                f"{BATCH * STEPS / r['seconds']:,.0f}",
                f"{1e3 * r['floor']:.0f}",
                f"{r['floors']:.1f}",
                f"{r['memory']:.0f}",
                f"{r['long_over_short']:.2f}",
                f"{r['steps_per_second']:,.0f}",
            )
            for r in rows
        ],
    )
    remarks = [
        f"machine: {peak / 1e9:.0f} GFLOP/s, {bandwidth / 1e9:.1f} GB/s; "
        f"(B, T, D) = {(BATCH, STEPS, SIZE)}, {HEADS} heads; long / short at B = 1.",
        *(f"{name}: {value:.1f}x (B = {BASELINE_BATCH})" for name, (value, _) in speedups.items()),
    ]
    rows += [{"speedup": name, "value": value} for name, (value, _) in speedups.items()]
    return Evidence("bench kernels", rows, table, targets, remarks)


def _layer(name: str, repeats: int, peak: float, bandwidth: float) -> dict[str, Any]:
    memory = LAYERS[name](SIZE, HEADS, key=jax.random.key(0))
    program, arguments = _arguments(memory, BATCH, STEPS)
    compiled = jax.jit(program).lower(*arguments).compile()
    seconds = medians({name: lambda: compiled(*arguments)}, repeats)[name]
    kept: Any = compiled.memory_analysis()
    ideal = floor(memory, BATCH * STEPS, peak, bandwidth)
    lengths = {str(steps): bound(*_flat(_arguments(memory, 1, steps))) for steps in (STEPS, LONG)}
    times = medians(lengths, repeats)
    return {
        "layer": name,
        "seconds": seconds,
        "floor": ideal,
        "floors": seconds / ideal,
        "memory": kept.temp_size_in_bytes / arguments[1].nbytes,
        "long_over_short": times[str(LONG)] / LONG / (times[str(STEPS)] / STEPS),
        "steps_per_second": _acting(memory),
    }


def _flat(program_and_arguments):
    program, arguments = program_and_arguments
    return program, *arguments


def _acting(memory: AbstractMatrixMemory, steps: int = 1000) -> float:
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


def _speedup(layer: Callable[..., AbstractMatrixMemory], run: Run, repeats: int) -> float:
    memory = layer(SIZE, HEADS, key=jax.random.key(0))
    programs = {
        "ours": bound(*_flat(_arguments(memory, BASELINE_BATCH, STEPS))),
        "baseline": bound(*_flat(_arguments(memory, BASELINE_BATCH, STEPS, run=run))),
    }
    times = medians(programs, repeats)
    return times["baseline"] / times["ours"]


def _lengths(repeats: int) -> Evidence:
    rows = []
    for name in track(LAYERS, "timing chunk lengths"):
        memory = LAYERS[name](SIZE, HEADS, key=jax.random.key(0))
        programs = {
            str(length): bound(*_flat(_arguments(memory, BATCH, STEPS, length))) for length in LENGTHS
        }
        programs["auto"] = bound(*_flat(_arguments(memory, BATCH, STEPS)))
        rows.append({"layer": name, **medians(programs, repeats)})
    worst = max(row["auto"] / min(row[str(length)] for length in LENGTHS) for row in rows)
    table = Table(
        ("layer", *(f"C = {length}, ms" for length in LENGTHS), "chosen, ms"),
        [(r["layer"], *(f"{1e3 * r[k]:.0f}" for k in (*map(str, LENGTHS), "auto"))) for r in rows],
    )
    target = Target("chosen against the fastest, most", worst <= SLACK, f"{worst:.2f}x", f"<= {SLACK}x")
    return Evidence("bench kernels --lengths", rows, table, [target])

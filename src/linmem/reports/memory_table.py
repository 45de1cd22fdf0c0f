"""All memories in one Markdown table, read from the registry, the layers' docstrings and small instances
(`linmem list --markdown`; docs/memories.md is what it printed)."""

import inspect
import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from linmem.core.registry import Entry
from linmem.core.types import Inputs
from linmem.measures.operations import multiplications
from linmem.memories import MEMORIES
from linmem.memories.base import AbstractLinearMemory, AbstractMemory
from linmem.memories.matrix_memory import AbstractMatrixMemory
from linmem.memories.stack import Encoded, Learned
from linmem.worlds import WORLDS
from linmem.worlds.spaces import zeros

WIDTH = 64
WORLD = "ringworld"
HEAD = f"""# All memories

Made by `linmem list --markdown`. Learned layers are counted at width n = {WIDTH}, without encoder and
residual block; filters of a known model on `{WORLD}`. *State* is the real numbers carried from step to step
(a complex one is two), *parameters* the real numbers that training may change, *step* the multiplications
that a step to act makes, whatever came before (filters of logits add where others multiply). *Learns by* is
what T steps of training cost:

- scan: the recurrence step by step, as wide as the batch; all states are kept, O(T state).
- pieces: the same in pieces of sqrt(T) steps; only the states between pieces are kept, and a piece is run
  again for its derivative.
- chunks: products of matrices within chunks of C steps, O(T (C width + state)); a state is kept per chunk.
  On a CPU a compiled loop, where one was built: a state is kept every 32 writes, and the steps between are
  run again for the derivative.
- convolution: FFTs over the sequence, O(T log T) a channel, log T times more because starts cut it. *Or
  convolution*: its `convolve` does that for a whole sequence without starts inside.
- own: the layer's own loop or mixture of these; its file says how.

| memory | equation | state | parameters | step | learns by | source |
|---|---|---|---|---|---|---|
"""


def markdown() -> str:
    """The page: what the columns mean, then one row for each memory of the registry."""
    return HEAD + "".join(_row(entry) for entry in MEMORIES)


def layer_of(entry: Entry) -> tuple[AbstractMemory, Any]:
    """(the memory itself, without what stands around it; one of its inputs, or its form)."""
    if isinstance(entry.make, Learned):
        return entry.make.layer(WIDTH, jax.random.key(0)), jax.ShapeDtypeStruct((WIDTH,), jnp.float32)
    world = WORLDS[WORLD].make()
    made = entry.make(world, WIDTH, jax.random.key(0))
    if isinstance(made, Encoded):
        return made.memory, jax.ShapeDtypeStruct((made.features.size,), jnp.float32)
    return made, Inputs(zeros(world.observation_space), zeros(world.action_space), jnp.zeros(()))


def equation(memory: AbstractMemory) -> str:
    """Of the lines that the module's docstring displays, the first that makes a state from the last one, or
    else the first."""
    doc = inspect.getdoc(inspect.getmodule(type(memory))) or ""
    displayed = (line.strip() for line in doc.splitlines() if line.startswith("    "))
    shown = [re.split(r"\s{3,}", line)[0].rstrip(",") for line in displayed]
    recurrences = [line for line in shown if _RECURRENCE.search(line)]
    return next(iter(recurrences + shown), "")


_RECURRENCE = re.compile(r"(\w+)_([tk])\b.*=.*\b\1_\{\2-1\}")  # name_t = ... name_{t-1}


def form(memory: AbstractMemory) -> str:
    """How ``unroll`` runs."""
    if isinstance(memory, AbstractMatrixMemory):
        way = "chunks"
    elif type(memory).unroll is AbstractLinearMemory.unroll:
        way = "scan"
    else:
        classes = (cls for cls in type(memory).__mro__ if "unroll" in vars(cls))
        source = "".join(inspect.getsource(cls.unroll) for cls in classes)  # one may call the next
        ways = {
            r"checkpointed_scan|self\.scan": "pieces",
            r"causal_filter": "convolution",
            r"scan_states|lax\.scan\(.*, state,": "scan",
        }
        way = next((way for call, way in ways.items() if re.search(call, source)), "own")
    return way + " or convolution" * hasattr(memory, "convolve")


def _row(entry: Entry) -> str:
    memory, x = layer_of(entry)
    state = jax.eval_shape(memory.init)
    step = multiplications(lambda state, x: memory.step(state, x, jnp.asarray(False)), state, x)
    parameters = _reals(eqx.filter(memory, eqx.is_inexact_array))
    shown = equation(memory).replace("|", "\\|")
    return (
        f"| `{entry.name}` | {f'`{shown}`' if shown else '-'} | {_reals(state):,} | {parameters:,} "
        f"| {step:,} | {form(memory)} | {entry.source} |\n"
    )


def _reals(tree) -> int:
    leaves = jax.tree.leaves(tree)
    return sum(leaf.size * (2 if leaf.dtype.kind == "c" else 1) for leaf in leaves if leaf.dtype.kind in "fc")

"""All memories in one Markdown table, read from the registry, the layers' docstrings and small instances
(`linmem list --markdown`; docs/memories.md is what it printed)."""

import inspect
import re

import equinox as eqx
import jax

from linmem.core.registry import Entry
from linmem.memories import MEMORIES
from linmem.memories.base import AbstractLinearMemory, AbstractMemory
from linmem.memories.matrix_memory import AbstractMatrixMemory
from linmem.memories.stack import Encoded, Learned
from linmem.worlds import WORLDS

WIDTH = 64
WORLD = "ringworld"
HEAD = f"""# All memories

Made by `linmem list --markdown`. Learned layers are counted at width n = {WIDTH}, without encoder and
residual block; filters of a known model on `{WORLD}`. *State* is the real numbers carried from step to step
(a complex one is two), *parameters* the real numbers that training may change. A step costs at least one
multiply-add for each, whatever came before. *Learns by* is what T steps of training cost:

- scan: the recurrence step by step, as wide as the batch; all states are kept, O(T state).
- pieces: the same in pieces of sqrt(T) steps; only the states between pieces are kept, and a piece is run
  again for its derivative.
- chunks: products of matrices within chunks of C steps, O(T (C width + state)); a state is kept per chunk.
- convolution: FFTs over the sequence, O(T log T) a channel, log T times more because starts cut it. *Or
  convolution*: its `convolve` does that for a whole sequence without starts inside.
- own: the layer's own loop or mixture of these; its file says how.

| memory | equation | state | parameters | learns by | source |
|---|---|---|---|---|---|
"""


def markdown() -> str:
    """The page: what the columns mean, then one row for each memory of the registry."""
    return HEAD + "".join(_row(entry) for entry in MEMORIES)


def layer_of(entry: Entry) -> AbstractMemory:
    """The memory itself, without what stands around it."""
    if isinstance(entry.make, Learned):
        return entry.make.layer(WIDTH, jax.random.key(0))
    made = entry.make(WORLDS[WORLD].make(), WIDTH, jax.random.key(0))
    return made.memory if isinstance(made, Encoded) else made


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
        source = inspect.getsource(type(memory).unroll)
        ways = {"checkpointed_scan": "pieces", "causal_filter": "convolution"}
        way = next((way for call, way in ways.items() if call in source), "own")
    return way + " or convolution" * hasattr(memory, "convolve")


def _row(entry: Entry) -> str:
    memory = layer_of(entry)
    state, parameters = _reals(jax.eval_shape(memory.init)), _reals(eqx.filter(memory, eqx.is_inexact_array))
    shown = equation(memory).replace("|", "\\|")
    return (
        f"| `{entry.name}` | {f'`{shown}`' if shown else '-'} | {state:,} | {parameters:,} | {form(memory)} "
        f"| {entry.source} |\n"
    )


def _reals(tree) -> int:
    leaves = jax.tree.leaves(tree)
    return sum(leaf.size * (2 if leaf.dtype.kind == "c" else 1) for leaf in leaves if leaf.dtype.kind in "fc")

"""Loops over time that keep little for their derivative.

``scan_states`` is for recurrences that are read through their states, which are then kept, and of a step no
more than what it names ``KEPT``.

``checkpointed_scan`` is for recurrences whose state is much larger than what is read out of it: T states are
never stored. Forward, the state is kept every ``chunk`` steps (by default about sqrt T of them, so that as
many states are kept between chunks as inside one). Backward, each chunk is run again from its first state,
and each step inside it once more for its own derivative.

``in_blocks`` is for long sequences whose parts are done for all steps at once: products, elements, features.
Of all steps these are arrays that a processor's cache cannot hold, so that each part waits for memory; those
of a block stay in it. Backward does most of a block a second time, and still takes less.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree


def scan_chunks(
    run_chunk: Callable[[Any, Any], tuple[Any, Any]], carry: PyTree, timed: PyTree, chunk: int | None = None
) -> tuple[PyTree, PyTree]:
    """`jax.lax.scan` of ``run_chunk`` over ``chunk`` steps of ``timed`` at a time, the last ones maybe fewer:
    (last carry, outputs of all steps). Its derivative keeps what that of ``run_chunk`` does."""
    steps = jax.tree.leaves(timed)[0].shape[0]
    length = chunk or max(1, round(steps**0.5))
    count, cut = steps // length, steps // length * length
    chunks = jax.tree.map(lambda x: x[:cut].reshape(count, length, *x.shape[1:]), timed)
    carry, outputs = jax.lax.scan(run_chunk, carry, chunks)
    outputs = jax.tree.map(lambda y: y.reshape(cut, *y.shape[2:]), outputs)
    if cut == steps:
        return carry, outputs
    carry, last = run_chunk(carry, jax.tree.map(lambda x: x[cut:], timed))
    return carry, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), outputs, last)


def checkpointed_scan(
    step: Callable[[Any, Any], tuple[Any, Any]], carry: PyTree, timed: PyTree, chunk: int | None = None
) -> tuple[PyTree, PyTree]:
    """`jax.lax.scan` of ``step`` over the leading axis of ``timed``: (last carry, outputs of all steps)."""

    # `jax.checkpoint` hashes what it is given, and the method of a module has arrays: hence a function
    @partial(jax.checkpoint, prevent_cse=False)
    def run_step(carry, x):
        return step(carry, x)

    @partial(jax.checkpoint, prevent_cse=False)
    def run_chunk(carry, timed):
        return jax.lax.scan(run_step, carry, timed)

    return scan_chunks(run_chunk, carry, timed, chunk)


def scan_states(advance: Callable[[Any, Any], Any], state: PyTree, timed: PyTree) -> tuple[PyTree, PyTree]:
    """``advance(state, x)`` over the leading axis of ``timed``: (last state, all states). Backward does
    each step again, but for what has the `checkpoint_name` ``KEPT``."""

    @partial(jax.checkpoint, prevent_cse=False, policy=jax.checkpoint_policies.save_only_these_names(KEPT))
    def step(state, x):
        state = advance(state, x)
        return state, state

    return jax.lax.scan(step, state, timed)


BLOCK, MANY = 2**18, 2**20
"""Numbers in an array of a block, and of a whole that is cut into blocks: 1 and 4 MB in float32.
Below that not all layers gain on the CPUs measured; repeat it with ``linmem bench layers --whole``."""
KEPT = "kept"
"""`checkpoint_name` of what would take long to do again, which the derivative keeps of a block."""


def in_blocks(
    unroll: Callable[[Any, Any], tuple[Any, Any]], carry: PyTree, timed: PyTree, width: int
) -> tuple[PyTree, PyTree]:
    """``unroll(carry, timed)``, of many numbers block by block: (last carry, outputs of all steps).

    width: how many numbers about an array of one step has. Only on a CPU: other processors have the memory
    bandwidth, and need the parallel work."""
    steps = jax.tree.leaves(timed)[0].shape[0]
    if jax.default_backend() != "cpu" or steps * width < MANY:
        return unroll(carry, timed)
    keep = jax.checkpoint_policies.save_only_these_names(KEPT)
    return scan_chunks(
        jax.checkpoint(unroll, prevent_cse=False, policy=keep), carry, timed, max(1, BLOCK // width)
    )

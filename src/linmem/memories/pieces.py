"""Running a memory with a wide state through time without keeping every state.

A layer with a state of its own for each channel (S4, S4D, DSS, LSSL) has N times more state than features:
kept for every step of a batch it would fill the memory of a computer. Here features are made as soon as a
state is there, only the states between pieces of about sqrt(T) steps are kept, and a piece is run again for
its derivative.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

Body = Callable[[Any, Any], tuple[Any, Array]]


def scan_in_pieces(body: Body, state: Any, timed: PyTree) -> tuple[Any, Array]:
    """What `jax.lax.scan` gives for ``body(state, timed_t) -> (state, y_t)``."""
    steps = len(jax.tree.leaves(timed)[0])
    length = max(1, int(steps**0.5))
    cut = steps // length * length

    def piece(state, timed):
        return jax.lax.scan(body, state, timed)

    pieces = jax.tree.map(lambda x: x[:cut].reshape(-1, length, *x.shape[1:]), timed)
    state, ys = jax.lax.scan(jax.checkpoint(piece), state, pieces)
    state, rest = piece(state, jax.tree.map(lambda x: x[cut:], timed))
    return state, jnp.concatenate([ys.reshape(cut, *ys.shape[2:]), rest])

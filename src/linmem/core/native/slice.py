"""Loops over time of SLiCE, compiled (``slice.cpp``): diagonal plus low rank, where sequences of a batch
share what is read of the weights, and diagonal, alone or before a Walsh-Hadamard matrix.

A state is scaled to unit mean square where its own is above ``smallest``."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..projection import project
from .library import call

States = Float[Array, "T n"]


def recur_low_rank(
    smallest: float,
    right: Float[Array, "n m"],
    left: Float[Array, "m n"],
    diagonal: States,
    gains: Float[Array, "T m"],
    first: States,
    starts: Bool[Array, " T"],
    initial: Float[Array, " n"],
) -> States:
    """All h_t, which are g_t = h_{t-1} + diagonal_t * h_{t-1} + ((h_{t-1} right) * gains_t) left, or first_t
    at a start, scaled."""
    operands = jax.lax.stop_gradient((right, left, diagonal, gains, first, starts, initial))
    shapes = [diagonal.shape, starts.shape]
    states, scales = call("low_rank_forward", shapes, *operands, smallest=np.float64(smallest))
    # Nobody computes these sums and products of all steps, as their value is not used; the derivative goes
    # through them, so that those in the weights are single products over all steps and sequences.
    before = jax.lax.stop_gradient(jnp.concatenate([initial[None], states[:-1]]))
    before = jnp.where(starts[:, None], 0.0, before)
    moved = before + diagonal * before + project(project(before, right) * gains, left)
    grown = jnp.where(starts[:, None], first, moved)
    return _made_by(states, scales, grown, initial, *operands[:4], starts)


@jax.custom_vjp
def _made_by(states, scales, grown, initial, right, left, diagonal, gains, starts):
    """``states``, for the derivative a function of ``grown``, all g_t, and of ``initial``."""
    return states


def _made_by_fwd(states, scales, grown, initial, right, left, diagonal, gains, starts):
    return states, (left.T, right.T, diagonal, gains, starts, states, scales)


def _made_by_bwd(kept, to_states):
    shapes = [to_states.shape, to_states.shape[1:]]
    to_grown, to_initial = call("low_rank_backward", shapes, *kept, to_states)
    return None, None, to_grown, to_initial, None, None, None, None, None


_made_by.defvjp(_made_by_fwd, _made_by_bwd)


def _recur_diagonal(
    smallest: float,
    hadamard: bool,
    diagonal: States,
    first: States,
    starts: Bool[Array, " T"],
    initial: Float[Array, " n"],
) -> States:
    """The same of h_{t-1} + H (diagonal_t * h_{t-1}), H being the orthonormal Walsh-Hadamard matrix or 1."""
    return _diagonal_fwd(smallest, hadamard, diagonal, first, starts, initial)[0]


def _diagonal_fwd(smallest, hadamard, diagonal, first, starts, initial):
    operands, shapes = (diagonal, first, starts, initial), [diagonal.shape, starts.shape]
    settings = {"smallest": np.float64(smallest), "hadamard": hadamard}
    states, scales = call("diagonal_forward", shapes, *operands, **settings)
    return states, (diagonal, starts, initial, states, scales)


def _diagonal_bwd(smallest, hadamard, kept, to_states):
    shapes = [to_states.shape, to_states.shape, to_states.shape[1:]]
    to_diagonal, to_first, to_initial = call("diagonal_backward", shapes, *kept, to_states, hadamard=hadamard)
    return to_diagonal, to_first, None, to_initial


recur_diagonal = jax.custom_vjp(_recur_diagonal, nondiff_argnums=(0, 1))
recur_diagonal.defvjp(_diagonal_fwd, _diagonal_bwd)

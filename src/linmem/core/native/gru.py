"""The loop over time of a gated recurrent unit, compiled (``gru.cpp``): sequences of a batch share what is
read of the weights, and each thread has some of them."""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from ..checkpointed import KEPT
from ..projection import project
from .library import call

Gates = Float[Array, "T gates"]


def recur(
    w_state: Float[Array, "gates n"],
    bias_new: Float[Array, " n"],
    entering: Gates,
    starts: Bool[Array, " T"],
    initial: Float[Array, " n"],
) -> Float[Array, "T n"]:
    """All h_t. w_state: U_r, U_z, U_n stacked; entering: W x_t + b of r, z, n."""
    operands = jax.lax.stop_gradient((w_state.T, bias_new, entering))
    shapes = [(len(entering), len(initial)), (len(entering), 4 * len(initial))]
    made = call("gru_forward", shapes, *operands, starts, jax.lax.stop_gradient(initial))
    states, gates = (checkpoint_name(part, KEPT) for part in made)
    # Nobody computes this product of all steps, as its value is not used; the derivative goes through it, so
    # that the one in w_state is a single product over all steps and sequences.
    previous = jnp.where(starts[:, None], 0.0, jnp.concatenate([initial[None], states[:-1]]))
    leaving = project(jax.lax.stop_gradient(previous), w_state.T)
    return _made_by(states, gates, entering, leaving, bias_new, starts, initial, w_state)


@jax.custom_vjp
def _made_by(states, gates, entering, leaving, bias_new, starts, initial, w_state):
    """``states``, for the derivative a function of entering + leaving and of initial."""
    return states


def _made_by_fwd(states, gates, entering, leaving, bias_new, starts, initial, w_state):
    return states, (w_state, starts, initial, states, gates)


def _made_by_bwd(kept, to_states):
    initial, states = kept[2:4]
    gates = (len(states), 3 * len(initial))
    to_entering, to_leaving, to_initial = call(
        "gru_backward", [gates, gates, initial.shape], *kept, to_states
    )
    to_bias = to_leaving[:, -len(initial) :].sum(0)
    return None, None, to_entering, to_leaving, to_bias, None, to_initial, None


_made_by.defvjp(_made_by_fwd, _made_by_bwd)

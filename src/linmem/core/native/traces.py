"""Complex diagonal recurrences that share their inputs, by a compiled loop over time (``traces.cpp``)."""

import jax
from jaxtyping import Array, Bool, Float

from .library import call


@jax.custom_vjp
def recur(
    gamma: Float[Array, "2 n"],
    entering: Float[Array, "T b m"],
    starts: Bool[Array, "T b"],
    initial: Float[Array, "b 2 n"],
) -> Float[Array, "T b 2 n"]:
    """All h_t = gamma h_{t-1} + v_t of b sequences side by side; v_t repeats each of m entries n / m times.

    Axes of size 2 are real and imaginary parts."""
    return _fwd(gamma, entering, starts, initial)[0]


def _fwd(gamma, entering, starts, initial):
    (states,) = call("traces_forward", [(*starts.shape, *gamma.shape)], entering, gamma, starts, initial)
    return states, (entering, (gamma, starts, initial, states))


def _bwd(kept, to_states):
    entering, operands = kept
    shapes = [entering.shape, operands[2].shape, operands[2].shape]
    to_entering, to_gamma, to_initial = call("traces_backward", shapes, to_states, *operands)
    return to_gamma.sum(0), to_entering, None, to_initial


recur.defvjp(_fwd, _bwd)

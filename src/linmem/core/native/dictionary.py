"""The loop over time of transitions that are mixed from a dictionary, compiled (``dictionary.cpp``)."""

import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from .library import call


def _recur(
    exponent: float,
    smallest: float,
    dictionary: Float[Array, "k n n"],
    weights: Float[Array, "T k"],
    entering: Float[Array, "T n"],
    starts: Bool[Array, " T"],
    initial: Float[Array, " n"],
) -> Float[Array, "T n"]:
    """All x_t = M_t (x_{t-1} / p-norms of the columns of |M_t| + smallest) + u_t, M_t = sum_k w_tk A_k.

    ``exponent`` is p."""
    return _fwd(exponent, smallest, dictionary, weights, entering, starts, initial)[0]


def _fwd(exponent, smallest, dictionary, weights, entering, starts, initial):
    settings = _settings(exponent, smallest)
    operands = dictionary, weights, entering, starts, initial
    states, scales = call("dictionary_forward", [entering.shape] * 2, *operands, **settings)
    return states, (dictionary, weights, starts, initial, states, scales)


def _bwd(exponent, smallest, kept, to_states):
    dictionary, weights, _, initial, states, _ = kept
    shapes = [dictionary.shape, weights.shape, states.shape, initial.shape]
    made = call("dictionary_backward", shapes, *kept, to_states, **_settings(exponent, smallest))
    to_dictionary, to_weights, to_entering, to_initial = made
    return to_dictionary, to_weights, to_entering, None, to_initial


def _settings(exponent, smallest):
    return {"exponent": np.float64(exponent), "smallest": np.float64(smallest)}


recur = jax.custom_vjp(_recur, nondiff_argnums=(0, 1))
recur.defvjp(_fwd, _bwd)

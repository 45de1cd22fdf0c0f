"""The selective scan with exponential decays by a compiled loop over time (``selective.cpp``)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .library import call
from .matrix import SPAN

CHANNELS = 64
"""About how many a thread takes at once: 16 states of each are 4 KB."""


@jax.custom_vjp
def exponential_scan(
    rate: Float[Array, "n c"],
    delta: Float[Array, "T c"],
    key: Float[Array, "T n"],
    query: Float[Array, "T n"],
    value: Float[Array, "T c"],
    form: Float[Array, "2"],
    starts: Bool[Array, " T"],
    initial: Float[Array, "n c"],
) -> tuple[Float[Array, "n c"], Float[Array, "T c"]]:
    """(last state, y of all steps) of H_t = (p exp(delta_t rate) + r) * H_{t-1} + k_t v_t^T, y_t = H_t^T q_t.

    ``form``, (p, r), has no derivative. T is at least 1."""
    return _fwd(rate, delta, key, query, value, form, starts, initial)[0]


def _fwd(rate, delta, key, query, value, form, starts, initial):
    xs = rate, delta, key, query, value, form, starts
    spans = -(-len(delta) // SPAN)
    shapes = [initial.shape, delta.shape, (spans, *initial.shape)]
    last, y, kept = call("selective_forward", shapes, *xs, initial)
    return (last, y), (xs, kept)


def _bwd(residuals, gradients):
    (rate, delta, key, _, value, form, _), _ = residuals
    parts = (max(1, rate.shape[1] // CHANNELS), *key.shape)
    shapes = [rate.shape, delta.shape, parts, parts, value.shape, rate.shape]
    made = call("selective_backward", shapes, *residuals[0], residuals[1], *gradients)
    to_rate, to_delta, to_key, to_query, to_value, to_initial = made
    return to_rate, to_delta, to_key.sum(0), to_query.sum(0), to_value, jnp.zeros_like(form), None, to_initial


exponential_scan.defvjp(_fwd, _bwd)

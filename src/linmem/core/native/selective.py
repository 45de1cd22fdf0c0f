"""The selective scan with exponential or implicit decays by a compiled loop over time (``selective.cpp``)."""

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

    ``form``, (p, r), has no derivative."""
    return _exponential_fwd(rate, delta, key, query, value, form, starts, initial)[0]


def _exponential_fwd(rate, delta, key, query, value, form, starts, initial):
    xs = delta, key, query, value, starts
    return _forward(xs, initial, rate, form)


def _exponential_bwd(residuals, gradients):
    _, _, (rate, form) = residuals
    *timed, to_initial, to_rate = _backward(residuals, gradients, rate.shape)
    return to_rate, *timed, jnp.zeros_like(form), None, to_initial


exponential_scan.defvjp(_exponential_fwd, _exponential_bwd)


@jax.custom_vjp
def implicit_scan(
    delta: Float[Array, "T c"],
    key: Float[Array, "T n"],
    query: Float[Array, "T n"],
    value: Float[Array, "T c"],
    starts: Bool[Array, " T"],
    initial: Float[Array, "n c"],
) -> tuple[Float[Array, "n c"], Float[Array, "T c"]]:
    """The same of H_t = (1 - k_t^2 delta_t^T) * H_{t-1} + k_t v_t^T."""
    return _implicit_fwd(delta, key, query, value, starts, initial)[0]


def _implicit_fwd(delta, key, query, value, starts, initial):
    return _forward((delta, key, query, value, starts), initial)


def _implicit_bwd(residuals, gradients):
    *timed, to_initial = _backward(residuals, gradients)
    return *timed, None, to_initial


implicit_scan.defvjp(_implicit_fwd, _implicit_bwd)


def _forward(xs, initial, *decay):
    delta = xs[0]
    shapes = [initial.shape, delta.shape, (-(-len(delta) // SPAN), *initial.shape)]
    last, y, kept = call("selective_forward", shapes, *xs, initial, *decay)
    return (last, y), (xs, kept, decay)


def _backward(residuals, gradients, *decay_shapes):
    """Derivatives in delta, key, query, value and initial, then those of the decay."""
    xs, kept, decay = residuals
    delta, key, _, value, _ = xs
    parts = (max(1, value.shape[1] // CHANNELS), *key.shape)
    shapes = [delta.shape, parts, parts, value.shape, kept.shape[1:], *decay_shapes]
    made = call("selective_backward", shapes, *xs, kept, *gradients, *decay)
    to_delta, to_key, to_query, *rest = made
    return to_delta, to_key.sum(0), to_query.sum(0), *rest

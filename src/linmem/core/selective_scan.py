"""``selective_scan``: a diagonal state per channel whose decay, input and readout change at every step.

    H_t = a_t * H_{t-1} + k_t v_t^T,   a_t = decay(delta_t, k_t)     (n, c)
    y_t = H_t^T q_t                                                  (c,)

T states would be n times all inputs together, so they are kept at chunk boundaries only
(``core/checkpointed.py``). The derivative of a chunk, with G_t for that of the loss in H_t:

    G_t = q_t ybar_t^T + a_{t+1} * G_{t+1}
    qbar_t = H_t ybar_t,   kbar_t = G_t v_t + ...,   vbar_t = G_t^T k_t,   abar_t = G_t * H_{t-1}

is one loop that makes the states again and one that goes back. Differentiation of the step would do the same
with every part in an array of its own, which takes longer on a CPU, since each pass over a state of a batch
costs about what arithmetic on it does. Channels are the last axis, since they are the wide one.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .checkpointed import scan_chunks

Decay = Callable[[Float[Array, " c"], Float[Array, " n"]], Float[Array, "n c"]]


def selective_step(decay: Decay, h, delta, key, value, start):
    """H_t from H_{t-1}, which is erased first where ``start``."""
    return decay(delta, key) * jnp.where(start, 0.0, h) + key[:, None] * value


def selective_scan(
    decay: Decay,
    initial: Float[Array, "n c"],
    delta: Float[Array, "T c"],
    key: Float[Array, "T n"],
    query: Float[Array, "T n"],
    value: Float[Array, "T c"],
    starts: Bool[Array, " T"],
    chunk: int | None = None,
) -> tuple[Float[Array, "n c"], Float[Array, "T c"]]:
    """(last state, y of all steps). ``decay`` may close over weights; they get their gradients, too."""
    decay, weights = jax.closure_convert(decay, delta[0], key[0])

    def run_chunk(h, timed):
        return _chunk(decay, weights, h, timed)

    return scan_chunks(run_chunk, initial, (delta, key, query, value, starts), chunk)


def _forward(decay, weights, h, timed):
    def body(h, step):
        delta, key, query, value, start = step
        h = selective_step(lambda d, k: decay(d, k, *weights), h, delta, key, value, start)
        return h, query @ h

    return jax.lax.scan(body, h, timed)


_chunk = jax.custom_vjp(_forward, nondiff_argnums=(0,))


def _chunk_fwd(decay, weights, h, timed):
    return _forward(decay, weights, h, timed), (weights, h, timed)


def _chunk_bwd(decay, kept, cotangents):
    weights, first, (delta, key, query, value, starts) = kept
    to_last, to_y = cotangents

    def forward(h, step):
        delta, key, value, start, to_y = step
        met = jnp.where(start, 0.0, h)  # H_{t-1} as a_t meets it
        h = decay(delta, key, *weights) * met + key[:, None] * value
        return h, (met, h @ to_y)

    def back(carry, step):
        to_h, to_weights = carry
        met, delta, key, query, value, start, to_y = step
        to_h = to_h + query[:, None] * to_y
        a, pull = jax.vjp(decay, delta, key, *weights)
        to_delta, to_key, *more = pull(to_h * met)
        to_weights = [total + new for total, new in zip(to_weights, more, strict=True)]
        return (jnp.where(start, 0.0, to_h * a), to_weights), (to_delta, to_key + to_h @ value, key @ to_h)

    _, (met, to_query) = jax.lax.scan(forward, first, (delta, key, value, starts, to_y))
    nothing = [jnp.zeros_like(weight) for weight in weights]
    (to_first, to_weights), (to_delta, to_key, to_value) = jax.lax.scan(
        back, (to_last, nothing), (met, delta, key, query, value, starts, to_y), reverse=True
    )
    return to_weights, to_first, (to_delta, to_key, to_query, to_value, None)


_chunk.defvjp(_chunk_fwd, _chunk_bwd)


def over_states(delta: Float[Array, " c"], n: int) -> Float[Array, "n c"]:
    """``delta`` for each of n states of a channel, as a product: the sum over states in its derivative is
    then one, too, and faster than a reduction."""
    return jnp.ones((n, 1), delta.dtype) @ delta[None]

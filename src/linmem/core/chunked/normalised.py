"""Exponential input gates with a normaliser and a stabiliser: the memory of mLSTM.

    C_t = f_t C_{t-1} + i_t k_t v_t^T,   n_t = f_t n_{t-1} + i_t k_t,   i_t = exp(~i_t)
    y_t = C_t^T q_t / max(|n_t . q_t|, 1)

Kept are C_t exp(-m_t) and n_t exp(-m_t) with m_t = max(log|f_t| + m_{t-1}, ~i_t), so that no gate overflows;
y_t does not depend on m, so no derivative passes through it. In a chunk that begins with C, n and m, with L
as in decay.py:

    W[t, s] = exp(L_t - L_s + ~i_s - m_t),    w_t = exp(L_t + m - m_t),    m_t making the largest of them 1
    Y = ((Q K^T * W) V + diag(w) Q C) / max(|(Q K^T * W) 1 + diag(w) Q n|, exp(-m_t))

Source: M. Beck et al., "xLSTM: Extended Long Short-Term Memory", 2024, arXiv:2405.04517, eqs. 19-27 and
appendix A.3.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..native import matrix
from .decay import Decay, causal, cumulate
from .kernel import AbstractKernel

_NOTHING = -1e30  # the stabiliser of an empty state: finite, and below every gate


class NormalisedInputs(NamedTuple):
    q: Float[Array, "*T dk"]
    k: Float[Array, "*T dk"]
    v: Float[Array, "*T dv"]
    input: Float[Array, "*T"]
    """~i_t, the logarithm of the input gate"""
    forget: Decay
    """*T"""


class NormalisedState(NamedTuple):
    matrix: Float[Array, "dk dv"]
    normaliser: Float[Array, " dk"]
    stabiliser: Float[Array, ""]


class Normalised(AbstractKernel):
    """State: matrix and normaliser, both divided by exp(stabiliser)."""

    def init(self, dk, dv):
        return NormalisedState(jnp.zeros((dk, dv)), jnp.zeros(dk), jnp.zeros(()) + _NOTHING)

    def step(self, state, x, start):
        matrix, normaliser = jnp.where(start, 0.0, state.matrix), jnp.where(start, 0.0, state.normaliser)
        before = jax.lax.stop_gradient(jnp.where(start, _NOTHING, state.stabiliser))
        now = jax.lax.stop_gradient(jnp.maximum(x.forget.log + before, x.input))
        kept = Decay(x.forget.log + (before - now), x.forget.sign).value()
        key = jnp.exp(x.input - now) * x.k
        state = NormalisedState(kept * matrix + key[:, None] * x.v, kept * normaliser + key, now)
        return state, x.q @ state.matrix / _floored(x.q @ state.normaliser, now)

    def chunk(self, state, xs, began):
        cumulated = cumulate(xs.forget, began)
        before = jax.lax.stop_gradient(state.stabiliser)
        entered = cumulated.less(xs.input)
        between = jnp.where(causal(began), cumulated.between(entered), -jnp.inf)
        since = jnp.where(began < 0, cumulated.total() + before, -jnp.inf)
        now = jax.lax.stop_gradient(jnp.maximum(between.max(axis=1), since))
        # not between - now: n . q may cancel, which multiplies the rounding of exponents
        leaving = cumulated.less(now)
        weight = jnp.exp(jnp.where(causal(began), leaving.between(entered), -jnp.inf))
        kept = jnp.exp(jnp.where(began < 0, leaving.less(-before).total(), -jnp.inf))
        if (sign := cumulated.sign) is not None:
            weight, kept = weight * (sign[:, None] * sign), kept * sign
        read = products(xs.q, xs.k) * weight
        y = read @ xs.v + kept[:, None] * (xs.q @ state.matrix)
        size = read.sum(axis=1) + kept * (xs.q @ state.normaliser)
        last = weight[-1][:, None] * xs.k
        matrix = kept[-1] * state.matrix + last.T @ xs.v
        normaliser = kept[-1] * state.normaliser + last.sum(axis=0)
        return NormalisedState(matrix, normaliser, now[-1]), y / _floored(size, now)[:, None]

    def compiled(self, state, xs, starts):
        def stabilise(before, step):
            forget, entered, start = step
            before = jnp.where(start, _NOTHING, before)
            now = jnp.maximum(forget + before, entered)
            return now, (before, now)

        gates = jax.lax.stop_gradient((state.stabiliser, (xs.forget.log, xs.input)))
        last, timed = jax.lax.scan(stabilise, gates[0], (*gates[1], starts))
        # whole numbers stabilise as well, and their differences lose no digit
        before, now = map(jnp.ceil, timed)
        kept = Decay(xs.forget.log + (before - now), xs.forget.sign).value()
        entered = jnp.exp(xs.input - now)
        # what a state is multiplied by so that its stabiliser is a whole number
        rest, last_rest = (jnp.exp(m - jnp.ceil(m))[:, None] for m in (gates[0], last))
        normaliser, size = matrix.normaliser(rest * state.normaliser, starts, xs.q, xs.k, entered, kept)
        key = entered[..., None] * xs.k
        states, read = matrix.decay(rest[..., None] * state.matrix, starts, xs.q, key, xs.v, kept[..., None])
        state = NormalisedState(states / last_rest[..., None], normaliser / last_rest, last)
        return state, read / _floored(size, now)[..., None]


@jax.custom_jvp
def products(q: Float[Array, "C dk"], k: Float[Array, "C dk"]) -> Float[Array, "C C"]:
    """q k^T with up to 8 bits more than a float32 product keeps of what cancels: n . q divides, and it may
    almost be 0.

    Numbers are cut to 8 bits of the largest in their row. Products of these, and sums of up to 256 such, are
    exact in float32; what was cut off is 256 times smaller, and so is the rounding of its products."""
    q_coarse, k_coarse = _coarse(q), _coarse(k)
    return q_coarse @ k_coarse.T + (q_coarse @ (k - k_coarse).T + (q - q_coarse) @ k.T)


@products.defjvp
def _products_jvp(operands, tangents):
    (q, k), (dq, dk) = operands, tangents
    return products(q, k), dq @ k.T + q @ dk.T


def _coarse(x):
    _, exponent = jnp.frexp(jnp.abs(x).max(axis=-1, keepdims=True))
    grid = jnp.ldexp(jnp.ones((), x.dtype), exponent - 8)
    return jnp.round(x / grid) * grid


def _floored(size, stabiliser):
    """max(|n . q|, 1), divided by exp(stabiliser)."""
    return jnp.maximum(jnp.abs(size), jnp.exp(jnp.minimum(-stabiliser, 80.0)))

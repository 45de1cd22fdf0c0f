"""One decay a step: S_t = a_t S_{t-1} + k_t v_t^T, y_t = S_t^T q_t (Mamba-2's state space duality).

In a chunk that begins with the state S:

    Y = (Q K^T * D) V + diag(d) Q S,       D[t, s] = a_{s+1} ... a_t for s <= t,    d_t = a_1 ... a_t
    S' = d_C S + K^T diag(D[C, :]) V

D and d are 0 between steps of different episodes.

Source: T. Dao, A. Gu, "Transformers are SSMs", 2024, arXiv:2405.21060, section 6.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..native import matrix
from .decay import Decay
from .kernel import AbstractKernel
from .spans import Spans


class ScalarInputs(NamedTuple):
    q: Float[Array, "*T dk"]
    k: Float[Array, "*T dk"]
    v: Float[Array, "*T dv"]
    decay: Decay
    """*T"""


class ScalarDecay(AbstractKernel):
    """State (dk, dv)."""

    def init(self, dk, dv):
        return jnp.zeros((dk, dv))

    def step(self, state, x, start):
        state = x.decay.value() * jnp.where(start, 0.0, state) + x.k[:, None] * x.v
        return state, x.q @ state

    def chunk(self, state, xs, began):
        span = Spans.of(xs.decay, began)
        y = (xs.q @ xs.k.T * span.between()) @ xs.v + span.from_state()[:, None] * (xs.q @ state)
        leaving = span.to_end()[:, None] * xs.k
        return span.across() * state + leaving.T @ xs.v, y

    def compiled(self, state, xs, starts):
        return matrix.decay(state, starts, xs.q, xs.k, xs.v, xs.decay.value()[..., None])

"""Vector decay with a removal that has keys of its own: the memory of RWKV-7.

    S_t = (diag(w_t) + b_t a_t^T) S_{t-1} + k_t v_t^T,     y_t = S_t^T r_t

With u_t = S_{t-1}^T a_t this writes two values a step, b_t u_t^T and k_t v_t^T. In a chunk that begins with
the state S, with L as in decay.py and A(x, y)[t, s] = sum_c x_tc y_sc exp(...) the products of
vector_decay.py:

    (I - A(a, b)) U = A(a, k) V + (A * exp(L_{t-1})) S      s < t, exponent L_{t-1} - L_s
    Y = A(r, b) U + A(r, k) V + (R * exp(L)) S              s <= t, exponent L_t - L_s
    S' = diag(exp(L_C)) S + (B * exp(L_C - L))^T U + (K * exp(L_C - L))^T V

Source: B. Peng et al., "RWKV-7 'Goose' with Expressive Dynamic State Evolution", 2025, arXiv:2503.14456,
section 4 and appendix on the chunked form.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..native import matrix
from .decay import Began, Cumulated, Decay, causal, cumulate, limited
from .kernel import AbstractKernel
from .triangular import solve_unit_lower
from .vector_decay import STEEPEST, decayed_products, ending, from_state, signed


class VectorDeltaInputs(NamedTuple):
    r: Float[Array, "*T dk"]
    k: Float[Array, "*T dk"]
    v: Float[Array, "*T dv"]
    a: Float[Array, "*T dk"]
    b: Float[Array, "*T dk"]
    decay: Decay
    """*T dk"""


@dataclass(frozen=True)
class VectorDelta(AbstractKernel):
    """State (dk, dv). A decay below exp(-steepest) counts as exp(-steepest): the less steep, the faster."""

    steepest: float = STEEPEST

    def init(self, dk, dv):
        return jnp.zeros((dk, dv))

    def step(self, state, x, start):
        state = jnp.where(start, 0.0, state)
        decay = limited(x.decay, self.steepest).value()
        state = decay[:, None] * state + x.b[:, None] * (x.a @ state) + x.k[:, None] * x.v
        return state, x.r @ state

    def chunk(self, state, xs, began):
        cumulated = cumulate(limited(xs.decay, self.steepest), began)
        before = _before(cumulated, began)
        reads = jnp.stack([signed(xs.a, before), signed(xs.r, cumulated)])
        at = jax.tree.map(lambda *x: jnp.stack(x), before, cumulated)
        writes = jnp.stack([signed(xs.b, cumulated), signed(xs.k, cumulated)])

        def products(q, at, k):
            return decayed_products(q, at, k, cumulated, began, self.steepest)

        every = jax.vmap(jax.vmap(products, (None, None, 0)), (0, 0, None))(reads, at, writes)
        open_ = jnp.stack([causal(began, strict=True), causal(began)])
        (ab, ak), (rb, rk) = jnp.where(open_[:, None], every, 0.0)
        from_a = from_state(before, began)
        u = solve_unit_lower(-ab, ak @ xs.v + (from_a * reads[0]) @ state)
        y = rb @ u + rk @ xs.v + (from_state(cumulated, began) * reads[1]) @ state
        written = jnp.concatenate([writes[0], writes[1]])
        values = jnp.concatenate([u, xs.v])
        twice = jax.tree.map(lambda x: jnp.concatenate([x, x]), cumulated)
        return ending(twice, jnp.concatenate([began, began]), state, written, values), y

    def compiled(self, state, xs, starts):
        decay = limited(xs.decay, self.steepest).value()
        return matrix.removal(state, starts, xs.r, xs.k, xs.v, decay, xs.a, xs.b)


def _before(cumulated: Cumulated, began: Began) -> Cumulated:
    """L_{t-1} and sigma_{t-1}; 0 and 1 where an episode or the chunk begins."""
    coarse, fine, sign = jax.tree.map(lambda x: jnp.pad(x[:-1], ((1, 0), (0, 0))), cumulated)
    starts = (began == jnp.arange(len(began)))[:, None]
    sign = None if sign is None else sign.at[0].set(1.0)
    return Cumulated(jnp.where(starts, 0.0, coarse), jnp.where(starts, 0.0, fine), sign)

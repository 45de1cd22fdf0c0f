"""The delta rule: each write first removes what its key holds. With decay, and with several writes a step.

    S_t = (I - beta_t k_t k_t^T) a_t S_{t-1} + beta_t k_t v_t^T,     y_t = S_t^T q_t

With n writes a step (a product of n generalised Householders) the bracket and the write are repeated for
k_{t,1} ... k_{t,n} before q_t reads; a_t applies once, before the first. Counting writes j instead of steps,
each is S_j = a_j S_{j-1} + k_j w_j^T with the new value w_j = beta_j (v_j - a_j S_{j-1}^T k_j), so in a
chunk that begins with the state S the w are the solution of a unit lower triangular system (the WY form):

    (I + N) W = diag(beta) (V - diag(d) K S),     N = diag(beta) (K K^T * D) below the diagonal
    Y = (Q K^T * D') W + diag(d') Q S
    S' = d_C S + K^T diag(D[C, :]) W

D[j, i] = a_{i+1} ... a_j and d_j = a_1 ... a_j; D' and d' are their rows at the last write of each step.

Sources: S. Yang, B. Wang, Y. Zhang, Y. Shen, Y. Kim, "Parallelizing Linear Transformers with the Delta Rule
over Sequence Length", 2024, arXiv:2406.06484; decay: S. Yang, J. Kautz, A. Hatamizadeh, "Gated Delta
Networks", 2024, arXiv:2412.06464; products: J. Siems et al., "DeltaProduct", 2025, arXiv:2502.10297.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..native import matrix
from ..unit import unit
from .decay import Decay
from .kernel import AbstractKernel
from .spans import Spans
from .triangular import solve_unit_lower


class DeltaInputs(NamedTuple):
    q: Float[Array, "*T dk"]
    k: Float[Array, "*T n dk"]
    v: Float[Array, "*T n dv"]
    beta: Float[Array, "*T n"]
    decay: Decay | None
    """*T; None for 1"""


@dataclasses.dataclass(frozen=True)
class DeltaRule(AbstractKernel):
    """State (dk, dv); the number of writes a step is that of the inputs. With ``scales`` keys and queries are
    scaled to length 1 first."""

    scales: bool = False

    def init(self, dk, dv):
        return jnp.zeros((dk, dv))

    def step(self, state, x, start):
        x = self._scaled(x)
        state = jnp.where(start, 0.0, state)
        state = state if x.decay is None else x.decay.value() * state
        for k, v, beta in zip(x.k, x.v, x.beta, strict=True):
            state = state + k[:, None] * (beta * (v - k @ state))
        return state, x.q @ state

    def chunk(self, state, xs, began):
        xs = self._scaled(xs)
        _, n, dk = xs.k.shape
        k, v, beta = xs.k.reshape(-1, dk), xs.v.reshape(-1, xs.v.shape[-1]), xs.beta.reshape(-1)
        last = slice(n - 1, None, n)  # the last write of each step
        spans = Spans.of(_at_first(n, xs.decay), jnp.repeat(began, n))
        from_state = spans.from_state()[:, None]
        between = spans.between()
        n_matrix = jnp.tril(beta[:, None] * (k @ k.T * between), -1)
        w = solve_unit_lower(n_matrix, beta[:, None] * (v - from_state * (k @ state)))
        y = (xs.q @ k.T * between[last]) @ w + from_state[last] * (xs.q @ state)
        leaving = spans.to_end()[:, None] * k
        return spans.across() * state + leaving.T @ w, y

    def compiled(self, state, xs, starts):
        kept = jnp.ones((len(starts), 1), xs.q.dtype) if xs.decay is None else xs.decay.value()
        decays = xs.decay is not None
        return matrix.delta(self.scales, decays, state, starts, xs.q, xs.k, xs.v, xs.beta, kept)

    def writes(self, xs):
        return xs.k.shape[-2]

    def _scaled(self, x):
        return x._replace(q=unit(x.q), k=unit(x.k)) if self.scales else x


def _at_first(n: int, decay: Decay | None) -> Decay | None:
    """Decays of n writes a step: that of the step at the first write, 1 at the others."""
    if decay is None or n == 1:
        return decay

    def spread(x, neutral):
        return jnp.pad(x[:, None], ((0, 0), (0, n - 1)), constant_values=neutral).reshape(-1)

    return Decay(spread(decay.log, 0.0), None if decay.sign is None else spread(decay.sign, 1.0))

"""One decay a step for each row of the state: S_t = diag(a_t) S_{t-1} + k_t v_t^T, y_t = S_t^T q_t (GLA).

In a chunk that begins with the state S, with L_t (dk,) as in decay.py:

    A[t, s] = sum_c q_tc exp(L_tc - L_sc) k_sc,  s <= t
    Y = A V + (Q * exp(L)) S
    S' = diag(exp(L_C)) S + (K * exp(L_C - L))^T V

A is no product of two matrices in floating point: exp(-L_s) overflows. But with a moment r between s and t
it is, since both exponents of (q_t exp(L_t - L_r)) . (k_s exp(L_r - L_s)) are negative. So a chunk is
halved, the later half meets the earlier one through r at the border, and each half is treated alike, down to
blocks so short that r may be their first step.

Source: S. Yang, B. Wang, Y. Shen, R. Panda, Y. Kim, "Gated Linear Attention Transformers with
Hardware-Efficient Training", 2023, arXiv:2312.06635, section 4 (which cuts a chunk into equal pieces instead
of halves).
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..native import matrix
from .decay import Began, Cumulated, Decay, causal, cumulate, limited
from .kernel import AbstractKernel

STEEPEST = 20.0
_SAFE = 60.0  # exp of +-60 times a number of ordinary size stays a normal float32


class VectorInputs(NamedTuple):
    q: Float[Array, "*T dk"]
    k: Float[Array, "*T dk"]
    v: Float[Array, "*T dv"]
    decay: Decay
    """*T dk"""


@dataclass(frozen=True)
class VectorDecay(AbstractKernel):
    """State (dk, dv). A decay below exp(-steepest) counts as exp(-steepest): the less steep, the faster."""

    steepest: float = STEEPEST

    def init(self, dk, dv):
        return jnp.zeros((dk, dv))

    def step(self, state, x, start):
        decay = limited(x.decay, self.steepest).value()
        state = decay[:, None] * jnp.where(start, 0.0, state) + x.k[:, None] * x.v
        return state, x.q @ state

    def chunk(self, state, xs, began):
        cumulated = cumulate(limited(xs.decay, self.steepest), began)
        q, k = signed(xs.q, cumulated), signed(xs.k, cumulated)
        read = jnp.where(
            causal(began), decayed_products(q, cumulated, k, cumulated, began, self.steepest), 0.0
        )
        y = read @ xs.v + (from_state(cumulated, began) * q) @ state
        return ending(cumulated, began, state, k, xs.v), y

    def compiled(self, state, xs, starts):
        return matrix.decay(state, starts, xs.q, xs.k, xs.v, limited(xs.decay, self.steepest).value())


def signed(x: Float[Array, "C d"], cumulated: Cumulated) -> Float[Array, "C d"]:
    """x times sigma, which leaves sigma_t sigma_s in every product of two."""
    return x if cumulated.sign is None else x * cumulated.sign


def from_state(cumulated: Cumulated, began) -> Float[Array, "C d"]:
    """|a_1 ... a_t|, 0 where the state before the chunk does not reach t."""
    return jnp.exp(jnp.where((began < 0)[:, None], cumulated.total(), -jnp.inf))


def ending(cumulated: Cumulated, began, state, k, v) -> Float[Array, "dk dv"]:
    """The state after a chunk that wrote ``k`` (signed) and ``v``."""
    to_end = jnp.exp(jnp.where((began == began[-1])[:, None], cumulated.last() - cumulated, -jnp.inf))
    end = from_state(cumulated, began)[-1][:, None] * state + (to_end * k).T @ v
    return end if cumulated.sign is None else cumulated.sign[-1][:, None] * end


def decayed_products(
    q: Float[Array, "C d"],
    at: Cumulated,
    k: Float[Array, "C d"],
    cumulated: Cumulated,
    began: Began,
    steepest: float,
) -> Float[Array, "C C"]:
    """A[t, s] = sum_c q_tc exp(at_tc - L_sc) k_sc for s <= t of one episode, at_t being L_t or L_{t-1}.

    Other entries are finite and mean nothing.
    """
    size, block = len(q), 1
    while block < size and (2 * block - 1) * steepest <= _SAFE:
        block *= 2
    padded = block
    while padded < size:
        padded *= 2
    began = jnp.pad(began, (0, padded - size), mode="edge")

    def cut(tree, parts):
        def one(x):
            x = x if len(x) == padded else jnp.pad(x, ((0, padded - size), (0, 0)), mode="edge")
            # no axis of one part: where it is one of seven, XLA's CPU compiler (jaxlib 0.10.2) makes of sums
            # of products a program that crashes
            return x.reshape(*(parts,) * (parts > 1), -1, *x.shape[1:])

        return jax.tree.map(one, tree)

    def meet(q, above, k, below):
        return (q * jnp.exp(above)) @ (k * jnp.exp(below)).mT

    every = (q, at._replace(sign=None), k, cumulated._replace(sign=None), began)
    q_, at_, k_, cumulated_, began_ = cut(every, padded // block)
    first = cut(jnp.arange(padded), padded // block)[..., :1]
    # the block's first step, or the beginning of an episode that began in the block, where L is 0
    moment = jax.tree.map(lambda x: jnp.where((began_ < first)[..., None], x[..., :1, :], 0.0), cumulated_)
    products = meet(q_, at_ - moment, k_, moment - cumulated_)
    while block < padded:
        halves = cut(every, padded // block)
        k_, cumulated_, began_ = (jax.tree.map(lambda x: x[0::2], part) for part in halves[2:])
        q_, at_, late_began = (jax.tree.map(lambda x: x[1::2], halves[i]) for i in (0, 1, 4))
        border, episode = jax.tree.map(lambda x: x[:, -1:], (cumulated_, began_))
        above = jnp.where((late_began == episode)[..., None], at_ - border, -jnp.inf)
        below = jnp.where((began_ == episode)[..., None], border - cumulated_, -jnp.inf)
        left = meet(q_, above, k_, below)
        upper = jnp.concatenate([products[0::2], jnp.zeros_like(left)], axis=2)
        products = jnp.concatenate([upper, jnp.concatenate([left, products[1::2]], axis=2)], axis=1)
        block *= 2
    return products.reshape(padded, padded)[:size, :size]

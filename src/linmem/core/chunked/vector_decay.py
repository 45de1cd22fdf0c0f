"""One decay a step for each row of the state: S_t = diag(a_t) S_{t-1} + k_t v_t^T, y_t = S_t^T q_t (GLA).

In a chunk that begins with the state S, with L_t (dk,) as in decay.py:

    A[t, s] = sum_c q_tc exp(L_tc - L_sc) k_sc,  s <= t
    Y = A V + (Q * exp(L)) S
    S' = diag(exp(L_C)) S + (K * exp(L_C - L))^T V

A is no product of two matrices in floating point: exp(-L_s) overflows. But with a moment r between s and t it is, since
both exponents of (q_t exp(L_t - L_r)) . (k_s exp(L_r - L_s)) are negative. So a chunk is halved, the later half meets
the earlier one through r at the border, and each half is treated alike, down to blocks so short that exponents of
either sign do no harm.

Source: S. Yang, B. Wang, Y. Shen, R. Panda, Y. Kim, "Gated Linear Attention Transformers with Hardware-Efficient
Training", 2023, arXiv:2312.06635, section 4 (which cuts a chunk into equal pieces instead of halves).
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .decay import Cumulated, Decay, cumulate
from .kernel import AbstractKernel
from .spans import causal

STEEPEST = 20.0
_SAFE = 40.0  # exp of +-40 times a number of ordinary size stays a normal float32


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
        cumulated = cumulate(limited(xs.decay, self.steepest))
        q, k = signed(xs.q, cumulated), signed(xs.k, cumulated)
        read = decayed_products(q, cumulated, k, cumulated, self.steepest)
        read = jnp.where(causal(began), read, 0.0)
        y = read @ xs.v + (from_state(cumulated, began) * q) @ state
        return ending(cumulated, began, state, k, xs.v), y

    def length(self, xs):
        return 32


def limited(decay: Decay, steepest: float) -> Decay:
    return decay._replace(log=jnp.maximum(decay.log, -steepest))


def signed(x: Float[Array, "C d"], cumulated: Cumulated) -> Float[Array, "C d"]:
    """x times sigma, which leaves sigma_t sigma_s in every product of two."""
    return x if cumulated.sign is None else x * cumulated.sign


def from_state(cumulated: Cumulated, began) -> Float[Array, "C d"]:
    """|a_1 ... a_t|, 0 where the state before the chunk does not reach t."""
    return jnp.exp(jnp.where((began < 0)[:, None], cumulated.total(), -jnp.inf))


def ending(cumulated: Cumulated, began, state, k, v) -> Float[Array, "dk dv"]:
    """The state after a chunk that wrote ``k`` (signed) and ``v``."""
    to_end = jnp.exp(jnp.where((began == began[-1])[:, None], cumulated[-1] - cumulated, -jnp.inf))
    end = from_state(cumulated, began)[-1][:, None] * state + (to_end * k).T @ v
    return end if cumulated.sign is None else cumulated.sign[-1][:, None] * end


def decayed_products(
    q: Float[Array, "C d"], at: Cumulated, k: Float[Array, "C d"], cumulated: Cumulated, steepest: float
) -> Float[Array, "C C"]:
    """A[t, s] = sum_c q_tc exp(at_tc - L_sc) k_sc for s <= t, at_t being L_t or L_{t-1}; meaningless above."""
    size = len(q)
    block = 1
    while block < size and block * steepest <= _SAFE:  # a block of 2 b has exponents up to b * steepest
        block *= 2
    padded = block
    while padded < size:
        padded *= 2

    def cut(tree, parts):
        return jax.tree.map(
            lambda x: jnp.pad(x, ((0, padded - size), (0, 0)), "edge").reshape(parts, -1, x.shape[-1]), tree
        )

    def meet(q, at, k, cumulated, moment):
        q = q * jnp.exp(at - moment)
        k = k * jnp.exp(moment - cumulated)
        return q @ jnp.swapaxes(k, 1, 2)

    all_ = (q, at._replace(sign=None), k, cumulated._replace(sign=None))
    whole = cut(all_, padded // block)
    products = meet(*whole, jax.tree.map(lambda x: x[:, block // 2, None], whole[3]))
    while block < padded:
        halves = cut(all_, padded // block)
        early, late = (jax.tree.map(lambda x: x[half::2], halves) for half in (0, 1))  # noqa: B023
        border = jax.tree.map(lambda x: x[:, -1:], early[3])
        below = meet(late[0], late[1], early[2], early[3], border)
        upper = jnp.concatenate([products[0::2], jnp.zeros_like(below)], axis=2)
        products = jnp.concatenate([upper, jnp.concatenate([below, products[1::2]], axis=2)], axis=1)
        block *= 2
    return products[0, :size, :size]

"""S7: S5 with a real state whose transition, input and output matrices depend on the input.

    w_k = w + W_w u_k,   Lambda_k = 1 - 1 / (w_k^2 + 1/2)          in (-1, 1)
    x_k = Lambda_k * x_{k-1} + B_k u_k + E u_k,     y_k = C_k x_k + D_k * u_k

| paper          | here            | shape               | meaning                                        |
|----------------|-----------------|---------------------|------------------------------------------------|
| w, W_w         | base, rates     | (p,), (in, p)       | the transition before reparametrisation        |
| B_k            | b               | (in, p, in)         | input matrix, linear in u_k; times in          |
| E              | drift           | (in, p)             | input-dependent bias of the state              |
| C_k            | c               | (in, in, p)         | output matrix, linear in u_k; times root(in p) |
| D_k            | d               | (in, in)            | feedthrough, linear in u_k                     |

The map w -> 1 - 1 / (w^2 + 1/2) keeps the recurrence stable and the gradient in w below a bound that does
not grow with time.

Source: T. Soydan, N. Zubic, N. Messikommer, S. Mishra, D. Scaramuzza, "S7: Selective and Simplified State
Space Layers for Sequence Modeling", 2024, arXiv:2410.03464; where the paper leaves shapes open, a public
reimplementation (SforAiDl/lrnnx, lrnnx/models/ltv/s7.py) was followed: real states, every matrix a linear
function of the input.
Departures: w begins so that 1 - Lambda is log-uniform in [0.01, 1.9] (the paper begins from HiPPO's real
part, which is the same in all entries), and B and E so that every state begins with variance 1. b and c are
kept at size 1, so that a step of Adam, which has one size for all weights, moves sums over in^2 and in p
products no further than those over in: kept as B_k and C_k, they let PPO fail on RingWorld with some seeds.
No projection of the input before the layer; the gate after it is that of the residual block.
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..core.algebra import AbstractAlgebra, Diagonal, Element
from ..core.projection import project
from .base import AbstractLinearMemory
from .gates import projection


class S7(AbstractLinearMemory):
    """Features (size,) for inputs (size,), from a state of ``state_size``."""

    algebra: ClassVar[AbstractAlgebra] = Diagonal()

    base: Float[Array, " p"]
    rates: Float[Array, "in p"]
    b: Float[Array, "in p in"]
    drift: Float[Array, "in p"]
    c: Float[Array, "in in p"]
    d: Float[Array, "in in"]
    out_size: int = eqx.field(static=True)

    def __init__(self, size: int, state_size: int, *, key: PRNGKeyArray):
        keys = jax.random.split(key, 6)
        gap = jnp.exp(jax.random.uniform(keys[0], (state_size,), minval=jnp.log(0.01), maxval=jnp.log(1.9)))
        self.base = jnp.sqrt(1 / gap - 0.5)
        self.rates = projection(keys[1], size, state_size)
        scale = jnp.sqrt(gap * (2 - gap) / 2)  # 1 - Lambda^2, shared by two inputs: states of variance 1
        self.b = scale[:, None] * jax.random.normal(keys[2], (size, state_size, size))
        self.drift = scale * projection(keys[3], size, state_size)
        self.c = jax.random.normal(keys[4], (size, size, state_size))
        self.d = projection(keys[5], size, size)
        self.out_size = size

    def init(self):
        return jnp.zeros_like(self.base)

    def encode(self, x, start):
        w = self.base + project(x, self.rates)
        entering = jnp.tensordot(x, self.b, 1) @ x / len(x) + project(x, self.drift)
        return Element(1 - 1 / (w**2 + 0.5), entering)

    def decode(self, h, x):
        return jnp.tensordot(x, self.c, 1) @ h / (len(x) * len(h)) ** 0.5 + (x @ self.d) * x

    @classmethod
    def example(cls, key, steps):
        return cls(3, 5, key=key), jax.random.normal(key, (steps, 3))

    def reference(self, xs, starts):
        f = lambda a: np.asarray(a, np.float64)  # noqa: E731
        x, out = np.zeros(len(self.base)), []
        for u, start in zip(f(xs), starts, strict=True):
            x = np.zeros_like(x) if start else x
            w = f(self.base) + f(self.rates).T @ u
            Lambda = np.diag(1 - 1 / (w**2 + 0.5))
            B = sum(u_i * B_i / len(u) for u_i, B_i in zip(u, f(self.b), strict=True))
            C = sum(u_i * C_i / np.sqrt(len(u) * len(x)) for u_i, C_i in zip(u, f(self.c), strict=True))
            D = np.diag(f(self.d).T @ u)
            x = Lambda @ x + B @ u + f(self.drift).T @ u
            out.append(C @ x + D @ u)
        return np.stack(out)

"""LSSL: a dense state space for each channel, with one learned state matrix and timescales of their own.

    x'(t) = A x(t) + B u(t),         y(t) = C x(t) + D u(t)                               continuous
    x_k = Abar x_{k-1} + Bbar u_k,   K_l = C Abar^l Bbar                                  per step

    Abar = (I - alpha Delta A)^-1 (I + (1 - alpha) Delta A),  Bbar = (I - alpha Delta A)^-1 Delta B

| paper  | here           | shape       | meaning                                                          |
|--------|----------------|-------------|------------------------------------------------------------------|
| A, B   | a, b           | (n, n), (n,) | shared by the channels; begin as a HiPPO state space            |
| C, D   | c, d           | (h, n), (h,) |                                                                 |
| Delta  | log_step       | (h,)        | timescales, log-uniform in [0.001, 0.1] at the beginning         |
| alpha  | alpha          |             | 0 Euler, 1/2 Tustin, 1 backward Euler                            |
| K      | kernel(length) | (length, h) | by the Krylov vectors Abar^l Bbar, whose count doubles           |

Source: A. Gu, I. Johnson, K. Goel, K. Saab, T. Dao, A. Rudra, C. Ré, "Combining Recurrent, Convolutional, and
Continuous-time Models with Linear State-Space Layers", 2021, arXiv:2110.13985, sections 2, 3.1 and 4.2.
Departures: A is learned as a dense matrix, not as P (D + T^-1) Q with tridiagonal T, so a step costs n^2 for
each channel (and, like every call, an inversion for each channel). One output for each channel.
"""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..core.algebra import AbstractAlgebra, BlockDiagonal, Element
from ..core.checkpointed import checkpointed_scan
from ..core.matrices import inverse
from .base import ONCE, PER_STEP, AbstractLinearMemory
from .convolution import convolve
from .diagonal import log_uniform
from .hippo import Hippo, legs


class LSSL(AbstractLinearMemory):
    """Features (size,) for inputs (size,), from ``state_size`` real state dimensions for each."""

    without_blocks: ClassVar[bool] = True
    algebra: ClassVar[AbstractAlgebra] = BlockDiagonal()

    a: Float[Array, "n n"]
    b: Float[Array, " n"]
    c: Float[Array, "h n"]
    d: Float[Array, " h"]
    log_step: Float[Array, " h"]
    out_size: int = eqx.field(static=True)
    alpha: float = eqx.field(static=True)

    def __init__(
        self,
        size: int,
        state_size: int,
        *,
        key: PRNGKeyArray,
        init: Callable[[int], Hippo] = legs,
        alpha: float = 0.5,
    ):
        c_key, d_key, step_key = jax.random.split(key, 3)
        hippo = init(state_size)
        self.a, self.b = jnp.asarray(hippo.a, jnp.float32), jnp.asarray(hippo.b, jnp.float32)
        self.c = jax.random.normal(c_key, (size, state_size)) / np.sqrt(state_size)
        self.d = jax.random.normal(d_key, (size,))
        self.log_step = log_uniform(step_key, (size,), (0.001, 0.1))
        self.out_size, self.alpha = size, alpha

    def system(self) -> tuple[Float[Array, "h n n"], Float[Array, "h n"]]:
        """Abar and Bbar of each channel."""
        one = jnp.eye(len(self.b), dtype=self.a.dtype)

        def discretise(step):
            ahead = inverse(one - self.alpha * step * self.a)
            return ahead @ (one + (1 - self.alpha) * step * self.a), ahead @ (step * self.b)

        return jax.vmap(discretise)(jnp.exp(self.log_step))

    def init(self):
        return jnp.zeros(self.c.shape, self.c.dtype)

    def encode(self, x, start):
        transition, into = self.system()
        return Element(transition, into * x[:, None])

    def time_axes(self):
        return Element(ONCE, PER_STEP)

    def decode(self, h, x):
        return jnp.sum(self.c * h, axis=1) + self.d * x

    def unroll(self, state, xs, starts):
        transition, into = self.system()

        def body(h, timed):
            x, start = timed
            h = self.algebra.act(Element(transition, into * x[:, None]), jnp.where(start, 0.0, h))
            return h, self.decode(h, x)

        return checkpointed_scan(body, state, (xs, starts))

    def kernel(self, length: int) -> Float[Array, "length h"]:
        """The response to an impulse, without the feedthrough D."""
        power, into = self.system()
        krylov = into[:, :, None]
        while krylov.shape[-1] < length:
            krylov = jnp.concatenate([krylov, power @ krylov], axis=-1)
            power = power @ power
        return jnp.einsum("hn,hnl->lh", self.c, krylov[..., :length])

    def convolve(self, xs: Float[Array, "T h"]) -> Float[Array, "T h"]:
        """The features of a sequence from a zero state without starts inside."""
        return convolve(self.kernel(len(xs)), xs) + self.d * xs

    @classmethod
    def example(cls, key, steps):
        return cls(3, 5, key=key), jax.random.normal(key, (steps, 3))

    def reference(self, xs, starts):
        f = lambda a: np.asarray(a, np.float64)  # noqa: E731
        A, B, C, D, alpha = f(self.a), f(self.b), f(self.c), f(self.d), self.alpha
        us, Delta, one, out = f(xs), np.exp(f(self.log_step)), np.eye(len(B)), np.zeros(xs.shape)
        for h in range(us.shape[1]):
            ahead = np.linalg.inv(one - alpha * Delta[h] * A)
            Abar, Bbar = ahead @ (one + (1 - alpha) * Delta[h] * A), ahead @ (Delta[h] * B)
            x = np.zeros(len(B))
            for k, start in enumerate(starts):
                x = np.zeros_like(x) if start else x
                x = Abar @ x + Bbar * us[k, h]
                out[k, h] = C[h] @ x + D[h] * us[k, h]
        return out

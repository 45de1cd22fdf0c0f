"""LSSL: a dense state space for each channel, with one learned, structured state matrix and timescales of
their own.

    x'(t) = A x(t) + B u(t),   y(t) = C x(t) + D u(t),   A = P (D + T^-1) Q               continuous
    x_k = Abar x_{k-1} + Bbar u_k,   K_l = C Abar^l Bbar                                  per step

    Abar = (I - alpha Delta A)^-1 (I + (1 - alpha) Delta A),  Bbar = (I - alpha Delta A)^-1 Delta B

P, Q and the D inside A are diagonal and T is tridiagonal, so A x and the inverse cost O(n) each:

    (I - alpha Delta A) x = v  is  (G T - alpha Delta P Q) z = Q v,  x = Q^-1 T z,  G = I - alpha Delta P D Q

| paper   | here           | shape       | meaning                                                          |
|---------|----------------|-------------|------------------------------------------------------------------|
| P, D, Q | p, inner, q    | (n,)        | shared by the channels, as T and B are                           |
| T       | t              | (3, n)      | below, on and above the diagonal; two corners mean nothing       |
| B       | b              | (n,)        | begins as A does, with a HiPPO state space                       |
| C, D    | c, d           | (h, n), (h,) |                                                                 |
| Delta   | log_step       | (h,)        | timescales, log-uniform in [0.001, 0.1] at the beginning         |
| alpha   | alpha          |             | 0 Euler, 1/2 Tustin, 1 backward Euler                            |
| K       | kernel(length) | (length, h) | by the Krylov vectors Abar^l Bbar, whose count doubles           |

Source: A. Gu, I. Johnson, K. Goel, K. Saab, T. Dao, A. Rudra, C. Ré, "Combining Recurrent, Convolutional, and
Continuous-time Models with Linear State-Space Layers", 2021, arXiv:2110.13985, sections 2, 3.1 and 4.2.
Departures: only ``step`` uses the structure; whole sequences take the dense Abar, computed once. One output
for each channel.
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
from ..core.matrices import tridiagonal_product, tridiagonal_solve
from .base import ONCE, PER_STEP, AbstractLinearMemory
from .convolution import convolve
from .diagonal import log_uniform
from .hippo import Hippo, legs


class LSSL(AbstractLinearMemory):
    """Features (size,) for inputs (size,), from ``state_size`` real state dimensions for each.

    Raises ValueError for an ``init`` whose matrix has no such structure: LegS and LegT have.
    """

    without_blocks: ClassVar[bool] = True
    algebra: ClassVar[AbstractAlgebra] = BlockDiagonal()

    p: Float[Array, " n"]
    inner: Float[Array, " n"]
    q: Float[Array, " n"]
    t: Float[Array, "3 n"]
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
        self.p, self.inner, self.q, self.t, self.b = (
            jnp.asarray(a, jnp.float32) for a in (*structure(hippo.a), hippo.b)
        )
        self.c = jax.random.normal(c_key, (size, state_size)) / np.sqrt(state_size)
        self.d = jax.random.normal(d_key, (size,))
        self.log_step = log_uniform(step_key, (size,), (0.001, 0.1))
        self.out_size, self.alpha = size, alpha

    def _advance(self, x: Float[Array, " n"], u: Float[Array, ""], step: Float[Array, ""]):
        """x_k of one channel from x_{k-1} and u_k."""
        p, inner, q, t = self.p, self.inner, self.q, self.t
        ahead, behind = self.alpha * step, (1 - self.alpha) * step
        ax = p * (inner * q * x + tridiagonal_solve(t, q * x))
        scaled = (1 - ahead * p * inner * q) * t
        z = tridiagonal_solve(scaled.at[1].add(-ahead * p * q), q * (x + behind * ax + step * self.b * u))
        return tridiagonal_product(t, z) / q

    def system(self) -> tuple[Float[Array, "h n n"], Float[Array, "h n"]]:
        """Abar and Bbar of each channel."""
        units, none = jnp.eye(len(self.b), dtype=self.b.dtype), jnp.zeros_like(self.b)
        advance_columns = jax.vmap(self._advance, (1, None, None), 1)

        def discretise(step):  # Abar is where unit states go without input, Bbar where none goes with input 1
            return advance_columns(units, none[0], step), self._advance(none, units[0, 0], step)

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

    def step(self, state, x, start):
        h = jax.vmap(self._advance)(jnp.where(start, 0.0, state), x, jnp.exp(self.log_step))
        return h, self.decode(h, x)

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
        B, C, D, alpha = f(self.b), f(self.c), f(self.d), self.alpha
        T = np.diag(f(self.t)[0, 1:], -1) + np.diag(f(self.t)[1]) + np.diag(f(self.t)[2, :-1], 1)
        A = np.diag(f(self.p)) @ (np.diag(f(self.inner)) + np.linalg.inv(T)) @ np.diag(f(self.q))
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


def structure(a: Float[np.ndarray, "n n"]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """P, D, Q and T (as ``LSSL`` has them) with P (D + T^-1) Q = a, whose entries below the diagonal are
    -sqrt((2i + 1) (2j + 1)). Raises ValueError if there is no such T."""
    root = np.sqrt(2 * np.arange(len(a)) + 1.0)
    inside = -a / np.outer(root, root)
    inner = np.diag(inside) - 1
    dense = np.linalg.inv(inside - np.diag(inner))
    t = np.stack([np.append(0, np.diag(dense, -1)), np.diag(dense), np.append(np.diag(dense, 1), 0)])
    if not np.allclose(np.tril(np.triu(dense, -1), 1), dense):
        raise ValueError("this init is no P (D + T^-1) Q with a tridiagonal T, as LegS and LegT are")
    return -root, inner, root, t

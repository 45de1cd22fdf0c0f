"""Rational transfer function: each channel is filtered by a learned b(z) / a(z).

    H(z) = h_0 + (b_1 z^-1 + ... + b_n z^-n) / (1 + a_1 z^-1 + ... + a_n z^-n)

Stepped, in companion form with the state x = (v_{t-1}, ..., v_{t-n}):

    y_t = b . x_t + h_0 u_t,   v_t = u_t - a . x_t,   x_{t+1} = (v_t, v_{t-1}, ..., v_{t-n+1})

Whole, as a convolution y = k * u with the impulse response k of H, from the coefficients by FFT: no state is
ever formed, and the cost does not depend on n.

| paper | here        | shape   | meaning                                |
|-------|-------------|---------|----------------------------------------|
| a     | denominator | (d, n)  | without the leading 1; 0 in the beginning |
| b     | numerator   | (d, n)  | 0 in the beginning                     |
| h_0   | d           | (d,)    | feedthrough                            |
| x     | h           | (d, n)  | companion state, newest first          |

Source: R. N. Parnichkun, S. Massaroli, A. Moro, J. T. H. Smith, et al., "State-Free Inference of State-Space
Models: The Transfer Function Approach", 2024, arXiv:2405.06147, sections 3 and 4 (and the authors' code for
the step and the initial values).
Departures: the paper divides the spectra of b and a at L roots of unity, with one FFT, which folds the
kernel's tail beyond L back into it, and corrects b by I - A^L (a matrix power) before stepping. Here the
kernel is the power series b / a, by Newton's iteration on FFTs: nothing is folded, both forms read the same
coefficients, and the cost stays O(L log L). As in the paper nothing keeps the poles inside the unit circle
but the zero start, unless ``stable``: then a is divided by sum_i |a_i| where that exceeds 1, and no pole
leaves it. The free form can diverge in training where sequences are long.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .base import AbstractMemory
from .convolution import convolve
from .power_series import quotient


class RTF(AbstractMemory):
    """Features (size,) for inputs (size,), each channel a filter of order ``state_size``."""

    numerator: Float[Array, "d n"]
    denominator: Float[Array, "d n"]
    d: Float[Array, " d"]
    stable: bool = eqx.field(static=True)

    def __init__(self, size: int, state_size: int, stable: bool = False, *, key: PRNGKeyArray):
        self.numerator = self.denominator = jnp.zeros((size, state_size))
        self.d = jax.random.normal(key, (size,))
        self.stable = stable

    @property
    def out_size(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return len(self.d)

    def init(self):
        return jnp.zeros_like(self.numerator)

    def _below(self):
        """a."""
        if not self.stable:
            return self.denominator
        return self.denominator / jnp.maximum(1, jnp.sum(jnp.abs(self.denominator), axis=1, keepdims=True))

    def step(self, state, x, start):
        h = jnp.where(start, 0.0, state)
        y = jnp.sum(self.numerator * h, axis=1) + self.d * x
        newest = x - jnp.sum(self._below() * h, axis=1)
        return jnp.concatenate([newest[:, None], h[:, :-1]], axis=1), y

    def unroll(self, state, xs, starts):
        return jax.lax.scan(lambda h, timed: self.step(h, *timed), state, (xs, starts))

    def kernel(self, length: int) -> Float[Array, "length d"]:
        """The impulse response k_0, ..., k_{length-1} of each channel."""
        below = jnp.concatenate([jnp.ones_like(self.d)[None], self._below().T])
        above = jnp.concatenate([jnp.zeros_like(self.d)[None], self.numerator.T])
        return quotient(above, below, length).at[0].add(self.d)

    def convolve(self, xs: Float[Array, "T d"]) -> Float[Array, "T d"]:
        """The features of a whole sequence that begins at its first step and has no other start: what
        ``unroll`` gives, at a cost that does not depend on the order of the filters."""
        return convolve(self.kernel(len(xs)), xs)

    @classmethod
    def example(cls, key, steps):
        keys = jax.random.split(key, 4)
        memory = cls(3, 5, key=keys[0])
        coefficients = (
            jax.random.normal(keys[1], (3, 5)),
            jax.random.uniform(keys[2], (3, 5), minval=-0.19, maxval=0.19),  # sum |a| < 1: stable
        )
        memory = eqx.tree_at(lambda m: (m.numerator, m.denominator), memory, coefficients)
        return memory, jax.random.normal(keys[3], (steps, 3))

    def reference(self, xs, starts):
        a, b, h_0 = (np.asarray(x, np.float64) for x in (self.denominator, self.numerator, self.d))
        if self.stable:
            a = np.array([row / max(1, np.abs(row).sum()) for row in a])
        d, n = a.shape
        A = np.stack([np.vstack([-row, np.eye(n - 1, n)]) for row in a])  # companion matrices
        B = np.eye(n)[0]
        x, out = np.zeros((d, n)), []
        for u, start in zip(np.asarray(xs, np.float64), starts, strict=True):
            x = np.zeros_like(x) if start else x
            out.append(np.einsum("dn,dn->d", b, x) + h_0 * u)
            x = np.einsum("dij,dj->di", A, x) + B * u[:, None]
        return np.stack(out)

"""LRU: the linear recurrent unit, one complex diagonal state for all channels, made directly in steps.

    h_k = lambda * h_{k-1} + gamma * (B u_k),    lambda = exp(-exp(nu) + i exp(theta))
    y_k = Re(C h_k) + D u_k

| paper     | here       | shape      | meaning                                                              |
|-----------|------------|------------|----------------------------------------------------------------------|
| nu        | nu_log     | (n,)       | -log |lambda|, in logarithms: stable whatever is learned             |
| theta     | theta_log  | (n,)       | the phase, in logarithms                                             |
| gamma     | gamma_log  | (n,)       | begins at sqrt(1 - |lambda|^2), so that states have the inputs' size |
| B         | b          | (2, n, in) | real and imaginary part, variance 1 / (2 in) each                    |
| C         | c          | (2, in, n) | real and imaginary part, variance 1 / n each                         |
| D         | d          | (in,)      | feedthrough                                                          |

Source: A. Orvieto, S. L. Smith, A. Gu, A. Fernando, C. Gulcehre, R. Pascanu, S. De, "Resurrecting Recurrent
Neural Networks for Long Sequences", 2023, arXiv:2303.06349, sections 3.2-3.4 and appendix A: lambda begins
uniform on the ring r_min <= |lambda| <= r_max with phase in [0, max_phase].
Departures: in and out sizes are equal.
"""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..core.algebra import AbstractAlgebra, Diagonal, Element
from .base import ONCE, PER_STEP, AbstractLinearMemory
from .diagonal import free, ring_between
from .products import complex_times, real_of_times


class LRU(AbstractLinearMemory):
    """Features (size,) for inputs (size,), from ``state_size`` complex state dimensions."""

    algebra: ClassVar[AbstractAlgebra] = Diagonal()

    nu_log: Float[Array, " n"]
    theta_log: Float[Array, " n"]
    gamma_log: Float[Array, " n"]
    b: Float[Array, "2 n in"]
    c: Float[Array, "2 in n"]
    d: Float[Array, " in"]
    out_size: int = eqx.field(static=True)
    hold: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        size: int,
        state_size: int,
        *,
        key: PRNGKeyArray,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 2 * np.pi,
        hold: Callable[[Array], Array] = free,
    ):
        """r_min, r_max, max_phase: the ring on which lambda begins. hold: of ``diagonal.CHANNELS``."""
        ring_key, b_key, c_key, d_key = jax.random.split(key, 4)
        log_lambda = ring_between(r_min, r_max, max_phase)(2 * state_size, ring_key).eigenvalues
        self.nu_log, self.theta_log = jnp.log(-log_lambda.real), jnp.log(log_lambda.imag)
        self.gamma_log = 0.5 * jnp.log(-jnp.expm1(2 * log_lambda.real))
        self.b = jax.random.normal(b_key, (2, state_size, size)) * np.sqrt(0.5 / size)
        self.c = jax.random.normal(c_key, (2, size, state_size)) * np.sqrt(1 / state_size)
        self.d = jax.random.normal(d_key, (size,))
        self.out_size, self.hold = size, hold

    def init(self):
        return jnp.zeros(self.nu_log.shape, jnp.result_type(self.nu_log, jnp.complex64))

    def encode(self, x, start):
        transition = jnp.exp(jax.lax.complex(-jnp.exp(self.nu_log), jnp.exp(self.theta_log)))
        scaled = jnp.exp(self.gamma_log)[:, None] * self.b
        return Element(self.hold(transition), complex_times(scaled, x))

    def time_axes(self):
        return Element(ONCE, PER_STEP)

    def decode(self, h, x):
        return real_of_times(self.c, h) + self.d * x

    @classmethod
    def example(cls, key, steps):
        return cls(3, 5, key=key), jax.random.normal(key, (steps, 3))

    def reference(self, xs, starts):
        f = lambda a: np.asarray(a, np.float64)  # noqa: E731
        lam = np.exp(-np.exp(f(self.nu_log)) + 1j * np.exp(f(self.theta_log)))
        gamma, D = np.exp(f(self.gamma_log)), f(self.d)
        B, C = f(self.b[0]) + 1j * f(self.b[1]), f(self.c[0]) + 1j * f(self.c[1])
        h, out = np.zeros(len(lam), complex), []
        for u, start in zip(f(xs), starts, strict=True):
            h = np.zeros_like(h) if start else h
            h = lam * h + gamma * (B @ u)
            out.append((C @ h).real + D * u)
        return np.stack(out)

"""S5: a diagonal state space with one complex state for all channels, discretised by zero-order hold.

    x'(t) = Lambda x(t) + B u(t),   y(t) = 2 Re(C x(t)) + D u(t)                         continuous
    x_k = A x_{k-1} + Bbar u_k,     A = exp(Lambda Delta),  Bbar = Lambda^-1 (A - I) B    per step

| paper  | here                 | shape     | meaning                                                    |
|--------|----------------------|-----------|------------------------------------------------------------|
| Lambda | log_decay, frequency | (p,) each | -exp(log_decay) + i frequency; half of the conjugate pairs |
| B      | b_real, b_imag       | (p, in)   | input matrix                                               |
| C      | c_real, c_imag       | (out, p)  | output matrix                                              |
| D      | d                    | (in,)     | feedthrough, per channel                                   |
| Delta  | log_step             | (p,)      | timescales, log-uniform in [0.001, 0.1] at the beginning   |

Source: J. T. H. Smith, A. Warrington, S. W. Linderman, "Simplified State Space Layers for Sequence Modeling",
2023, arXiv:2208.04933, eqs. 1-6 and appendix B.1; starts inside the scan as in C. Lu et al., "Structured
State Space Models for In-Context Reinforcement Learning", 2023, arXiv:2303.03982.
Initialisation: Lambda is the spectrum of the normal part of HiPPO-LegS (the matrix with -1/2 on the diagonal
and -+ sqrt((n + 1/2)(k + 1/2)) off it), B and C are random matrices turned into its eigenbasis.
Departures: Re Lambda is kept negative by the exponential (the paper clips it); in and out sizes are equal.
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..core.algebra import AbstractAlgebra, Diagonal, Element
from .base import ONCE, PER_STEP, AbstractLinearMemory
from .hippo import hippo_normal


class S5(AbstractLinearMemory):
    """Features (size,) for inputs (size,), from ``state_size`` real state dimensions (an even number)."""

    algebra: ClassVar[AbstractAlgebra] = Diagonal()

    log_decay: Float[Array, " p"]
    frequency: Float[Array, " p"]
    b_real: Float[Array, "p in"]
    b_imag: Float[Array, "p in"]
    c_real: Float[Array, "in p"]
    c_imag: Float[Array, "in p"]
    d: Float[Array, " in"]
    log_step: Float[Array, " p"]
    out_size: int = eqx.field(static=True)

    def __init__(self, size: int, state_size: int, *, key: PRNGKeyArray):
        if state_size < 2 or state_size % 2:
            raise ValueError(f"state_size is {state_size}; conjugate pairs need an even number of at least 2")
        b_key, c_key, d_key, step_key = jax.random.split(key, 4)
        eigenvalues, vectors = hippo_normal(state_size)
        b = vectors.conj().T @ jax.nn.initializers.lecun_normal(1, 0)(b_key, (state_size, size))
        c = jax.nn.initializers.lecun_normal(1, 0)(c_key, (size, state_size)) @ vectors
        self.log_decay = jnp.log(jnp.asarray(-np.real(eigenvalues)))
        self.frequency = jnp.asarray(np.imag(eigenvalues))
        self.b_real, self.b_imag = jnp.real(b), jnp.imag(b)
        self.c_real, self.c_imag = jnp.real(c), jnp.imag(c)
        self.d = jax.random.normal(d_key, (size,))
        self.log_step = jax.random.uniform(
            step_key, (state_size // 2,), minval=np.log(0.001), maxval=np.log(0.1)
        )
        self.out_size = size

    def init(self):
        return jnp.zeros(self.log_step.shape, jnp.result_type(self.log_step, jnp.complex64))

    def encode(self, x, start):
        eigenvalues = jax.lax.complex(-jnp.exp(self.log_decay), self.frequency)
        transition = jnp.exp(eigenvalues * jnp.exp(self.log_step))
        drive = jax.lax.complex(self.b_real @ x, self.b_imag @ x)  # two real products: x is real
        return Element(transition, (transition - 1) / eigenvalues * drive)

    def time_axes(self):
        return Element(ONCE, PER_STEP)

    def decode(self, h, x):
        return 2 * (self.c_real @ h.real - self.c_imag @ h.imag) + self.d * x

    @classmethod
    def example(cls, key, steps):
        return cls(3, 8, key=key), jax.random.normal(key, (steps, 3))

    def reference(self, xs, starts):
        f = lambda a: np.asarray(a, np.float64)  # noqa: E731
        Lambda = -np.exp(f(self.log_decay)) + 1j * f(self.frequency)
        B, C = f(self.b_real) + 1j * f(self.b_imag), f(self.c_real) + 1j * f(self.c_imag)
        A = np.diag(np.exp(Lambda * np.exp(f(self.log_step))))
        Bbar = np.linalg.inv(np.diag(Lambda)) @ (A - np.eye(len(Lambda))) @ B
        x, out = np.zeros(len(Lambda), complex), []
        for u, start in zip(f(xs), starts, strict=True):
            x = np.zeros_like(x) if start else x
            x = A @ x + Bbar @ u
            out.append(2 * (C @ x).real + f(self.d) * u)
        return np.stack(out)

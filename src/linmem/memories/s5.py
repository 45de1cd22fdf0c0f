"""S5: a diagonal state space with one complex state for all channels, discretised by zero-order hold.

    x'(t) = Lambda x(t) + B u(t),   y(t) = 2 Re(C x(t)) + D u(t)                         continuous
    x_k = A x_{k-1} + Bbar u_k,     A = exp(Lambda Delta),  Bbar = Lambda^-1 (A - I) B    per step

| paper  | here                 | shape     | meaning                                                    |
|--------|----------------------|-----------|------------------------------------------------------------|
| Lambda | weight, frequency    | (p,) each | Re through ``decay``, Im; half of the conjugate pairs      |
| B      | b                    | (2, p, in) | input matrix, real and imaginary part                     |
| C      | c                    | (2, in, p) | output matrix, real and imaginary part                    |
| D      | d                    | (in,)     | feedthrough, per channel                                   |
| Delta  | log_step             | (p,)      | timescales, log-uniform in [0.001, 0.1] at the beginning   |

Source: J. T. H. Smith, A. Warrington, S. W. Linderman, "Simplified State Space Layers for Sequence Modeling",
2023, arXiv:2208.04933, eqs. 1-6 and appendix B.1; starts inside the scan as in C. Lu et al., "Structured
State Space Models for In-Context Reinforcement Learning", 2023, arXiv:2303.03982.
Initialisation: Lambda is the spectrum of the normal part of HiPPO-LegS, B and C are random matrices turned
into its eigenbasis. With ``init=diagonal.ptd`` it is S5-PTD: A. Yu, A. Nigmetov, D. Morozov, M. W. Mahoney,
N. B. Erichson, 2023, arXiv:2310.01698.
Departures: Re Lambda is kept negative by a map, the exponential (the paper clips it); in and out sizes are
equal.
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
from .diagonal import Decay, Discretisation, Init, exp, free, legs_normal, log_uniform, parts, weights_of, zoh
from .products import complex_times, real_of_times


class S5(AbstractLinearMemory):
    """Features (size,) for inputs (size,), from ``state_size`` real state dimensions (an even number)."""

    algebra: ClassVar[AbstractAlgebra] = Diagonal()

    weight: Float[Array, " p"]
    frequency: Float[Array, " p"]
    b: Float[Array, "2 p in"]
    c: Float[Array, "2 in p"]
    d: Float[Array, " in"]
    log_step: Float[Array, " p"]
    out_size: int = eqx.field(static=True)
    decay: Decay = eqx.field(static=True)
    discretise: Discretisation = eqx.field(static=True)
    hold: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        size: int,
        state_size: int,
        *,
        key: PRNGKeyArray,
        init: Init = legs_normal,
        decay: Decay = exp,
        discretise: Discretisation = zoh,
        hold: Callable[[Array], Array] = free,
        steps: tuple[float, float] = (0.001, 0.1),
    ):
        """init, decay, discretise, hold: functions of ``diagonal.INITS``, ``DECAYS``, ``DISCRETISE`` and
        ``CHANNELS``. steps: ends of the timescales Delta."""
        b_key, c_key, d_key, step_key = jax.random.split(key, 4)
        basis = init(state_size, jax.random.fold_in(key, 0))
        eigenvalues, into, back = (jnp.asarray(x, jnp.complex64) for x in basis[:3])
        self.weight, self.frequency = weights_of(eigenvalues, decay)
        self.b = parts(into @ jax.nn.initializers.lecun_normal(1, 0)(b_key, (state_size, size)))
        self.c = parts(jax.nn.initializers.lecun_normal(1, 0)(c_key, (size, state_size)) @ back)
        self.d = jax.random.normal(d_key, (size,))
        self.log_step = log_uniform(step_key, eigenvalues.shape, steps)
        self.out_size, self.decay, self.discretise, self.hold = size, decay, discretise, hold

    def init(self):
        return jnp.zeros(self.log_step.shape, jnp.result_type(self.log_step, jnp.complex64))

    def encode(self, x, start):
        eigenvalues = jax.lax.complex(self.decay.rate(self.weight), self.frequency)
        transition, gain = self.discretise(eigenvalues, jnp.exp(self.log_step))
        return Element(self.hold(transition), gain * complex_times(self.b, x))

    def time_axes(self):
        return Element(ONCE, PER_STEP)

    def decode(self, h, x):
        return 2 * real_of_times(self.c, h) + self.d * x

    @classmethod
    def example(cls, key, steps):
        return cls(3, 8, key=key), jax.random.normal(key, (steps, 3))

    def reference(self, xs, starts):
        f = lambda a: np.asarray(a, np.float64)  # noqa: E731
        Lambda = -np.exp(f(self.weight)) + 1j * f(self.frequency)
        B, C = f(self.b[0]) + 1j * f(self.b[1]), f(self.c[0]) + 1j * f(self.c[1])
        A = np.diag(np.exp(Lambda * np.exp(f(self.log_step))))
        Bbar = np.linalg.inv(np.diag(Lambda)) @ (A - np.eye(len(Lambda))) @ B
        x, out = np.zeros(len(Lambda), complex), []
        for u, start in zip(f(xs), starts, strict=True):
            x = np.zeros_like(x) if start else x
            x = A @ x + Bbar @ u
            out.append(2 * (C @ x).real + f(self.d) * u)
        return np.stack(out)

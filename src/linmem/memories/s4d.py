"""S4D: a diagonal state space for each channel.

    z'(t) = Lambda z(t) + B u(t),   y(t) = 2 Re(C z(t)) + D u(t)                         continuous
    z_k = Abar z_{k-1} + Bbar u_k,  K_l = 2 Re(sum_n C_n Bbar_n Abar_n^l)                per step

with Abar, Bbar by zero-order hold or Tustin's rule (``diagonal.DISCRETISE``).

| paper     | here             | shape       | meaning                                                      |
|-----------|------------------|-------------|--------------------------------------------------------------|
| Re Lambda | weight           | (h, p)      | through ``decay``, a map of ``diagonal.DECAYS``              |
| Im Lambda | frequency        | (h, p)      | p = N / 2 conjugate pairs                                    |
| B, C      | b, c             | (2, h, p)   | real and imaginary parts                                     |
| D         | d                | (h,)        | feedthrough                                                  |
| Delta     | log_step         | (h,)        | timescales, log-uniform in ``steps`` at the beginning        |
| K         | kernel(length)   | (length, h) |                                                              |

Source: A. Gu, A. Gupta, K. Goel, C. Ré, "On the Parameterization and Initialization of Diagonal State Space
Models", 2022, arXiv:2206.11893, sections 3.1-3.3, 4; the Vandermonde product as in ``diagonal.kernel``.
Departures: none in the recurrence; B is learned beside C.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .channels import AbstractChannels, System
from .diagonal import Decay, Discretisation, Init, exp, free, lin, log_uniform, parts, weights_of, zoh


class S4D(AbstractChannels):
    """Features (size,) for inputs (size,), from ``state_size`` real state dimensions (even) for each."""

    weight: Float[Array, "h p"]
    frequency: Float[Array, "h p"]
    b: Float[Array, "2 h p"]
    c: Float[Array, "2 h p"]
    d: Float[Array, " h"]
    log_step: Float[Array, " h"]
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
        init: Init = lin,
        decay: Decay = exp,
        discretise: Discretisation = zoh,
        hold: Callable[[Array], Array] = free,
        steps: tuple[float, float] = (0.001, 0.1),
    ):
        """init, decay, discretise, hold: functions of ``diagonal.INITS``, ``DECAYS``, ``DISCRETISE`` and
        ``CHANNELS``. steps: ends of the timescales Delta."""
        init_key, c_key, d_key, step_key = jax.random.split(key, 4)
        basis = init(state_size, init_key)
        every = lambda x: jnp.tile(jnp.asarray(x, jnp.complex64), (size, 1))  # noqa: E731
        self.weight, self.frequency = weights_of(every(basis.eigenvalues), decay)
        self.b = parts(every(basis.b))
        self.c = jax.random.normal(c_key, self.b.shape) * np.sqrt(0.5)
        self.d = jax.random.normal(d_key, (size,))
        self.log_step = log_uniform(step_key, (size,), steps)
        self.out_size, self.decay, self.discretise, self.hold = size, decay, discretise, hold

    def system(self):
        eigenvalues = jax.lax.complex(self.decay.rate(self.weight), self.frequency)
        transition, gain = self.discretise(eigenvalues, jnp.exp(self.log_step)[:, None])
        return System(self.hold(transition), gain * jax.lax.complex(*self.b), jax.lax.complex(*self.c))

    @classmethod
    def example(cls, key, steps):
        return cls(3, 10, key=key), jax.random.normal(key, (steps, 3))

    def reference(self, xs, starts):
        f = lambda a: np.asarray(a, np.float64)  # noqa: E731
        Lambda, Delta = -np.exp(f(self.weight)) + 1j * f(self.frequency), np.exp(f(self.log_step))
        B, C = f(self.b[0]) + 1j * f(self.b[1]), f(self.c[0]) + 1j * f(self.c[1])
        us, D, out = f(xs), f(self.d), np.zeros(xs.shape)
        for h in range(us.shape[1]):
            A = np.diag(np.exp(Delta[h] * Lambda[h]))
            Bbar = np.linalg.inv(np.diag(Lambda[h])) @ (A - np.eye(len(A))) @ B[h]
            z = np.zeros(len(A), complex)
            for k, start in enumerate(starts):
                z = np.zeros_like(z) if start else z
                z = A @ z + Bbar * us[k, h]
                out[k, h] = 2 * (C[h] @ z).real + D[h] * us[k, h]
        return out

"""DSS: a diagonal state space for each channel, its kernel normalised over a length (softmax) or not (exp).

    K_k = Re sum_i w_i g_i exp(lambda_i k Delta)

    g_i = (exp(lambda_i Delta) - 1) / lambda_i                                          DSS-exp
    g_i = 1 / (lambda_i sum_{r < L} exp(lambda_i r Delta))                              DSS-softmax

As a recurrence: z_k = exp(lambda Delta) z_{k-1} + g u_k, y_k = Re(w z_k) + D u_k.

| paper     | here             | shape       | meaning                                                       |
|-----------|------------------|-------------|---------------------------------------------------------------|
| Re lambda | log_decay        | (p,)        | -exp(log_decay); shared by the channels                       |
| Im lambda | frequency        | (p,)        |                                                               |
| w         | w                | (2, h, p)   | real and imaginary parts                                      |
| D         | d                | (h,)        | feedthrough                                                   |
| Delta     | log_step         | (h,)        | timescales, log-uniform in [0.001, 0.1] at the beginning      |
| L         | length           |             | None for DSS-exp                                              |
| g         | gain             | (h, p)      |                                                               |

Source: A. Gupta, A. Gu, J. Berant, "Diagonal State Spaces are as Effective as Structured State Spaces", 2022,
arXiv:2203.14343, proposition 1 and section 3; lambda begins at the spectrum of the normal part of HiPPO-LegS
with Im > 0; the reciprocal of the sum is conj(s) / (|s|^2 + 1e-7).
Departures: DSS-softmax allows Re lambda > 0, whose states grow until step L and have no meaning after; here
Re lambda < 0 in both forms, so that both are memories of endless streams.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .channels import AbstractChannels, System
from .diagonal import Init, exp, legs_normal, log_uniform, weights_of, zoh

EPSILON = 1e-7


class DSS(AbstractChannels):
    """Features (size,) for inputs (size,), from ``state_size / 2`` complex state dimensions for each."""

    log_decay: Float[Array, " p"]
    frequency: Float[Array, " p"]
    w: Float[Array, "2 h p"]
    d: Float[Array, " h"]
    log_step: Float[Array, " h"]
    out_size: int = eqx.field(static=True)
    length: int | None = eqx.field(static=True)

    def __init__(
        self,
        size: int,
        state_size: int,
        *,
        key: PRNGKeyArray,
        length: int | None = None,
        init: Init = legs_normal,
    ):
        """length: the L, at least 1, over which DSS-softmax normalises; None for DSS-exp."""
        if length is not None and length < 1:
            raise ValueError(f"length is {length}; DSS-softmax normalises over at least 1 step")
        init_key, w_key, d_key, step_key = jax.random.split(key, 4)
        eigenvalues = jnp.asarray(init(state_size, init_key).eigenvalues, jnp.complex64)
        self.log_decay, self.frequency = weights_of(eigenvalues, exp)
        self.w = jax.random.normal(w_key, (2, size, len(eigenvalues)))
        self.d = jax.random.normal(d_key, (size,))
        self.log_step = log_uniform(step_key, (size,), (0.001, 0.1))
        self.out_size, self.length = size, length

    def system(self):
        eigenvalues = jax.lax.complex(exp.rate(self.log_decay), self.frequency)
        step = jnp.exp(self.log_step)[:, None]
        transition, gain = zoh(eigenvalues, step)
        if self.length is not None:
            beyond = jnp.exp(eigenvalues * step * self.length)
            total = (beyond - 1) / (transition - 1)  # of the geometric series
            gain = jnp.conj(total) / (jnp.abs(total) ** 2 + EPSILON) / eigenvalues
        return System(transition, gain, 0.5 * jax.lax.complex(*self.w))  # features are 2 Re(.)

    @classmethod
    def example(cls, key, steps):
        return cls(3, 10, length=7, key=key), jax.random.normal(key, (steps, 3))

    def reference(self, xs, starts):
        f = lambda a: np.asarray(a, np.float64)  # noqa: E731
        Lambda, w = -np.exp(f(self.log_decay)) + 1j * f(self.frequency), f(self.w[0]) + 1j * f(self.w[1])
        us, D, Delta, out = f(xs), f(self.d), np.exp(f(self.log_step)), np.zeros(xs.shape)
        for h in range(us.shape[1]):
            if self.length is None:
                g = (np.exp(Lambda * Delta[h]) - 1) / Lambda
            else:
                s = sum(np.exp(Lambda * r * Delta[h]) for r in range(self.length))
                g = np.conj(s) / (s * np.conj(s) + EPSILON) / Lambda
            z = np.zeros(len(Lambda), complex)
            for k, start in enumerate(starts):
                z = np.zeros_like(z) if start else z
                z = np.exp(Lambda * Delta[h]) * z + g * us[k, h]
                out[k, h] = (w[h] @ z).real + D[h] * us[k, h]
        return out

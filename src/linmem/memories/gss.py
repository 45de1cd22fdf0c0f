"""Gated state space: a narrow diagonal state space whose output gates a wide branch.

    n_t = LN(x_t),   u_t = gelu(W_1 n_t),   v_t = gelu(W_2 n_t)
    s_t[h, j] = exp(Lambda_j) s_{t-1}[h, j] + v_t[h]                                 one row per channel h
    c_t[h] = Re sum_j C[h, j] (exp(Lambda_j) - 1) / Lambda_j s_t[h, j] + D[h] v_t[h]
    y_t = W_4 (u_t * W_3 c_t) + x_t

| paper    | here                 | shape          | meaning                                           |
|----------|----------------------|----------------|---------------------------------------------------|
| W_1, W_2 | wide, narrow         | (F, E), (H, E) | the gated branch and the state space's input      |
| Lambda   | log_decay, log_angle | (N,) each      | -exp(log_decay) + i exp(log_angle), for all channels |
| C        | c_real, c_imag       | (H, N) each    | readout of the state space                        |
| D        | d                    | (H,)           | feedthrough                                       |
| W_3, W_4 | gate, close          | (F, H), (E, F) | back to the wide branch, and out                  |

Source: H. Mehta, A. Gupta, A. Cutkosky, B. Neyshabur, "Long Range Language Modeling via Gated State Spaces",
2022, arXiv:2206.13947, section 3.2 (pseudocode of GSS and of the simplified DSS: no step size, random
Lambda; the state space is DSS_EXP of A. Gupta et al., 2022, arXiv:2203.14343).
Departures: s_t is stepped as a recurrence, which starts can erase; the paper convolves with the same kernel.
The state space has no norm of its own.
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..core.algebra import AbstractAlgebra, Diagonal, Element
from .base import ONCE, PER_STEP, AbstractLinearMemory
from .stack import _gelu


class GSS(AbstractLinearMemory):
    """Features (size,) for inputs (size,): F = ``wide``, H = ``narrow`` channels of N = ``state_size``
    complex states each. Norm and residual are inside."""

    algebra: ClassVar[AbstractAlgebra] = Diagonal()

    norm: eqx.nn.LayerNorm
    wide: eqx.nn.Linear
    narrow: eqx.nn.Linear
    gate: eqx.nn.Linear
    close: eqx.nn.Linear
    log_decay: Float[Array, " n"]
    log_angle: Float[Array, " n"]
    c_real: Float[Array, "h n"]
    c_imag: Float[Array, "h n"]
    d: Float[Array, " h"]
    out_size: int = eqx.field(static=True)

    def __init__(self, size: int, wide: int, narrow: int, state_size: int, *, key: PRNGKeyArray):
        keys = jax.random.split(key, 9)
        self.norm = eqx.nn.LayerNorm(size)
        self.wide = eqx.nn.Linear(size, wide, use_bias=False, key=keys[0])
        self.narrow = eqx.nn.Linear(size, narrow, use_bias=False, key=keys[1])
        self.gate = eqx.nn.Linear(narrow, wide, use_bias=False, key=keys[2])
        self.close = eqx.nn.Linear(wide, size, key=keys[3])
        self.log_decay, self.log_angle = (jax.random.normal(k, (state_size,)) for k in keys[4:6])
        scale = state_size**-0.5  # the output's size then does not grow with the number of states
        self.c_real, self.c_imag = (scale * jax.random.normal(k, (narrow, state_size)) for k in keys[6:8])
        self.d = jax.random.normal(keys[8], (narrow,))
        self.out_size = size

    def init(self):
        return jnp.zeros(self.c_real.size, jnp.result_type(self.log_decay, jnp.complex64))

    def _eigenvalues(self):
        return jax.lax.complex(-jnp.exp(self.log_decay), jnp.exp(self.log_angle))

    def _enter(self, x):
        return jax.nn.gelu(self.narrow(self.norm(x)))

    def encode(self, x, start):
        entering = jnp.repeat(self._enter(x), self.log_decay.size)
        transition = jnp.tile(jnp.exp(self._eigenvalues()), self.d.size)
        return Element(transition, jax.lax.complex(entering, jnp.zeros_like(entering)))

    def time_axes(self):
        return Element(ONCE, PER_STEP)

    def decode(self, h, x):
        eigenvalues = self._eigenvalues()
        c = jax.lax.complex(self.c_real, self.c_imag) * (jnp.exp(eigenvalues) - 1) / eigenvalues
        context = jnp.sum((c * h.reshape(c.shape)).real, axis=1) + self.d * self._enter(x)
        return self.close(jax.nn.gelu(self.wide(self.norm(x))) * self.gate(context)) + x

    @classmethod
    def example(cls, key, steps):
        return cls(3, 7, 2, 5, key=key), jax.random.normal(key, (steps, 3))

    def reference(self, xs, starts):
        f = lambda a: np.asarray(a, np.float64)  # noqa: E731
        W_1, W_2, W_3, W_4 = (f(l.weight) for l in (self.wide, self.narrow, self.gate, self.close))
        Lambda = -np.exp(f(self.log_decay)) + 1j * np.exp(f(self.log_angle))
        C = (f(self.c_real) + 1j * f(self.c_imag)) * (np.exp(Lambda) - 1) / Lambda
        s, out = np.zeros(C.shape, complex), []
        for x, start in zip(f(xs), starts, strict=True):
            s = np.zeros_like(s) if start else s
            n = (x - x.mean()) / np.sqrt(x.var() + self.norm.eps) * f(self.norm.weight) + f(self.norm.bias)
            u, v = _gelu(W_1 @ n), _gelu(W_2 @ n)
            s = np.exp(Lambda) * s + v[:, None]
            c = (C * s).sum(1).real + f(self.d) * v
            out.append(W_4 @ (u * (W_3 @ c)) + f(self.close.bias) + x)
        return np.stack(out)

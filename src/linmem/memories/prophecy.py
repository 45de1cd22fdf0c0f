"""HiPPO-Prophecy: weights in closed form with which a state space predicts the next input, without training.

    h_t = Abar h_{t-1} + Bbar u_t          HiPPO-LegT: coefficients of the last 1 / Delta inputs, per channel
    y_t = u_t + Delta C h_t                the next input, by Euler's rule

The state stands for u(t - s) = sum_n h_n p_n(s) with p_n(s) = sqrt(2n+1) L_n(1 - 2 s), s in units of the
window. Its derivative in t at s = 0 is sum_n C_n h_n with

    C_n = -p_n'(0) = 2 sqrt(2n+1) L_n'(1) = sqrt(2n+1) n (n+1)

so C reads off how the input is moving, whatever the system that moves it.

| paper      | here         | shape          | meaning                                  |
|------------|--------------|----------------|------------------------------------------|
| Abar, Bbar | a, b         | (n, n), (n,)   | LegT, discretised by the bilinear rule   |
| C          | c            | (n,)           | readout of the derivative                |
| Delta      | step_size    |                | one step, in units of the window         |

Source: F. Arangath Joseph, K. Haefeli, N. Liniger, C. Gulcehre, "HiPPO-Prophecy: State-Space Models can
Provably Learn Dynamical Systems in Context", 2024, arXiv:2407.09375.
Departures: C is derived above from the basis, and nothing is read from u_t itself; the paper's own table of
weights could not be read here. The
first window after a start still holds the zeros before it, and predictions in it are poor. LegS and FouT are
not offered: read at the present moment, the derivative of an exponentially warped or periodic series does not
converge (measured with LegS: the error grows with n; argued, not measured, for FouT, which the paper has).
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..core.algebra import AbstractAlgebra, BlockDiagonal, Element
from .base import ONCE, PER_STEP, AbstractLinearMemory
from .hippo import bilinear, legt


def derivative_readout(state_size: int) -> np.ndarray:
    """C (state_size,): the derivative, per window, of the signal whose LegT coefficients are the state."""
    n = np.arange(state_size)
    return np.sqrt(2 * n + 1.0) * n * (n + 1)


class HippoProphecy(AbstractLinearMemory):
    """Features (size,): the predicted next input, for inputs (size,), from ``state_size`` coefficients of the
    last ``window`` inputs of each channel. Training changes C only: where the window is long, Abar has
    eigenvalues near 1, and one step of an optimiser can move them past it."""

    algebra: ClassVar[AbstractAlgebra] = BlockDiagonal()

    a: Float[Array, "n n"]
    b: Float[Array, " n"]
    c: Float[Array, " n"]
    step_size: float = eqx.field(static=True)
    out_size: int = eqx.field(static=True)

    def __init__(self, size: int, state_size: int, window: int):
        if state_size < 2 or window < 1:
            raise ValueError(f"state_size {state_size} and window {window}; need at least 2 and 1")
        self.step_size, self.out_size = 1 / window, size
        system = legt(state_size)
        self.a, self.b = (jnp.asarray(x, float) for x in bilinear(system.a, system.b, self.step_size))
        self.c = jnp.asarray(derivative_readout(state_size), float)

    def init(self):
        return jnp.zeros((self.out_size, len(self.b)))

    def encode(self, x, start):
        a, b = jax.lax.stop_gradient((self.a, self.b))
        return Element(a[None], x[:, None] * b)

    def time_axes(self):
        return Element(ONCE, PER_STEP)

    def decode(self, h, x):
        return x + self.step_size * (h @ self.c)

    @classmethod
    def example(cls, key, steps):
        return cls(3, 5, 11), jax.random.normal(key, (steps, 3))

    def reference(self, xs, starts):
        A, B, C = (np.asarray(x, np.float64) for x in (self.a, self.b, self.c))
        h, out = np.zeros((self.out_size, len(B))), []
        for u, start in zip(np.asarray(xs, np.float64), starts, strict=True):
            h = np.zeros_like(h) if start else h
            h = h @ A.T + np.outer(u, B)
            out.append(u + self.step_size * h @ C)
        return np.stack(out)

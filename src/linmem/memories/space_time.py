"""SpaceTime: companion-matrix state spaces, which hold autoregressions of any order and forecast by feeding
their own predictions back.

    x_t = A x_{t-1} + B u_t,   y_t = C x_t + D u_t                          open loop, per channel
    A = shift + last column a:   (A x)_0 = a_0 x_{n-1},   (A x)_i = x_{i-1} + a_i x_{n-1}
    u_{t+1} is predicted by K x_t;   x_{t+1} = (A + B K) x_t                 closed loop

With B the first unit vector and a = 0 the state is the last n inputs and K x_t any autoregression of order n.

| paper | here     | shape  | meaning                                                                 |
|-------|----------|--------|-------------------------------------------------------------------------|
| a     | last     | (d, n) | last column of A; divided by sum |a_i| where that exceeds 1             |
| B     | b        | (d, n) | input vector                                                            |
| C     | c        | (d, n) | output vector                                                           |
| D     | d        | (d,)   | feedthrough                                                             |
| K     | feedback | (d, n) | predicts the next input from the state                                  |

Source: M. Zhang, K. K. Saab, M. Poli, T. Dao, K. Goel, C. Re, "Effectively Modeling Time Series with Simple
Discrete State Spaces", 2023, arXiv:2303.09489, sections 3.1-3.3 (eqs. 5-10), and the authors' code for the
normalisation.
Departures: y_t reads the state after u_t entered it, as the authors' code convolves. They divide a by its sum
of magnitudes wherever that is not about 0, which leaves the shift register, and with it autoregressions,
just outside what training can reach; dividing only sums above 1 keeps every A stable and the register inside.
The kernel is taken by FFT of the transfer function; its numerator costs n^2 operations once, not n log n.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .base import AbstractMemory
from .convolution import convolve
from .power_series import quotient


class SpaceTime(AbstractMemory):
    """Features (size,) for inputs (size,), ``state_size`` states for each channel."""

    last: Float[Array, "d n"]
    b: Float[Array, "d n"]
    c: Float[Array, "d n"]
    feedback: Float[Array, "d n"]
    d: Float[Array, " d"]

    def __init__(self, size: int, state_size: int, *, key: PRNGKeyArray):
        keys = jax.random.split(key, 5)
        shape, bound = (size, state_size), state_size**-0.5
        self.last, self.b, self.c, self.feedback = (
            jax.random.uniform(k, shape, minval=-bound, maxval=bound) for k in keys[:4]
        )
        self.d = jax.random.normal(keys[4], (size,))

    @property
    def out_size(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return len(self.d)

    def _column(self):
        return self.last / jnp.maximum(1.0, jnp.sum(jnp.abs(self.last), axis=1, keepdims=True))

    def _advance(self, h, x):
        """A h + B x."""
        moved = jnp.concatenate([jnp.zeros_like(h[:, :1]), h[:, :-1]], axis=1)
        return moved + self._column() * h[:, -1:] + self.b * x[:, None]

    def init(self):
        return jnp.zeros_like(self.b)

    def step(self, state, x, start):
        h = self._advance(jnp.where(start, 0.0, state), x)
        return h, jnp.sum(self.c * h, axis=1) + self.d * x

    def unroll(self, state, xs, starts):
        return jax.lax.scan(lambda h, timed: self.step(h, *timed), state, (xs, starts))

    def forecast(
        self, state: Float[Array, "d n"], steps: int
    ) -> tuple[Float[Array, "steps d"], Float[Array, "steps d"]]:
        """Closed loop from the state after the last input: (predicted inputs, features they give)."""

        def ahead(h, _):
            x = jnp.sum(self.feedback * h, axis=1)
            h, y = self.step(h, x, jnp.asarray(False))
            return h, (x, y)

        return jax.lax.scan(ahead, state, length=steps)[1]

    def predict_next(self, xs: Float[Array, "T d"]) -> Float[Array, "T d"]:
        """K x_t at every step of a whole sequence: what is expected of the next input."""
        return convolve(self._response(self.feedback, len(xs)), xs)

    def kernel(self, length: int) -> Float[Array, "length d"]:
        """The impulse response D + C B, C A B, C A^2 B, ... of each channel."""
        return self._response(self.c, length).at[0].add(self.d)

    def _response(self, readout, length):
        """readout A^t B: a quotient, whose denominator is the characteristic polynomial of A reversed."""
        n = self.b.shape[1]

        def first(h, _):
            return self._advance(h, jnp.zeros_like(self.d)), jnp.sum(readout * h, axis=1)

        _, head = jax.lax.scan(first, self.b, length=n)
        below = jnp.concatenate([jnp.ones_like(self.d)[None], -self._column().T[::-1]])
        return quotient(convolve(head, below[:n]), below, length)

    def convolve(self, xs: Float[Array, "T d"]) -> Float[Array, "T d"]:
        """The features of a whole sequence that begins at its first step and has no other start."""
        return convolve(self.kernel(len(xs)), xs)

    @classmethod
    def example(cls, key, steps):
        return cls(3, 5, key=key), jax.random.normal(key, (steps, 3))

    def reference(self, xs, starts):
        a, B, C, D = (np.asarray(x, np.float64) for x in (self.last, self.b, self.c, self.d))
        d, n = a.shape
        A = np.stack([np.eye(n, k=-1) for _ in range(d)])
        A[:, :, -1] += a / np.maximum(1, np.abs(a).sum(1, keepdims=True))
        x, out = np.zeros((d, n)), []
        for u, start in zip(np.asarray(xs, np.float64), starts, strict=True):
            x = np.zeros_like(x) if start else x
            x = np.einsum("dij,dj->di", A, x) + B * u[:, None]
            out.append((C * x).sum(1) + D * u)
        return np.stack(out)

"""Fixed-point RNN: a dense recurrence as the fixed point of a diagonal one.

Iterate, for l = 1, ..., L from h^0 = 0, over all time steps at once,

    h^l_t = lambda_t * h^l_{t-1} + (1 - lambda_t) * (Q_t (b_t * x_t) + (I - Q_t) h^{l-1}_t)
    y_t   = W_y (c_t * h^L_t)

Each pass is a diagonal recurrence. A fixed point h* obeys a dense one,

    (I - (1 - lambda_t) (I - Q_t)) h*_t = lambda_t * h*_{t-1} + (1 - lambda_t) * Q_t (b_t * x_t),

so L interpolates from diagonal (L = 1) to dense. Q_t is a product of r generalised Householders,

    Q_t = (I - alpha_r u_r u_r^T) ... (I - alpha_1 u_1 u_1^T),   |u| = 1, alpha in (0, 1),

made from x_t and, through ``u_state`` and ``c_state``, from h^{l-1}_{t-1}: with it the fixed point is a
nonlinear recurrence, as in the paper's models that track states best.

| paper     | here              | shape             | meaning                              |
|-----------|-------------------|-------------------|--------------------------------------|
| lambda_t  | rates, rate_bias  | (in, n), (n,)     | sigmoid of a linear map of the input |
| u_i       | u, u_state        | (in, r n), (n, r n) | directions of the mixer            |
| alpha_i   | alpha, alpha_bias | (in, r), (r,)     | strengths of the mixer               |
| b_t, c_t  | b, c, c_state     | (in, n), (n, n)   | input and output gate, through silu  |

Source: S. Movahedi, F. Sarnthein, N. M. Cirone, A. Orvieto, "Fixed-Point RNNs: Interpolating from Diagonal
to Dense", 2025, arXiv:2503.10799, and the authors' code (dr-faustus/fp-rnn, models/fp_rnn_block.py, with the
Householder mixer of models/mixer.py).
Departures: strengths below 1, so that |I - Q| < 1 and the iteration contracts, as the paper demands (the
code doubles them, and passes u through silu before it is scaled to length 1); exactly L iterations without a
stopping rule or damping, differentiated as they are (the authors iterate to a tolerance and differentiate
the last pass); the strengths do not depend on the state; no output norm and no further gate. The state of
the memory is the L values h^l_t, so that stepping gives what unrolling gives.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..core.algebra import Diagonal, Element
from ..core.projection import project
from ..core.scan import scan
from ..core.unit import unit
from .base import AbstractMemory
from .gates import np_sigmoid, np_silu, projection


class FixedPointRNN(AbstractMemory):
    """Features (size,) for inputs (size,), from ``iterations`` states of ``state_size``."""

    value: Float[Array, "in n"]
    rates: Float[Array, "in n"]
    rate_bias: Float[Array, " n"]
    u: Float[Array, "in directions"]
    u_state: Float[Array, "n directions"]
    alpha: Float[Array, "in r"]
    alpha_bias: Float[Array, " r"]
    b: Float[Array, "in n"]
    c: Float[Array, "in n"]
    c_state: Float[Array, "n n"]
    out: Float[Array, "n in"]
    iterations: int = eqx.field(static=True)
    out_size: int = eqx.field(static=True)

    def __init__(
        self, size: int, state_size: int, iterations: int = 4, mixers: int = 1, *, key: PRNGKeyArray
    ):
        if iterations < 1 or mixers < 1:
            raise ValueError(f"iterations is {iterations} and mixers {mixers}; both must be at least 1")
        keys = jax.random.split(key, 9)
        self.value, self.rates, self.b, self.c = (projection(k, size, state_size) for k in keys[:4])
        self.rate_bias = jnp.zeros(state_size)
        self.u = projection(keys[4], size, mixers * state_size)
        self.u_state = projection(keys[5], state_size, mixers * state_size)
        self.alpha, self.alpha_bias = projection(keys[6], size, mixers), jnp.full(mixers, 2.0)
        self.c_state = projection(keys[7], state_size, state_size)
        self.out = projection(keys[8], state_size, size)
        self.iterations, self.out_size = iterations, size

    def init(self):
        return jnp.zeros((self.iterations, len(self.rate_bias)))

    def _enter(self, x):
        """What does not change between iterations: lambda, b * x, directions, strengths, output gate."""
        gated = jax.nn.silu(project(x, self.b)) * project(x, self.value)
        rates = jax.nn.sigmoid(project(x, self.rates) + self.rate_bias)
        return (
            rates,
            gated,
            project(x, self.u),
            jax.nn.sigmoid(project(x, self.alpha) + self.alpha_bias),
            project(x, self.c),
        )

    def _mixed(self, entered, h, before):
        """(1 - lambda) * (Q (b x) + (I - Q) h), with Q from the state ``before``."""
        rates, gated, directions, strengths, _ = entered
        directions = (directions + project(before, self.u_state)).reshape(len(strengths), -1)
        difference = gated - h
        for u, alpha in zip(unit(directions), strengths, strict=True):
            difference -= alpha * u * jnp.dot(u, difference)
        return (1 - rates) * (difference + h)

    def _leave(self, entered, h, before):
        return project(jax.nn.silu(entered[-1] + project(before, self.c_state)) * h, self.out)

    def step(self, state, x, start):
        past, entered = jnp.where(start, 0.0, state), self._enter(x)
        h, h_before, states = jnp.zeros_like(past[0]), jnp.zeros_like(past[0]), []
        for before in past:
            h = entered[0] * before + self._mixed(entered, h, h_before)
            h_before = before
            states.append(h)
        return jnp.stack(states), self._leave(entered, h, h_before)

    def unroll(self, state, xs, starts):
        entered = jax.vmap(self._enter)(xs)
        hs = befores = jnp.zeros_like(entered[0])
        last = []
        for initial in state:
            element = Element(entered[0], jax.vmap(self._mixed)(entered, hs, befores))
            end, hs = scan(Diagonal(), element, initial, starts)
            befores = jnp.where(starts[:, None], 0.0, jnp.concatenate([initial[None], hs[:-1]]))
            last.append(end)
        return jnp.stack(last), jax.vmap(self._leave)(entered, hs, befores)

    @classmethod
    def example(cls, key, steps):
        return cls(3, 5, iterations=3, mixers=2, key=key), jax.random.normal(key, (steps, 3))

    def reference(self, xs, starts):
        f = lambda a: np.asarray(a, np.float64)  # noqa: E731
        xs, n = f(xs), len(self.rate_bias)
        h = np.zeros((len(xs), n))
        before = np.zeros_like(h)
        for _ in range(self.iterations):
            new, carried = np.zeros_like(h), np.zeros(n)
            for t, x in enumerate(xs):
                carried = np.zeros(n) if starts[t] else carried
                lambda_t = np_sigmoid(x @ f(self.rates) + f(self.rate_bias))
                directions = (x @ f(self.u) + before[t] @ f(self.u_state)).reshape(-1, n)
                Q = np.eye(n)
                for u, alpha in zip(
                    directions, np_sigmoid(x @ f(self.alpha) + f(self.alpha_bias)), strict=True
                ):
                    u = u / np.sqrt(u @ u + 1e-6)
                    Q = (np.eye(n) - alpha * np.outer(u, u)) @ Q
                b_x = np_silu(x @ f(self.b)) * (x @ f(self.value))
                carried = lambda_t * carried + (1 - lambda_t) * (Q @ b_x + (np.eye(n) - Q) @ h[t])
                new[t] = carried
            h = new
            before = np.stack([np.zeros(n) if starts[t] or t == 0 else h[t - 1] for t in range(len(xs))])
        gates = np_silu(xs @ f(self.c) + before @ f(self.c_state))
        return (gates * h) @ f(self.out)

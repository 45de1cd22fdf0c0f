"""The gated recurrent unit: the nonlinear memory that linear ones are compared with.

    r_t = sigmoid(W_r x_t + U_r h_{t-1} + b_r)
    z_t = sigmoid(W_z x_t + U_z h_{t-1} + b_z)
    n_t = tanh(W_n x_t + b_n + r_t * (U_n h_{t-1} + c_n))
    h_t = (1 - z_t) * n_t + z_t * h_{t-1}

| paper          | here       | shape          | meaning                               |
|----------------|------------|----------------|---------------------------------------|
| W_r, W_z, W_n  | w_in       | (3 n, in)      | input weights, stacked in this order  |
| b_r, b_z, b_n  | bias       | (3 n,)         |                                       |
| U_r, U_z, U_n  | w_state    | (3 n, n)       | recurrent weights, stacked            |
| c_n            | bias_new   | (n,)           | inside the reset gate                 |

Source: K. Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine
Translation", 2014, arXiv:1406.1078; with the reset gate after the product and its own bias, as cuDNN and
PyTorch have it.
Departures: recurrent weights start orthogonal, input weights from LeCun's normal law, biases 0.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..core.matrices import orthogonal
from .base import AbstractMemory


def _gates(leaving, bias_new, entering, h):
    """h_t from U h_{t-1}, W x_t + b and h_{t-1}."""
    in_r, in_z, in_n = jnp.split(entering, 3, axis=-1)
    re_r, re_z, re_n = jnp.split(leaving, 3, axis=-1)
    r, z = jax.nn.sigmoid(in_r + re_r), jax.nn.sigmoid(in_z + re_z)
    return (1 - z) * jnp.tanh(in_n + r * (re_n + bias_new)) + z * h


@jax.custom_vjp
def _recur(w_state, bias_new, entering, starts, initial):
    """All h_t. Its derivative leaves the sum over time of the gradient in U to one product after the loop,
    where differentiating the loop itself would add a matrix at every step."""
    return _run(jnp.zeros_like(entering), w_state, bias_new, entering, starts, initial)


def _run(nudge, w_state, bias_new, entering, starts, initial):
    def body(h, step):
        entering, start, nudge = step
        h = jnp.where(start, 0.0, h)
        h = _gates(w_state @ h + nudge, bias_new, entering, h)
        return h, h

    return jax.lax.scan(body, initial, (entering, starts, nudge))[1]


def _recur_fwd(w_state, bias_new, entering, starts, initial):
    def run(nudge, bias_new, entering, initial):
        return _run(nudge, w_state, bias_new, entering, starts, initial)

    states, pull = jax.vjp(run, jnp.zeros_like(entering), bias_new, entering, initial)
    previous = jnp.where(starts[:, None], 0.0, jnp.concatenate([initial[None], states[:-1]]))
    return states, (pull, previous)


def _recur_bwd(kept, cotangent):
    pull, previous = kept
    leaving, bias_new, entering, initial = pull(cotangent)
    return leaving.T @ previous, bias_new, entering, None, initial


_recur.defvjp(_recur_fwd, _recur_bwd)


class GRU(AbstractMemory):
    """Features (out_size,): the state h_t of a GRU with inputs (in_size,)."""

    w_in: Float[Array, "gates in"]
    bias: Float[Array, " gates"]
    w_state: Float[Array, "gates n"]
    bias_new: Float[Array, " n"]
    out_size: int = eqx.field(static=True)

    def __init__(self, in_size: int, size: int, *, key: PRNGKeyArray):
        in_key, state_key = jax.random.split(key)
        self.w_in = jax.nn.initializers.lecun_normal(1, 0)(in_key, (3 * size, in_size))
        self.w_state = jnp.concatenate([orthogonal(k, (size, size)) for k in jax.random.split(state_key, 3)])
        self.bias, self.bias_new = jnp.zeros(3 * size), jnp.zeros(size)
        self.out_size = size

    def init(self):
        return jnp.zeros(self.out_size)

    def step(self, state, x, start):
        h = self._advance(state, self.w_in @ x + self.bias, start)
        return h, h

    def unroll(self, state, xs, starts):
        entering = (
            xs @ self.w_in.T + self.bias
        )  # one product for all steps; only the recurrent one is sequential
        states = _recur(self.w_state, self.bias_new, entering, starts, state)
        return states[-1], states

    def _advance(self, h, entering, start):
        h = jnp.where(start, 0.0, h)
        return _gates(self.w_state @ h, self.bias_new, entering, h)

    @classmethod
    def example(cls, key, steps):
        return cls(3, 5, key=key), jax.random.normal(key, (steps, 3))

    def reference(self, xs, starts):
        W_r, W_z, W_n = np.split(np.asarray(self.w_in, np.float64), 3)
        U_r, U_z, U_n = np.split(np.asarray(self.w_state, np.float64), 3)
        b_r, b_z, b_n = np.split(np.asarray(self.bias, np.float64), 3)
        c_n = np.asarray(self.bias_new, np.float64)

        def sigmoid(v):
            return 1 / (1 + np.exp(-v))

        h, out = np.zeros(self.out_size), []
        for x, start in zip(np.asarray(xs, np.float64), starts, strict=True):
            h = np.zeros_like(h) if start else h
            r = sigmoid(W_r @ x + U_r @ h + b_r)
            z = sigmoid(W_z @ x + U_z @ h + b_z)
            n = np.tanh(W_n @ x + b_n + r * (U_n @ h + c_n))
            h = (1 - z) * n + z * h
            out.append(h)
        return np.stack(out)

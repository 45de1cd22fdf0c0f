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
from ..core.projection import project
from .base import AbstractMemory


def _gates(leaving, bias_new, entering):
    """(r_t, z_t, n_t, U_n h_{t-1} + c_n) from U h_{t-1} and W x_t + b."""
    in_r, in_z, in_n = jnp.split(entering, 3, axis=-1)
    re_r, re_z, re_n = jnp.split(leaving, 3, axis=-1)
    r, z, reset = jax.nn.sigmoid(in_r + re_r), jax.nn.sigmoid(in_z + re_z), re_n + bias_new
    return r, z, jnp.tanh(in_n + r * reset), reset


def _advance(u, bias_new, entering, start, h):
    """h_t; u is U^T."""
    h = jnp.where(start, 0.0, h)
    _, z, n, _ = _gates(h @ u, bias_new, entering)
    return (1 - z) * n + z * h


@jax.custom_vjp
def _recur(w_state, bias_new, entering, starts, initial):
    """All h_t."""
    u = jax.lax.optimization_barrier(w_state.T)  # else XLA turns it at every step

    def body(h, step):
        entering, start = step
        h = _advance(u, bias_new, entering, start, h)
        return h, h

    return jax.lax.scan(body, initial, (entering, starts))[1]


def _recur_fwd(w_state, bias_new, entering, starts, initial):
    states = _recur(w_state, bias_new, entering, starts, initial)
    return states, (w_state, bias_new, entering, starts, initial, states)


def _recur_bwd(kept, cotangent):
    """Once all states are known, all gates follow at once, and what is left to do in time is linear:

        g_{t-1} = dL/dh_{t-1} + z_t * g_t + U^T (k_t * [g_t, g_t, g_t])        nothing of g_t where start_t

    The gradients in U, b and x are products over all steps after the loop."""
    w_state, bias_new, entering, starts, initial, states = kept
    previous = jnp.where(starts[:, None], 0.0, jnp.concatenate([initial[None], states[:-1]]))
    r, z, n, reset = _gates(previous @ w_state.T, bias_new, entering)
    into_new = (1 - z) * (1 - n * n)  # d h_t / d (argument of tanh)
    into_reset, into_keep = into_new * reset * r * (1 - r), (previous - n) * z * (1 - z)
    slopes = jnp.concatenate([into_reset, into_keep, into_new * r], axis=-1)

    def body(passed, step):
        g, z, slopes, start = step
        g = g + passed
        back = z * g + (slopes * jnp.tile(g, 3)) @ w_state
        return jnp.where(start, 0.0, back), g

    nothing = jnp.zeros_like(initial)
    g_initial, g = jax.lax.scan(body, nothing, (cotangent, z, slopes, starts), reverse=True)
    leaving = slopes * jnp.tile(g, 3)
    size = initial.shape[-1]
    entered = jnp.concatenate([leaving[:, : 2 * size], g * into_new], axis=-1)
    return (previous.T @ leaving).T, leaving[:, 2 * size :].sum(0), entered, None, g_initial


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
        h = _advance(self.w_state.T, self.bias_new, self.w_in @ x + self.bias, start, state)
        return h, h

    def unroll(self, state, xs, starts):
        entering = project(xs, self.w_in.T) + self.bias  # one product for all steps; only U's is sequential
        states = _recur(self.w_state, self.bias_new, entering, starts, state)
        return states[-1], states

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

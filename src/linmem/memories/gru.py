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

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, PRNGKeyArray

from ..core.checkpointed import KEPT
from ..core.matrices import orthogonal
from ..core.native import library
from ..core.native.gru import recur
from ..core.projection import project
from .base import AbstractMemory


def _sigmoid(x):
    """In a form that XLA makes faster on a CPU; very small values are right to 3e-8, not to 7 digits."""
    return 0.5 * jnp.tanh(0.5 * x) + 0.5


def _gates(leaving, entering, h, bias_new):
    """h_t from U h_{t-1}, W x_t + b and h_{t-1}, unit by unit."""
    (re_r, re_z, re_n), (in_r, in_z, in_n) = leaving, entering
    r, z = _sigmoid(in_r + re_r), _sigmoid(in_z + re_z)
    return (1 - z) * jnp.tanh(in_n + r * (re_n + bias_new)) + z * h


def _thirds(x):
    """The parts of r, z and n. A loop reads three arrays faster than thirds of one."""
    return tuple(jnp.split(x, 3, axis=-1))


@jax.custom_vjp
def _recur(w_state, bias_new, entering, starts, initial):
    """All h_t. Its derivative keeps the states alone and computes the gates of all steps again at once, so
    that its loop holds one product and no gate. w_state: (U_r, U_z, U_n), apart because XLA's CPU compiler
    adds up the wide gradients of a batch more slowly than three narrow ones."""

    def body(h, step):
        entering, start = step
        h = jnp.where(start, 0.0, h)
        h = _gates(_thirds(h @ to_gates), entering, h, bias_new)
        return h, h

    to_gates = jnp.concatenate(w_state).T  # once, not by each product of the loop
    return jax.lax.scan(body, initial, (entering, starts))[1]


def _recur_fwd(w_state, bias_new, entering, starts, initial):
    states = checkpoint_name(_recur(w_state, bias_new, entering, starts, initial), KEPT)
    return states, (w_state, bias_new, entering, starts, initial, states)


def _recur_bwd(kept, cotangent):
    w_state, bias_new, entering, starts, initial, states = kept
    previous = jnp.where(starts[:, None], 0.0, jnp.concatenate([initial[None], states[:-1]]))
    to_gates = jnp.concatenate(w_state)
    gates = partial(_gates, bias_new=bias_new)
    _, pull = jax.vjp(gates, _thirds(previous @ to_gates.T), entering, previous)
    # unit by unit, so ones pull back to the derivative of every unit in what made it
    by_leaving, by_entering, by_previous = pull(jnp.ones_like(states))

    def body(later, step):
        cotangent, start, by_leaving, by_previous = step
        g = cotangent + later
        earlier = by_previous * g + jnp.concatenate([by * g for by in by_leaving]) @ to_gates
        return jnp.where(start, 0.0, earlier), g

    steps = (cotangent, starts, by_leaving, by_previous)
    to_initial, g = jax.lax.scan(body, jnp.zeros_like(initial), steps, reverse=True)
    to_leaving, to_entering = (tuple(by * g for by in thirds) for thirds in (by_leaving, by_entering))
    to_w_state = tuple(to.T @ previous for to in to_leaving)
    return to_w_state, to_leaving[2].sum(0), to_entering, None, to_initial


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
        h = jnp.where(start, 0.0, state)
        h = _gates(_thirds(self.w_state @ h), _thirds(self.w_in @ x + self.bias), h, self.bias_new)
        return h, h

    def unroll(self, state, xs, starts):
        # products for all steps; only the recurrent one is sequential
        entering = checkpoint_name(project(xs, self.w_in.T) + self.bias, KEPT)
        if library.serves(self.w_state, self.bias_new, entering, state):
            states = recur(self.w_state, self.bias_new, entering, starts, state)
        else:
            thirds = tuple(jnp.split(self.w_state, 3))
            states = _recur(thirds, self.bias_new, _thirds(entering), starts, state)
        return (states[-1] if len(states) else state), states

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

"""Longhorn: the state is what an online learner has learned, updated in closed form.

Each channel holds a linear map from keys to values and solves, at every step,

    S_t = argmin_S |S - S_{t-1}|^2 + beta_t (S k_t - x_t)^2
        = S_{t-1} - Delta_t (S_{t-1} k_t - x_t) k_t^T,    Delta_t = beta_t / (1 + beta_t |k_t|^2)

(``implicit_update``), of which the recurrence keeps the diagonal of k_t k_t^T:

    S_t = (1 - Delta_t k_t^2) * S_{t-1} + (Delta_t x_t) k_t^T,     y_t = S_t q_t + D x_t

| paper    | here          | shape  | meaning                             |
|----------|---------------|--------|-------------------------------------|
| S_t      | h             | (n, c) | one column per channel (paper: row) |
| beta_t   | sigmoid(rate) | (c,)   | how much the new pair matters       |
| k_t, q_t | key, query    | (n,)   |                                     |
| x_t      | u             | (c,)   | values, after the convolution       |

There is no forget gate: what a key addresses is forgotten as it is written.

Source: B. Liu, R. Wang, L. Wu, Y. Feng, P. Stone, Q. Liu, "Longhorn: State Space Models are Amortized Online
Learners", 2024, arXiv:2407.14207, and the authors' code (Cranial-XIX/longhorn, models/longhorn.py, ``step``).
Departures: the convolution has no bias.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..core.native import library
from ..core.native.selective import implicit_scan
from .gates import np_sigmoid
from .selective import AbstractSelective


def implicit_update(
    s: Float[Array, "c n"], beta: Float[Array, " c"], k: Float[Array, " n"], x: Float[Array, " c"]
) -> Float[Array, "c n"]:
    """The minimiser of |S - s|^2 + beta (S k - x)^2, row by row, before the diagonal approximation."""
    delta = beta / (1 + beta * jnp.sum(k * k))
    return s - (delta * (s @ k - x))[:, None] * k


class Longhorn(AbstractSelective):
    """Features (size,) for inputs (size,), from ``channels`` (default: 2 size) states of ``state_size``."""

    def __init__(self, size: int, state_size: int = 16, channels: int | None = None, *, key: PRNGKeyArray):
        channels = channels or 2 * size
        super().__init__(size, state_size, channels, jnp.zeros(channels), key=key)

    def write_strength(self, rate, key):
        beta = jax.nn.sigmoid(rate)
        return beta / (1 + beta * jnp.sum(key * key, axis=-1, keepdims=True))

    def decay(self):
        return lambda delta, key: 1 - (key**2)[:, None] @ delta[None]

    def scan(self, initial, delta, key, query, value, starts):
        if not library.serves(initial, delta, key, query, value):
            return super().scan(initial, delta, key, query, value, starts)
        return implicit_scan(delta, key, query, value, starts, initial)

    def reference_update(self, h, rate, key, u):
        S = []
        for row, beta, x in zip(h, np_sigmoid(rate), u, strict=True):
            Delta = beta / (1 + beta * key @ key)
            S.append((1 - Delta * key**2) * row + Delta * x * key)
        return np.stack(S)

    @classmethod
    def example(cls, key, steps):
        return cls(3, 5, 7, key=key), jax.random.normal(key, (steps, 3))

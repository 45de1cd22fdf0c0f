"""The block that Mamba and Longhorn share: everything but the recurrence itself.

    u_t, g_t = W_in x_t                      value and gate, c channels each
    u_t      = silu(conv(u)_t)               short causal convolution
    r_t, k_t, q_t from W_x u_t               rate (through a low rank), key, query
    H_t      = a_t * H_{t-1} + k_t (delta_t * u_t)^T   (n, c); delta_t and a_t: see the layer
    y_t      = W_out ((H_t^T q_t + d * u_t) * silu(g_t))

| here               | shape              | meaning                                             |
|--------------------|--------------------|-----------------------------------------------------|
| enter, out         | (in, 2 c), (c, in) | W_in, W_out, transposed                             |
| convolution        | (4, c)             | its window is part of the state                     |
| select             | (c, rank + 2 n)    | W_x, transposed; the layers call (k, q) (B, C)      |
| rate, rate_bias    | (rank, c), (c,)    | low rank to rates                                   |
| skip               | (c,)               | d                                                   |

The recurrence is ``core/selective_scan.py``.
"""

import abc
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..core.projection import project
from ..core.selective_scan import Decay, selective_scan, selective_step
from .base import AbstractMemory
from .gates import np_silu, projection
from .short_convolution import ShortConvolution, Window


class SelectiveState(NamedTuple):
    window: Window
    h: Float[Array, "n c"]


class AbstractSelective(AbstractMemory):
    """Features (size,) for inputs (size,)."""

    enter: Float[Array, "in both"]
    convolution: ShortConvolution
    select: Float[Array, "c selected"]
    rate: Float[Array, "rank c"]
    rate_bias: Float[Array, " c"]
    skip: Float[Array, " c"]
    out: Float[Array, "c in"]
    state_size: int = eqx.field(static=True)
    out_size: int = eqx.field(static=True)

    def __init__(self, size: int, state_size: int, channels: int, rate_bias: Array, *, key: PRNGKeyArray):
        if state_size < 1:
            raise ValueError(f"state_size is {state_size}; a channel has at least 1 number of state")
        keys = jax.random.split(key, 5)
        rank = -(-size // 16)
        self.enter = projection(keys[0], size, 2 * channels)
        self.convolution = ShortConvolution(channels, key=keys[1])
        self.select = projection(keys[2], channels, rank + 2 * state_size)
        self.rate = rank**-0.5 * jax.random.uniform(keys[3], (rank, channels), minval=-1.0)
        self.rate_bias, self.skip = rate_bias, jnp.ones(channels)
        self.out = projection(keys[4], channels, size)
        self.state_size, self.out_size = state_size, size

    @abc.abstractmethod
    def write_strength(self, rate: Float[Array, "*T c"], key: Float[Array, "*T n"]) -> Float[Array, "*T c"]:
        """delta_t, of one step or of all; ``rate`` is what the low rank gives, before any nonlinearity."""

    @abc.abstractmethod
    def decay(self) -> Decay:
        """a_t from (delta_t, k_t)."""

    def scan(self, initial, delta, key, query, value, starts):
        """(last state, y of all steps)."""
        return selective_scan(self.decay(), initial, delta, key, query, value, starts)

    @abc.abstractmethod
    def reference_update(self, h: np.ndarray, rate: np.ndarray, key: np.ndarray, u: np.ndarray) -> np.ndarray:
        """The paper's update in float64 NumPy, of H (c, n)."""

    def keys_and_queries(self, selected: Float[Array | np.ndarray, "... selected"]) -> tuple:
        """(k_t, q_t) from their part of W_x u_t."""
        return selected[..., : self.state_size], selected[..., self.state_size :]

    def init(self):
        return SelectiveState(self.convolution.init(), jnp.zeros((self.state_size, len(self.skip))))

    def _coefficients(self, u):
        """(delta, key, query, delta * u) of one step or of all, from what left the convolution."""
        selected, rank = project(u, self.select), len(self.rate)
        key, query = self.keys_and_queries(selected[..., rank:])
        delta = self.write_strength(project(selected[..., :rank], self.rate) + self.rate_bias, key)
        return delta, key, query, delta * u

    def _leave(self, y, u, gate):
        return project((y + self.skip * u) * jax.nn.silu(gate), self.out)

    def step(self, state, x, start):
        u, gate = jnp.split(x @ self.enter, 2)
        window, u = self.convolution.step(state.window, u, start)
        delta, key, query, value = self._coefficients(u)
        h = selective_step(self.decay(), state.h, delta, key, value, start)
        return SelectiveState(window, h), self._leave(query @ h, u, gate)

    def unroll(self, state, xs, starts):
        us, gates = jnp.split(project(xs, self.enter), 2, axis=-1)
        window, us = self.convolution.unroll(state.window, us, starts)
        delta, key, query, value = self._coefficients(us)
        h, ys = self.scan(state.h, delta, key, query, value, starts)
        return SelectiveState(window, h), self._leave(ys, us, gates)

    def reference(self, xs, starts):
        f = lambda a: np.asarray(a, np.float64)  # noqa: E731
        entered, rank = f(xs) @ f(self.enter), len(self.rate)
        us, gates = np.split(entered, 2, axis=1)
        us = self.convolution.reference(us, np.asarray(starts))
        h, out = np.zeros((len(self.skip), self.state_size)), []
        for u, gate, start in zip(us, gates, starts, strict=True):
            h = np.zeros_like(h) if start else h
            selected = u @ f(self.select)
            key, query = (f(part) for part in self.keys_and_queries(selected[rank:]))
            h = self.reference_update(h, selected[:rank] @ f(self.rate) + f(self.rate_bias), key, u)
            out.append(((h @ query + f(self.skip) * u) * np_silu(gate)) @ f(self.out))
        return np.stack(out)

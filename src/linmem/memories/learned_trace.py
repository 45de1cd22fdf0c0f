"""Learned traces: what a linear filter is, for inputs of any kind, and nothing beside it.

    v_t = W x_t + a                                                        mixtures of the inputs
    S_t = gamma * S_{t-1} + v_t 1^T,   gamma = exp(-|alpha|) exp(-i omega)^T   sums that decay and turn
    y_t = M [Re S_t, Im S_t] + b                                           readout

| equations | here      | shape          | meaning                                                 |
|-----------|-----------|----------------|---------------------------------------------------------|
| W, a      | enter     | (m, in)        | mixtures; a constant one sums up the age of the episode |
| alpha     | decay     | (m,)           | how fast each trace is forgotten                        |
| omega     | frequency | (c,)           | how fast each of its c sums turns                       |
| S         | h         | (m c,) complex | memory, traces by contexts, flattened                   |
| M, b      | mix       | (out, 2 m c)   | readout                                                 |

Source: this library. It is a memory trace (Eberhard et al. 2025, arXiv:2503.15200) whose inputs, rates and
readout are learned and whose sums turn, as those of FFM (Morad et al. 2023, arXiv:2310.04128); and it is FFM
without its gates, norm and skip. No part is nonlinear, nor need an encoder stand before it.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..core.projection import linear
from .turning import AbstractTurning

PERIODS = (3.0, 6.0, 12.0, 24.0, 48.0, math.inf)
"""Steps in which a trace's sums turn once, at first: in octaves, and one that does not turn. With periods of
4, 16, 64 and 256, `repeat_previous` is learned less exactly (docs/benchmark.md)."""
SHORTEST, LONGEST = 0.5, 256.0
"""Steps in which the first and the last trace fall to 1/e, at first; between them equal in logarithms."""


class LearnedTrace(AbstractTurning):
    """Features (out_size,) for inputs (in_size,), from ``traces`` x ``len(periods)`` complex states."""

    decay: Float[Array, " m"]
    frequency: Float[Array, " c"]
    enter: eqx.nn.Linear
    mix: eqx.nn.Linear
    out_size: int = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        out_size: int,
        traces: int,
        periods: tuple[float, ...] = PERIODS,
        *,
        key: PRNGKeyArray,
    ):
        """Raises ValueError for periods that are not positive."""
        if not periods or not all(period > 0 for period in periods):
            raise ValueError(f"periods {periods}; need positive numbers of steps")
        enter_key, mix_key = jax.random.split(key)
        self.decay = 1 / jnp.geomspace(SHORTEST, LONGEST, traces)
        self.frequency = 2 * jnp.pi / jnp.array(periods)
        self.enter = eqx.nn.Linear(in_size, traces, key=enter_key)
        self.mix = eqx.nn.Linear(2 * traces * len(periods), out_size, key=mix_key)
        self.out_size = out_size

    def entering(self, x):
        return linear(self.enter, x)

    def leaving(self, z, x):
        return z

    @classmethod
    def example(cls, key, steps):
        return cls(3, 5, 4, (4.0, 9.0), key=key), jax.random.normal(key, (steps, 3))

    def reference(self, xs, starts):
        f = lambda a: np.asarray(a, np.float64)  # noqa: E731
        W, a, M, b = f(self.enter.weight), f(self.enter.bias), f(self.mix.weight), f(self.mix.bias)
        gamma = np.exp(-np.abs(f(self.decay)))[:, None] * np.exp(-1j * f(self.frequency))[None, :]
        S, out = np.zeros(gamma.shape, complex), []
        for x, start in zip(f(xs), starts, strict=True):
            S = np.zeros_like(S) if start else S
            S = gamma * S + np.outer(W @ x + a, np.ones(len(self.frequency)))
            out.append(M @ np.concatenate([np.real(S).ravel(), np.imag(S).ravel()]) + b)
        return np.stack(out)

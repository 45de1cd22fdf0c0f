"""Mamba (S6): a diagonal state space whose step size, input and output matrices depend on the input.

    Delta_t = softplus(r_t)
    h_t = exp(Delta_t A) * h_{t-1} + (Delta_t u_t) B_t^T,     y_t = h_t C_t + D u_t

| paper   | here            | shape   | meaning                                              |
|---------|-----------------|---------|------------------------------------------------------|
| A       | -exp(log_decay) | (c, n)  | begins as -1, ..., -n in every channel               |
| Delta_t | softplus(rate)  | (c,)    | begins log-uniform in [0.001, 0.1]                   |
| B_t,C_t | key, query      | (n,)    | input and output matrix of the step                  |
| D       | skip            | (c,)    |                                                      |

``negative_eigenvalues`` replaces the decay a = exp(Delta_t A) by 2 a - 1 (``eigenvalue_range.py``).
``aligned`` is the first refinement of Vo et al.: B_t = s * C_t with s > 0, so that S_C^T S_B has no negative
eigenvalue, and tokens do not all shrink to zero with depth.

Source: A. Gu, T. Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023,
arXiv:2312.00752, eqs. 1-2 and algorithm 2, with the block of section 3.4; T. N. Vo, D.-T. Pham, X. T. Tong,
T. M. Nguyen, "Demystifying the Token Dynamics of Deep Selective State Space Models", 2024, arXiv:2410.03292.
Departures: B is discretised by Euler's rule, as in the authors' code; the convolution has no bias.
``aligned`` leaves out the triangular form by which the authors' code keeps S_C of full rank; its threshold
could not be checked against a public copy of that code.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..core.native import library
from ..core.native.selective import exponential_scan
from ..core.selective_scan import over_states
from .eigenvalue_range import decay
from .selective import AbstractSelective

_ALIGNED_AT_LEAST = 0.7  # the authors' threshold on s


class Mamba(AbstractSelective):
    """Features (size,) for inputs (size,), from ``channels`` (default: 2 size) states of ``state_size``."""

    log_decay: Float[Array, "c n"]
    key_scale: Float[Array, " n"] | None
    negative_eigenvalues: bool = eqx.field(static=True)

    def __init__(
        self,
        size: int,
        state_size: int = 16,
        channels: int | None = None,
        *,
        negative_eigenvalues: bool = False,
        aligned: bool = False,
        key: PRNGKeyArray,
    ):
        rate_key, key = jax.random.split(key)
        channels = channels or 2 * size
        delta = jnp.exp(jax.random.uniform(rate_key, (channels,), minval=jnp.log(0.001), maxval=jnp.log(0.1)))
        super().__init__(size, state_size, channels, jnp.log(jnp.expm1(delta)), key=key)
        self.log_decay = jnp.broadcast_to(jnp.log(jnp.arange(1.0, state_size + 1)), (channels, state_size))
        self.key_scale = jnp.zeros(state_size) if aligned else None
        if aligned:
            self.select = self.select[:, :-state_size]
        self.negative_eigenvalues = negative_eigenvalues

    def keys_and_queries(self, selected):
        if self.key_scale is None:
            return super().keys_and_queries(selected)
        return (jax.nn.softplus(self.key_scale) + _ALIGNED_AT_LEAST) * selected, selected

    def write_strength(self, rate, key):
        return jax.nn.softplus(rate)

    def decay(self):
        of_states = -jnp.exp(self.log_decay).T
        return lambda delta, key: decay(
            jnp.exp(over_states(delta, len(key)) * of_states), self.negative_eigenvalues
        )

    def scan(self, initial, delta, key, query, value, starts):
        if not library.serves(self.log_decay, initial, delta, key, query, value):
            return super().scan(initial, delta, key, query, value, starts)
        form = jnp.asarray((2.0, -1.0) if self.negative_eigenvalues else (1.0, 0.0), value.dtype)
        rate = -jnp.exp(self.log_decay).T
        return exponential_scan(rate, delta, key, query, value, form, starts, initial)

    def reference_update(self, h, rate, key, u):
        Delta, A = np.logaddexp(rate, 0), -np.exp(np.asarray(self.log_decay, np.float64))
        A_bar = np.exp(Delta[:, None] * A)
        if self.negative_eigenvalues:
            A_bar = 2 * A_bar - 1
        return A_bar * h + np.outer(Delta * u, key)

    @classmethod
    def example(cls, key, steps):
        memory = cls(3, 5, 7, negative_eigenvalues=True, key=key)
        return memory, jax.random.normal(key, (steps, 3))

"""The range of a transition's eigenvalues: [0, 1], or [-1, 1] as state tracking needs.

A recurrence whose eigenvalues cannot be negative cannot count modulo two. Two maps give them the sign:

    decays         a in [0, 1]      ->  2 a - 1 in [-1, 1]
    Householders   I - beta k k^T   ->  I - 2 beta k k^T,   |k| = 1, beta in [0, 1]: 1 - 2 beta along k

Every layer with a meaningful range takes ``negative_eigenvalues`` and calls one of these.

Source: R. Grazzi, J. Siems, A. Zela, J. K. H. Franke, F. Hutter, M. Pontil, "Unlocking State-Tracking in
Linear RNNs Through Negative Eigenvalues", 2024, arXiv:2411.12537.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..core.chunked.decay import Decay

_SMALLEST = 1e-20  # added to a magnitude near 0, so that its logarithm and the derivative are finite


def decay(a: Float[Array, "*shape"], negative: bool) -> Float[Array, "*shape"]:
    """A decay in [0, 1], mapped to its range."""
    return 2 * a - 1 if negative else a


def log_decay(log_a: Float[Array, "*shape"], negative: bool) -> Decay:
    """The same for a decay given by its logarithm, keeping the digits of decays near 1 and -1."""
    if not negative:
        return Decay(log_a)
    positive = log_a > -jnp.log(2.0)
    short = jnp.where(positive, 2 * jnp.expm1(log_a), -2 * jnp.exp(log_a))  # |2 a - 1| - 1
    small = short < -0.5
    near_zero = jnp.where(short < -1, 0.0, 1 + short)  # 2 a may be rounded to more than 1
    log = jnp.where(small, jnp.log(near_zero + _SMALLEST), jnp.log1p(jnp.where(small, 0.0, short)))
    return Decay(log, jnp.where(positive, 1.0, -1.0).astype(log.dtype))


def householder_scale(beta: Float[Array, "*shape"], negative: bool) -> Float[Array, "*shape"]:
    """beta in [0, 1] of I - beta k k^T, mapped to its range: doubled if the eigenvalue 1 - beta may reach
    -1."""
    return 2 * beta if negative else beta

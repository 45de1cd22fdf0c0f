"""Quotients of power series by FFT: the impulse response of a transfer function from its coefficients.

    b(z) / a(z) = k_0 + k_1 z + k_2 z^2 + ...,   a(0) = 1,   z one step of delay

By Newton's iteration g <- g (2 - a g) for 1 / a, which doubles the number of right terms, so that L terms
cost O(L log L), whatever the degrees of a and b.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from .convolution import convolve


def quotient(b: Float[Array, "p *c"], a: Float[Array, "q *c"], length: int) -> Float[Array, "{length} *c"]:
    """The first ``length`` coefficients of b(z) / a(z), each channel by itself; a(0) must be 1."""
    inverse, known = jnp.ones_like(a[:1]), 1
    while known < length:
        known = min(2 * known, length)
        inverse = to_length(inverse, known)
        correction = -convolve(to_length(a, known), inverse)
        inverse = convolve(inverse, correction.at[0].add(2.0))
    return convolve(to_length(b, length), inverse)


def to_length(series: Float[Array, "p *c"], length: int) -> Float[Array, "{length} *c"]:
    """The first ``length`` coefficients; those not given are 0."""
    missing = max(0, length - len(series))
    return jnp.pad(series[:length], ((0, missing), *(((0, 0),) * (series.ndim - 1))))

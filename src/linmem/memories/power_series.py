"""Products and quotients of power series by FFT: a transfer function's impulse response.

    b(z) / a(z) = k_0 + k_1 z + k_2 z^2 + ...,   a(0) = 1,   z one step of delay

The quotient comes from Newton's iteration g <- g (2 - a g), which doubles the number of right terms, so L
terms cost O(L log L), whatever the degrees of a and b. Series stand on the last axis; leading axes broadcast.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float
from scipy.fft import next_fast_len


def product(a: Float[Array, "*#b p"], b: Float[Array, "*#b q"], length: int) -> Float[Array, "*b length"]:
    """The first ``length`` coefficients of a(z) b(z). Causal convolution is this product."""
    a, b = a[..., :length], b[..., :length]
    size = next_fast_len(a.shape[-1] + b.shape[-1] - 1, real=True)
    full = jnp.fft.irfft(jnp.fft.rfft(a, size) * jnp.fft.rfft(b, size), size)
    missing = max(0, length - size)
    return jnp.pad(full[..., :length], [(0, 0)] * (full.ndim - 1) + [(0, missing)])


def quotient(b: Float[Array, "*#b p"], a: Float[Array, "*#b q"], length: int) -> Float[Array, "*b length"]:
    """The first ``length`` coefficients of b(z) / a(z); a(0) must be 1."""
    inverse, known = jnp.ones_like(a[..., :1]), 1
    while known < length:
        known = min(2 * known, length)
        correction = -product(a, inverse, known)
        inverse = product(inverse, correction.at[..., 0].add(2.0), known)
    return product(b, inverse, length)

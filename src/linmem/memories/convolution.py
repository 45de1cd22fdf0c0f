"""Causal convolution by the fast Fourier transform: a time-invariant memory sees a whole sequence at once.

    y_k = sum_{l <= k} K_l u_{k-l}

Only for one sequence from a zero state, without starts inside: a product of spectra mixes all steps, so an
erased past (or a NaN in it) would reach what comes after.
"""

import jax.numpy as jnp
import scipy
from jaxtyping import Array, Float


def convolve(kernel: Float[Array, "T *c"], xs: Float[Array, "T *c"]) -> Float[Array, "T *c"]:
    """The first T values of the linear convolution along the leading axis, each channel by itself."""
    steps = len(xs)
    size = fast_length(2 * steps - 1)  # room for both, so that nothing wraps around
    spectrum = jnp.fft.rfft(kernel, size, axis=0) * jnp.fft.rfft(xs, size, axis=0)
    return jnp.fft.irfft(spectrum, size, axis=0)[:steps]


def fast_length(length: int) -> int:
    """The least number >= ``length`` that real transforms do fast: a product of small primes."""
    return int(scipy.fft.next_fast_len(length, real=True))  # pyright: ignore[reportArgumentType]

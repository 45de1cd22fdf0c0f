"""Convolution that starts cut: every output sums over the inputs of its own episode only.

    y_t = sum_{s <= t, no start in (s, t]} k_{t-s} x_s

A start between s and t is one in the half before a cut or one after it. So the sum over all s before a cut
and all t after it is an ordinary convolution of the inputs since the last start before the cut, kept where no
start came after it. Halving again and again leaves short blocks, done directly: O(T log^2 T) with FFTs.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Inexact

_DIRECT = 16
"""Length of the blocks that are summed directly."""


def causal_filter(
    kernel: Float[Array, "L out in"], xs: Float[Array, "T in"], starts: Bool[Array, " T"]
) -> Float[Array, "T out"]:
    """y_t = sum_s kernel[t - s] x_s over the last L inputs of t's episode.

    Inputs of other episodes are selected away, never multiplied by 0, so NaN in them stays there.
    """
    steps, size = len(xs), _DIRECT
    whole = size
    while whole < steps:
        whole *= 2
    xs = jnp.pad(xs, ((0, whole - steps), (0, 0)))
    episode = jnp.cumsum(jnp.pad(starts, (0, whole - steps)))
    kernel = jnp.pad(kernel[:whole], ((0, max(0, whole - len(kernel))), (0, 0), (0, 0)))

    blocks, number = xs.reshape(-1, size, xs.shape[1]), episode.reshape(-1, size)
    ys = blocks @ kernel[0].T
    for lag in range(1, size):
        same = (number[:, lag:] == number[:, :-lag])[..., None]
        ys = ys.at[:, lag:].add(jnp.where(same, blocks[:, :-lag], 0.0) @ kernel[lag].T)

    while size < whole:
        ys = ys.reshape(-1, 2, size, ys.shape[-1])
        before, after = jnp.moveaxis(episode.reshape(-1, 2, size), 1, 0)
        left = xs.reshape(-1, 2, size, xs.shape[-1])[:, 0]
        left = jnp.where((before == before[:, -1:])[..., None], left, 0.0)
        passed = _convolve(kernel[: 2 * size], left, 2 * size)[:, size:]
        ys = ys.at[:, 1].add(jnp.where((after == before[:, -1:])[..., None], passed, 0.0))
        size *= 2
    return ys.reshape(whole, -1)[:steps]


def _convolve(
    kernel: Inexact[Array, "l out in"], xs: Float[Array, "b t in"], size: int
) -> Float[Array, "b size out"]:
    """Circular convolution of length ``size``."""
    spectra = jnp.einsum("foi,bfi->bfo", jnp.fft.rfft(kernel, size, axis=0), jnp.fft.rfft(xs, size, axis=1))
    return jnp.fft.irfft(spectra, size, axis=1)

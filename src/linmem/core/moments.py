"""Mean and variance of all numbers so far, a batch at a time.

With n numbers of mean m and variance v, and k new ones of mean m' and variance v':

    mean     <- m + (m' - m) k / (n + k)
    variance <- (n v + k v' + (m' - m)^2 n k / (n + k)) / (n + k)

Source: T. Chan, G. Golub, R. LeVeque, "Algorithms for Computing the Sample Variance", 1983, The American
Statistician 37(3).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class Moments(NamedTuple):
    """Of ``count`` numbers in each place. Before any it is 0 and 1, which scales nothing."""

    mean: Float[Array, "*shape"]
    variance: Float[Array, "*shape"]
    count: Float[Array, ""]


def no_moments(shape: tuple[int, ...]) -> Moments:
    return Moments(jnp.zeros(shape), jnp.ones(shape), jnp.zeros(()))


def merge(so_far: Moments, batch: Float[Array, "n *shape"], where: Bool[Array, " n"]) -> Moments:
    """With the rows of ``batch`` for which ``where`` holds; unchanged if there are none."""
    chosen = where.reshape(-1, *(1,) * (batch.ndim - 1))
    new = jnp.sum(where).astype(jnp.float32)
    total = so_far.count + new
    mean = jnp.sum(jnp.where(chosen, batch, 0.0), axis=0) / jnp.maximum(new, 1.0)
    variance = jnp.sum(jnp.where(chosen, (batch - mean) ** 2, 0.0), axis=0) / jnp.maximum(new, 1.0)
    gap, share = mean - so_far.mean, new / jnp.maximum(total, 1.0)
    spread = (1 - share) * so_far.variance + share * variance + gap**2 * share * (1 - share)
    return Moments(so_far.mean + gap * share, jnp.where(new > 0, spread, so_far.variance), total)

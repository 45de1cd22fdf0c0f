"""Vectors at length 1."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

EPSILON = 1e-6
"""Added to the squared length: zero stays zero, with a finite derivative."""


def unit(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Vectors along the last axis at length 1."""
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + EPSILON)

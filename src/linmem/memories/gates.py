"""Norms and gates that several layers share."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray


def unit(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Vectors along the last axis at length 1; zero stays zero, with a finite derivative."""
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-6)


class GatedNorm(eqx.Module):
    """Root-mean-square norm of each head, scaled, times a gate: rms(y) * weight * silu(gate).

    y and gate (..., heads, d); weight (heads, d).
    """

    weight: Float[Array, "heads d"]
    eps: float = eqx.field(static=True)

    def __init__(self, heads: int, size: int, eps: float = 1e-5):
        self.weight, self.eps = jnp.ones((heads, size)), eps

    def __call__(self, y: Float[Array, "heads d"], gate: Float[Array, "heads d"]) -> Float[Array, "heads d"]:
        mean_square = jnp.mean(y * y, axis=-1, keepdims=True)
        return y * jax.lax.rsqrt(mean_square + self.eps) * self.weight * jax.nn.silu(gate)

    def reference(self, y: np.ndarray, gate: np.ndarray) -> np.ndarray:
        """The same in float64 NumPy."""
        normed = y / np.sqrt((y**2).mean(-1, keepdims=True) + self.eps)
        return normed * np.asarray(self.weight, np.float64) * silu(gate)


def projection(key: PRNGKeyArray, inputs: int, outputs: int) -> Float[Array, "inputs outputs"]:
    """A weight for ``x @ weight``, from LeCun's normal law."""
    return jax.nn.initializers.lecun_normal(0, 1)(key, (inputs, outputs))


# float64 NumPy forms for references


def sigmoid(v: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-v))


def silu(v: np.ndarray) -> np.ndarray:
    return v * sigmoid(v)

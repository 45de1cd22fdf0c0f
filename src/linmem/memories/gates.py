"""Norms, gates and projections that several layers share, each with its float64 NumPy form for references."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..core.unit import EPSILON

_EPS = 1e-6  # of the norm


class HeadNorm(eqx.Module):
    """Root-mean-square norm of each head, scaled: y (heads, d), weight (heads, d)."""

    weight: Float[Array, "heads d"]

    def __init__(self, heads: int, size: int):
        self.weight = jnp.ones((heads, size))

    def __call__(self, y: Float[Array, "heads d"]) -> Float[Array, "heads d"]:
        return y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + _EPS) * self.weight

    def reference(self, y: np.ndarray) -> np.ndarray:
        return y / np.sqrt((y**2).mean(-1, keepdims=True) + _EPS) * float64(self.weight)


def projection(key: PRNGKeyArray, inputs: int, outputs: int) -> Float[Array, "inputs outputs"]:
    """A weight for ``x @ weight``, from LeCun's normal law."""
    return jax.nn.initializers.lecun_normal(0, 1)(key, (inputs, outputs))


def step_sizes(key: PRNGKeyArray, heads: int) -> Float[Array, " heads"]:
    """Biases whose softplus is log-uniform in [0.001, 0.1], as Mamba begins its step sizes."""
    size = jnp.exp(jax.random.uniform(key, (heads,), minval=np.log(1e-3), maxval=np.log(1e-1)))
    return size + jnp.log(-jnp.expm1(-size))


def per_head(size: int, heads: int) -> int:
    """How many of ``size`` channels each head has."""
    if size % heads:
        raise ValueError(f"size {size} is no multiple of heads {heads}; give one that is, or other heads")
    return size // heads


def float64(x) -> np.ndarray:
    return np.asarray(x, np.float64)


def np_sigmoid(v: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-v))


def np_silu(v: np.ndarray) -> np.ndarray:
    return v * np_sigmoid(v)


def np_softplus(v: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, v)


def np_unit(v: np.ndarray) -> np.ndarray:
    return v / np.sqrt((v**2).sum(-1, keepdims=True) + EPSILON)

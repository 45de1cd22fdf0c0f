"""Products of a layer's matrices with one step's vector, in the form that is fast for many steps at once.

They are written as row times matrix. Under vmap over time and batch, XLA then gives the rows of all steps one
after another; written as matrix times column it transposes before and after, which on a CPU costs as much as
the product.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from ..core.projection import project


def complex_times(matrix: Float[Array, "2 n in"], x: Float[Array, " in"]) -> Complex[Array, " n"]:
    """(matrix[0] + i matrix[1]) x for a real x."""
    both = project(x, matrix.reshape(-1, matrix.shape[-1]).T)
    return jax.lax.complex(*jnp.split(both, 2))


def real_of_times(matrix: Float[Array, "2 out n"], h: Complex[Array, " n"]) -> Float[Array, " out"]:
    """Re((matrix[0] + i matrix[1]) h), as one real product."""
    real, imag = matrix
    return project(jnp.concatenate([h.real, h.imag]), jnp.concatenate([real, -imag], axis=1).T)

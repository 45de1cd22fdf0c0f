"""The short causal convolution by a compiled loop over time (``convolution.cpp``)."""

import jax
from jaxtyping import Array, Bool, Float

from .library import call


@jax.custom_vjp
def convolution(
    weight: Float[Array, "width channels"],
    window: Float[Array, "past channels"],
    xs: Float[Array, "T channels"],
    starts: Bool[Array, " T"],
) -> Float[Array, "T channels"]:
    """y_t = sum_j W_j x_{t-j}, with the window before the first step and nothing from before a start."""
    return _fwd(weight, window, xs, starts)[0]


def _fwd(*operands):
    (y,) = call("convolution_forward", [operands[2].shape], *operands)
    return y, operands


def _bwd(operands, dy):
    shapes = [x.shape for x in operands[:3]]
    return *call("convolution_backward", shapes, *operands, dy), None


convolution.defvjp(_fwd, _bwd)

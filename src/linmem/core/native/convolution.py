"""The short causal convolution by a compiled loop over time (``convolution.cpp``)."""

import functools

import jax
from jaxtyping import Array, Bool, Float

from .library import call


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def convolution(
    silu: bool,
    weight: Float[Array, "width channels"],
    window: Float[Array, "past channels"],
    xs: Float[Array, "T channels"],
    starts: Bool[Array, " T"],
) -> Float[Array, "T channels"]:
    """y_t = sum_j W_j x_{t-j}, with the window before the first step and nothing from before a start; and
    its SiLU, if that is asked for."""
    return _fwd(silu, weight, window, xs, starts)[0]


def _fwd(silu, *operands):
    (y,) = call("convolution_forward", [operands[2].shape], *operands, silu=silu)
    return y, operands


def _bwd(silu, operands, dy):
    shapes = [x.shape for x in operands[:3]]
    return *call("convolution_backward", shapes, *operands, dy, silu=silu), None


convolution.defvjp(_fwd, _bwd)

"""``project``: x @ w for all steps of a sequence at once, with a derivative in ``w`` that stays fast.

The gradient in w is a product over all steps, x^T g. Left to itself, differentiation writes it as
(g^T x)^T, and XLA's CPU compiler then transposes g first, and computes whatever g is made of column by column
while it does: for 16384 steps of 384 channels this took 0.26 s, where the product itself takes 0.01 s. Here x
is what is transposed.

Not for one step under ``vmap``: there the gradient would be one matrix per step.
"""

import jax
from jaxtyping import Array, Float


@jax.custom_vjp
def project(x: Float[Array, "*steps in"], w: Float[Array, "in out"]) -> Float[Array, "*steps out"]:
    """x @ w. Differentiable in reverse mode."""
    return x @ w


def _forward(x, w):
    return x @ w, (x, w)


def _backward(kept, g):
    x, w = kept
    return g @ w.T, _rows(x).T @ _rows(g)


project.defvjp(_forward, _backward)


def _rows(x):
    return x.reshape(-1, x.shape[-1])

"""``project``: x @ w, whose derivative in ``w`` stays one fast product however deep ``x`` is vmapped.

The gradient in w is a product over all steps, x^T g. JAX's own rules lose it in two ways. Differentiation
of x @ w writes it as (g^T x)^T, and XLA's CPU compiler then transposes g first, computing whatever g is made
of column by column while it does: for 16384 steps of 384 channels this took 0.26 s, where the product takes
0.01 s. A custom derivative of one sequence, vmapped over sequences, makes one matrix per sequence and adds
them up, which for short sequences takes up to three times as long. So ``project`` is a primitive: where vmap
meets it, the new axis joins the rows, and its derivative sees all rows at once.

Two limits. Where ``w`` is vmapped too (seeds with weights of their own), take the gradient inside that vmap;
outside it is right, and slow. And in ``jax.shard_map`` gradients ask for ``check_vma=False``.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float, Inexact

_project = Primitive("project")


def project(x: Inexact[Array, "*steps _"], w: Inexact[Array, "_ out"]) -> Inexact[Array, "*steps out"]:
    """x @ w. Differentiable, in forward mode too.

    Raises TypeError where the shapes do not fit."""
    dtype = jnp.result_type(x, w)  # equal types, so that each derivative comes back in its own
    return _project.bind(jnp.asarray(x, dtype), jnp.asarray(w, dtype))


def _product(x, w):
    return x @ w


def _rows(x):
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _shaped(x, w):
    if x.ndim < 1 or w.ndim != 2 or x.shape[-1] != w.shape[0]:
        raise TypeError(f"project takes x of (*steps, in) and w of (in, out), not {x.shape} and {w.shape}")
    return ShapedArray((*x.shape[:-1], w.shape[1]), x.dtype)


def _batched(operands, axes):
    (x, w), (x_axis, w_axis) = operands, axes
    if w_axis is not None:  # weights of their own, as those of several seeds: rows do not mix
        return jax.vmap(_product, axes)(x, w), 0
    if x_axis == x.ndim - 1:
        x, x_axis = jnp.moveaxis(x, x_axis, 0), 0
    return project(x, w), x_axis


_project.def_impl(_product)
_project.def_abstract_eval(_shaped)
mlir.register_lowering(_project, mlir.lower_fun(_product, multiple_results=False))
batching.primitive_batchers[_project] = _batched
ad.defbilinear(_project, lambda g, x, w: g @ w.T, lambda g, x, w: _rows(x).T @ _rows(g))


def linear(layer: eqx.nn.Linear, x: Float[Array, "*steps in"]) -> Float[Array, "*steps out"]:
    """``layer`` applied to all steps by ``project``."""
    y = project(x, layer.weight.T)
    return y if layer.bias is None else y + layer.bias

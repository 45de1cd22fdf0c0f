"""``scan`` with its time axis spread over devices: each scans its part, and what is carried is combined.

1. Every device composes its steps into one element: what its part does to any state that enters it.
2. These elements, one per device and no larger than a step's, are sent to all devices.
3. Every device applies those before its own to the initial state, and scans its part from the result.

The derivative does the same from the last device to the first, with the adjoint recurrence of ``scan``. The
elements are read twice instead of once; between devices go N elements and N adjoint elements, however long
the sequence is.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Inexact

from .algebra import AbstractAlgebra, Element
from .scan import (
    Method,
    act_lifted,
    backward,
    combine_lifted,
    element_gradient,
    forward,
    lift,
    previous_states,
)

AXIS = "time"


def sharded_scan(
    algebra: AbstractAlgebra,
    elements: Element,
    initial: Inexact[Array, "*state"],
    starts: Bool[Array, "T *batch"] | None,
    mesh: Mesh,
    method: Method = "auto",
) -> tuple[Inexact[Array, "*state"], Inexact[Array, "T *state"]]:
    """As ``scan``, whose result it equals up to rounding, with the states spread over ``mesh``.

    mesh: has one axis, "time". The number of steps must be a multiple of its size (ValueError).
    elements, initial, starts: as in ``scan``; transitions that are constant in time go to every device.
    """
    steps, devices = elements.input.shape[0], mesh.shape[AXIS]
    if steps % devices or steps == 0:
        raise ValueError(
            f"{steps} steps cannot be spread evenly over {devices} devices; pad them to a multiple"
        )
    if starts is None:
        starts = jnp.zeros(elements.input.shape[: elements.input.ndim - algebra.state_rank], bool)
    algebra, elements = algebra.materialise(elements)
    dtype = jnp.promote_types(elements.input.dtype, jnp.float32)
    return _over(algebra, mesh, method)(elements, initial.astype(dtype), starts)


@functools.cache
def _over(algebra: AbstractAlgebra, mesh: Mesh, method: Method):
    @jax.custom_vjp
    def run(elements, initial, starts):
        return run_fwd(elements, initial, starts)[0]

    def run_fwd(elements, initial, starts):
        spread = _specs(elements)
        part = jax.shard_map(
            functools.partial(_forward_part, algebra, method),
            mesh=mesh,
            in_specs=(spread, P(), P(AXIS)),
            out_specs=P(AXIS),
            check_vma=False,
        )
        last, begun, states = part(elements, initial, starts)
        return (last[-1], states), (elements, starts, begun, states)

    def run_bwd(kept, cotangents):
        elements, starts, begun, states = kept
        g_last, g_states = cotangents
        spread = _specs(elements)
        leaves, form = jax.tree.flatten(elements)
        learned = [
            spec for leaf, spec in zip(leaves, form.flatten_up_to(spread), strict=True) if _is_inexact(leaf)
        ]
        part = jax.shard_map(
            functools.partial(_backward_part, algebra, method, learned),
            mesh=mesh,
            in_specs=(spread, P(AXIS), P(AXIS), P(AXIS), P(AXIS), P()),
            out_specs=(learned, P()),
            check_vma=False,
        )
        found, g_initial = part(elements, starts, begun, states, g_states, g_last)
        gradients = iter(found)
        full = [
            next(gradients) if _is_inexact(leaf) else np.zeros(leaf.shape, jax.dtypes.float0)
            for leaf in leaves
        ]
        return jax.tree.unflatten(form, full), g_initial, None

    run.defvjp(run_fwd, run_bwd)
    return run


def _specs(elements: Element) -> Element:
    """Where each leaf goes: by time, but to every device what is constant in time."""
    steps = len(elements.input)
    return jax.tree.map(lambda x: P(AXIS) if len(x) == steps else P(), elements)


def _is_inexact(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def _forward_part(algebra, method, elements, initial, starts):
    """One device's part: (its last state, the state it began with, its states), with a leading axis to
    stack the first two by device."""
    begun = _carried(algebra, _total(algebra, elements, starts, initial.dtype), initial, backwards=False)
    last, states = forward(algebra, method, elements, starts, begun)
    return last[None], begun[None], states


def _backward_part(algebra, method, specs, elements, starts, begun, states, g_states, g_last):
    """One device's part of the derivative: (gradients of the leaves that have one, of initial). specs: where
    each of these leaves is spread."""
    begun = begun[0]
    adjoints = algebra.adjoint_inputs(elements, previous_states(algebra, states, begun, starts))
    linear = algebra.ordinary()
    # Step t takes the gradient that arrives at h_t to J_t^T (that + dL/dh_t) at h_{t-1}, or to 0 at a start.
    g_states = g_states.astype(begun.dtype)
    added = linear.where(starts, jnp.zeros_like(g_states), linear.apply(adjoints, g_states))
    reversed_ = jax.tree.map(lambda x: jnp.flip(x, 0), Element(adjoints, added))
    total = _total(linear, reversed_, jnp.flip(starts, 0), begun.dtype)
    arriving = _carried(linear, total, g_last, backwards=True)
    g, g_begun = backward(algebra, method, (elements, states, g_states), starts, (begun, arriving))
    found = element_gradient(algebra, elements, begun, starts, states, g)
    pairs = zip(jax.tree.leaves(elements), jax.tree.leaves(found), strict=True)
    gradients = [gradient for leaf, gradient in pairs if _is_inexact(leaf)]
    learned = [
        gradient if spec == P(AXIS) else jax.lax.psum(gradient, AXIS)
        for gradient, spec in zip(gradients, specs, strict=True)
    ]
    first = jax.lax.axis_index(AXIS) == 0
    return learned, jax.lax.psum(jnp.where(first, g_begun, jnp.zeros_like(g_begun)), AXIS)


def _total(algebra: AbstractAlgebra, elements: Element, starts: Array, dtype):
    """All steps as one (element, whether it erases what came before)."""
    steps = len(elements.input)

    def at(t):
        cut = lambda x: jax.lax.dynamic_slice_in_dim(x, t if len(x) == steps else 0, 1)  # noqa: E731
        return lift(algebra, jax.tree.map(cut, elements), cut(starts), dtype)

    following = lambda t, total: combine_lifted(algebra, total, at(t))  # noqa: E731
    return jax.tree.map(lambda x: x[0], jax.lax.fori_loop(1, steps, following, at(0)))


def _carried(algebra: AbstractAlgebra, total, entering: Array, backwards: bool) -> Array:
    """What arrives at this device, of what enters at the first one (``backwards``: at the last)."""
    totals = jax.lax.all_gather(total, AXIS)
    _, erases = totals
    devices, here = len(erases), jax.lax.axis_index(AXIS)

    def through(i, h):
        device = devices - 1 - i if backwards else i
        passed = device > here if backwards else device < here
        return jnp.where(passed, act_lifted(algebra, jax.tree.map(lambda x: x[device], totals), h), h)

    return jax.lax.fori_loop(0, devices, through, entering)

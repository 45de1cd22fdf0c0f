"""Stationary state feedback: train any recurrent memory without backpropagation through time.

Of the gradient in the state, g_t = dL/dh_t, backpropagation through time computes

    g_t = l_t + J_{t+1}^T g_{t+1},     l_t: what the loss reads off h_t itself,   J_t = dh_t / dh_{t-1}

one step after another. Here J_t is replaced by a fixed diagonal D, not where the memory is stepped but only
where errors are sent back:

    g_t = l_t + D g_{t+1}     (no D where start_{t+1})

which is a linear recurrence with constant coefficients. With all g_t at hand, the gradients in parameters and
inputs are those of T separate steps, taken at once. D = 0 is the fully truncated gradient.

Source: P. Caillon, E. Fagnou, A. Allauzen, "Fast Training of Recurrent Neural Networks with Stationary State
Feedbacks", 2025, arXiv:2503.23104.
Departures: the paper's values of D could not be read here; D is an argument.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from ..core.algebra import Diagonal, Element
from ..core.scan import scan
from .base import AbstractMemory, State


def feedback_states(
    memory: AbstractMemory, state: State, xs: PyTree, starts: Bool[Array, " T"], feedback: Any
) -> State:
    """All states h_t that ``memory`` passes through from ``state``, with a leading time axis; their
    derivative sends errors back through ``feedback``. A GRU's states are its features; others read theirs
    from them.

    feedback: D, a number or an array that broadcasts against each array of the state.
    """
    floats, rest = eqx.partition((memory, state, xs), eqx.is_inexact_array)
    return _states(floats, rest, starts, feedback)


@eqx.filter_custom_vjp
def _states(floats, rest, starts, feedback):
    memory, state, xs = eqx.combine(floats, rest)

    def body(h, timed):
        h, _ = memory.step(h, *timed)
        return h, h

    return jax.lax.scan(body, state, (xs, starts))[1]


@_states.def_fwd
def _forward(perturbed, floats, rest, starts, feedback):
    states = _states(floats, rest, starts, feedback)
    return states, states


@_states.def_bwd
def _backward(states, cotangent, perturbed, floats, rest, starts, feedback):
    parameters, first, xs = floats
    whole = eqx.combine(first, rest[1])
    before = jax.tree.map(lambda h, all: jnp.concatenate([h[None], all[:-1]]), whole, states)
    before, counts = eqx.partition(before, eqx.is_inexact_array)

    def steps(parameters, before, xs):
        """All T steps side by side, each from the state it met."""
        memory, _, inputs = eqx.combine((parameters, None, xs), rest)
        after, _ = jax.vmap(memory.step)(eqx.combine(before, counts), inputs, starts)
        return eqx.filter(after, eqx.is_inexact_array)

    def send_back(h, local):
        """g_t for all t: the recurrence in reversed time, erased where the step after t began anew."""
        local = jnp.zeros((len(starts), *h.shape), h.dtype) if local is None else local
        d = jnp.broadcast_to(jnp.asarray(feedback, h.dtype), h.shape)
        element = Element(d.reshape(1, -1), jnp.flip(local, 0).reshape(len(starts), -1))
        cuts = jnp.roll(jnp.flip(starts), 1)
        _, g = scan(Diagonal(), element, jnp.zeros_like(h).ravel(), cuts)
        return jnp.flip(g, 0).reshape(local.shape)

    # What the loss does not read has no gradient, which equinox writes as None.
    g = jax.tree.map(send_back, first, cotangent)
    parameters_g, _, xs_g = jax.vjp(steps, parameters, before, xs)[1](g)
    first_g = jax.tree.map(lambda g: jnp.where(starts[0], 0.0, jnp.asarray(feedback, g.dtype) * g[0]), g)
    return parameters_g, first_g, xs_g

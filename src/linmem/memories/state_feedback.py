"""Stationary state feedback: train any recurrent memory without backpropagation through time.

Of the gradient in the state, g_t = dL/dh_t, backpropagation through time computes

    g_{t-1} = r_t + J_t^T g_t,     r_t = (dy_t / dh_{t-1})^T dL/dy_t,   J_t = dh_t / dh_{t-1}

one step after another. Here J_t is replaced by a fixed diagonal D, not where the memory is stepped but only
where errors are sent back:

    g_{t-1} = r_t + D g_t     (0 where start_t)

which is a linear recurrence with constant coefficients. With all g_t at hand, the gradients in parameters and
inputs are those of T separate steps, taken at once. D = 0 is the fully truncated gradient.

Source: P. Caillon, E. Fagnou, A. Allauzen, "Fast Training of Recurrent Neural Networks with Stationary State
Feedbacks", 2025, arXiv:2503.23104.
Departures: the paper adds the error of the output at h_t, where it is made, to g_t; a memory here only tells
how its features y_t follow from h_{t-1}, so one exact step through the memory is kept before D takes over.
The paper's D could not be read here; it is an argument.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from ..core.algebra import Diagonal, Element
from ..core.scan import scan
from .base import AbstractMemory, State


def feedback_unroll(
    memory: AbstractMemory, state: State, xs: PyTree, starts: Bool[Array, " T"], feedback: Any
) -> tuple[State, Array]:
    """``memory.unroll(state, xs, starts)``, whose derivative sends errors back through ``feedback``.

    feedback: D, a number or an array that broadcasts against each array of the state.
    """
    floats, rest = eqx.partition((memory, state, xs), eqx.is_inexact_array)
    return _unroll(floats, rest, starts, feedback)


@eqx.filter_custom_vjp
def _unroll(floats, rest, starts, feedback):
    memory, state, xs = eqx.combine(floats, rest)
    return memory.unroll(state, xs, starts)


@_unroll.def_fwd
def _forward(perturbed, floats, rest, starts, feedback):
    memory, state, xs = eqx.combine(floats, rest)

    def body(h, timed):
        after, y = memory.step(h, *timed)
        return after, (h, y)

    last, (before, ys) = jax.lax.scan(body, state, (xs, starts))
    return (last, ys), before


@_unroll.def_bwd
def _backward(before, cotangents, perturbed, floats, rest, starts, feedback):
    last_g, ys_g = cotangents
    parameters, first_state, xs = floats
    states, counts = eqx.partition(before, eqx.is_inexact_array)

    def steps(parameters, states, xs):
        """All T steps side by side, each from the state it met."""
        memory, _, inputs = eqx.combine((parameters, None, xs), rest)
        after, ys = jax.vmap(memory.step)(eqx.combine(states, counts), inputs, starts)
        return eqx.filter(after, eqx.is_inexact_array), ys

    (after, _), pull = jax.vjp(steps, parameters, states, xs)
    _, readout, _ = pull((jax.tree.map(jnp.zeros_like, after), ys_g))

    def send_back(r, last):
        """g_t for all t and, for g_{-1}, the gradient in the first state."""
        d = jnp.broadcast_to(jnp.asarray(feedback, r.dtype), last.shape)
        first, g = scan(
            Diagonal(),
            Element(d.reshape(1, -1), jnp.flip(r, 0).reshape(len(r), -1)),
            last.ravel(),
            jnp.flip(starts),
        )
        g = jnp.flip(g, 0).reshape(r.shape)  # g_{t-1} at t; r_t is 0 already where a start erased h_{t-1}
        return jnp.concatenate([g[1:], last[None]]), first.reshape(last.shape)

    # What the loss does not read has no gradient, which equinox writes as None.
    last = jax.tree.map(lambda h, g: jnp.zeros_like(h) if g is None else g, first_state, last_g)
    pairs = jax.tree.map(send_back, readout, last)
    g, first = (jax.tree.map(lambda _, pair, i=i: pair[i], readout, pairs) for i in (0, 1))
    parameters_g, _, xs_g = pull((g, ys_g))
    return parameters_g, first, xs_g

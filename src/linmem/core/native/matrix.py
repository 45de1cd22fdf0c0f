"""Recurrences of matrix states, one per head, by compiled loops over time (``matrix.h``).

Arrays of one sequence: states (heads, dk, dv), starts (T,), all others (T, heads, ...), where what all heads
share may have one head. Each function gives (last state, what was read (T, heads, dv)) and is differentiable
in reverse mode.
"""

import functools

import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from ..unit import EPSILON
from .library import call

SPAN = 32
"""Writes between the states that are kept for the derivative; it does the others again."""

State = Float[Array, "heads dk dv"]
Reads = Float[Array, "T heads dv"]


@jax.custom_vjp
def decay(
    state: State,
    starts: Bool[Array, " T"],
    q: Float[Array, "T _ dk"],
    k: Float[Array, "T _ dk"],
    v: Reads,
    w: Float[Array, "T _ w"],
) -> tuple[State, Reads]:
    """S_t = diag(w_t) S_{t-1} + k_t v_t^T, y_t = S_t^T q_t. w has 1 number, or one for each row."""
    return _decay_fwd(state, starts, q, k, v, w)[0]


def _decay_fwd(state, starts, q, k, v, w):
    xs = q, k, v, w
    last, y, kept = call("decay_forward", [state.shape, v.shape, _kept(state, len(v))], *xs, starts, state)
    return (last, y), (state, starts, xs, kept)


def _decay_bwd(kept, gradients):
    return _backward("decay_backward", kept, gradients)


decay.defvjp(_decay_fwd, _decay_bwd)


@jax.custom_vjp
def normaliser(
    state: Float[Array, "heads dk"],
    starts: Bool[Array, " T"],
    q: Float[Array, "T heads dk"],
    k: Float[Array, "T heads dk"],
    e: Float[Array, "T heads"],
    w: Float[Array, "T heads"],
) -> tuple[Float[Array, "heads dk"], Float[Array, "T heads"]]:
    """n_t = w_t n_{t-1} + e_t k_t, y_t = n_t . q_t, in double precision (``normaliser.cpp``)."""
    return _normaliser_fwd(state, starts, q, k, e, w)[0]


def _normaliser_fwd(state, starts, q, k, e, w):
    xs = q, k, e, w
    shapes = [state.shape, e.shape, _kept(state, len(e))]
    last, y, kept = call("normaliser_forward", shapes, *xs, starts, state)
    return (last, y), (state, starts, xs, kept)


def _normaliser_bwd(kept, gradients):
    return _backward("normaliser_backward", kept, gradients)


normaliser.defvjp(_normaliser_fwd, _normaliser_bwd)


@jax.custom_vjp
def removal(
    state: State,
    starts: Bool[Array, " T"],
    q: Float[Array, "T _ dk"],
    k: Float[Array, "T _ dk"],
    v: Reads,
    w: Float[Array, "T _ dk"],
    a: Float[Array, "T _ dk"],
    b: Float[Array, "T _ dk"],
) -> tuple[State, Reads]:
    """S_t = (diag(w_t) + b_t a_t^T) S_{t-1} + k_t v_t^T, y_t = S_t^T q_t."""
    return _removal_fwd(state, starts, q, k, v, w, a, b)[0]


def _removal_fwd(state, starts, q, k, v, w, a, b):
    xs = q, k, v, w, a, b
    shapes = [state.shape, v.shape, _kept(state, len(v)), v.shape]
    last, y, *kept = call("removal_forward", shapes, *xs, starts, state)
    return (last, y), (state, starts, xs, *kept)


def _removal_bwd(kept, gradients):
    return _backward("removal_backward", kept, gradients)


removal.defvjp(_removal_fwd, _removal_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def delta(
    scaled: bool,
    decays: bool,
    state: State,
    starts: Bool[Array, " T"],
    q: Float[Array, "T _ dk"],
    k: Float[Array, "T _ n dk"],
    v: Float[Array, "T heads n dv"],
    beta: Float[Array, "T _ n"],
    w: Float[Array, "T _"],
) -> tuple[State, Reads]:
    """S = w_t S_{t-1}, then S = S + beta k (v - S^T k)^T for each of n writes, y_t = S_t^T q_t.

    scaled: q and k are scaled to length 1 first. decays: False if all w are 1, which then have no derivative.
    """
    return _delta_fwd(scaled, decays, state, starts, q, k, v, beta, w)[0]


def _delta_fwd(scaled, decays, state, starts, q, k, v, beta, w):
    xs = q, k, v, beta, w
    steps, heads, writes, dv = v.shape
    shapes = [state.shape, (steps, heads, dv), _kept(state, steps, writes), v.shape]
    last, y, *kept = call("delta_forward", shapes, *xs, starts, state, **_settings(scaled, decays))
    return (last, y), (state, starts, xs, *kept)


def _delta_bwd(scaled, decays, kept, gradients):
    return _backward("delta_backward", kept, gradients, **_settings(scaled, decays))


delta.defvjp(_delta_fwd, _delta_bwd)


def _settings(scaled, decays):
    return {"unit": np.float64(EPSILON if scaled else -1), "decays": decays}


def _kept(state: Array, steps: int, writes: int = 1) -> tuple[int, ...]:
    return (-(-steps // max(1, SPAN // writes)), *state.shape)


def _backward(name, kept, gradients, **settings):
    """Derivatives in the arguments of a recurrence: state, starts, xs."""
    state, starts, xs, *kept = kept
    heads = state.shape[0]
    shapes = [(len(x), heads, *x.shape[2:]) for x in xs]
    *found, to_state = call(name, [*shapes, state.shape], *xs, starts, *kept, *gradients, **settings)
    shared = [g if x.shape[1] == heads else g.sum(1, keepdims=True) for g, x in zip(found, xs, strict=True)]
    return to_state, None, *shared

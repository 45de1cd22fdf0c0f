"""``scan``: run the recurrence over time, with starts, three ways, and with its own derivative.

    h_t = A_t ⊗ h_{t-1} ⊕ b_t,     h_{t-1} erased (set to the reading's zero) first where start_t

Methods:

sequential   one step after another, as wide as the batch; each input read once, each output written once.
associative  `jax.lax.associative_scan` over composed elements. About log2 T times the traffic; short depth.
chunked      summaries of sqrt(T) chunks side by side, a short scan over them, then all chunks side by side.
auto         see ``choose``.

The derivative is the adjoint recurrence run backwards,

    g_t = dL/dh_t + J_{t+1}^T g_{t+1}  (no J where start_{t+1}),
    dL/d(A_t, b_t) from (g_t, h_{t-1}), all t at once

so what is kept between the passes is the inputs and the outputs: no copies per level of a tree, none per
step. Under ``vmap`` the batch joins the width of the vectors, after the time axis, however deep the vmaps
are nested.
"""

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, Inexact

from .algebra import AbstractAlgebra, Diagonal, Element, LogSumExp, Ordinary, expand

Method = Literal["auto", "sequential", "associative", "chunked"]


def choose(platform: str, algebra: AbstractAlgebra, steps: int, width: int) -> Method:
    """The method that ``auto`` takes. Repeat the CPU measurements with ``linmem bench scan --methods``.

    On a CPU a step of a compiled loop costs some tens of nanoseconds beyond its arithmetic, and the
    sequential method moves the fewest bytes, so it wins; except where each step takes exponentials of one or
    two numbers only, over a long time: there the vector unit is better fed by many chunks. Other platforms
    were not measured by anyone yet: there the choice is the one with short depth that the literature uses.
    """
    if platform != "cpu":
        return "associative"
    narrow = isinstance(algebra, Diagonal) and isinstance(algebra.reading, LogSumExp) and width <= 2
    return "chunked" if narrow and steps >= 16384 else "sequential"


def scan(
    algebra: AbstractAlgebra,
    elements: Element,
    initial: Inexact[Array, "*state"],
    starts: Bool[Array, "T *batch"] | None = None,
    method: Method = "auto",
) -> tuple[Inexact[Array, "*state"], Inexact[Array, "T *state"]]:
    """Run the recurrence over the leading axis.

    elements: ``input`` of shape (T, *batch, *state); ``transition`` as its kind says, with leading axes that
        broadcast against (T, *batch): a size of 1 in time is a constant transition, stored once.
    initial: h_{-1}, of shape (*batch, *state).
    starts: where the past is erased; None for nowhere.

    Returns (h_{T-1}, all h_t). bfloat16 and float16 inputs are accumulated in float32; the states come back
    in the inputs' type, the last state in float32. Differentiable in reverse mode, in elements and initial.
    """
    steps = elements.input.shape[0]
    if initial.shape != elements.input.shape[1:]:
        raise ValueError(
            f"initial has shape {initial.shape}, one step of the input {elements.input.shape[1:]}; "
            "they must agree"
        )
    batch = initial.shape[: initial.ndim - algebra.state_rank]
    if starts is not None and starts.shape != (steps, *batch):
        raise ValueError(f"starts has shape {starts.shape}; must be (time, *batch) = {(steps, *batch)}")
    dtype = jnp.result_type(*(x for x in jax.tree.leaves(elements) if jnp.issubdtype(x.dtype, jnp.inexact)))
    initial = initial.astype(jnp.promote_types(_accumulator(dtype), initial.dtype))
    if jnp.iscomplexobj(initial) and not jnp.iscomplexobj(elements.input):  # the states are complex
        dtype = initial.dtype
        elements = elements._replace(input=elements.input.astype(dtype))
    if steps == 0:
        return initial, jnp.zeros((0, *initial.shape), dtype)
    return _differentiable(algebra, method)(elements, initial, starts)


def _accumulator(dtype):
    return jnp.promote_types(dtype, jnp.float32)


@functools.cache
def _differentiable(algebra: AbstractAlgebra, method: Method) -> Callable:
    run_forward, run_backward = _batched(forward, algebra, method), _batched(backward, algebra, method)

    @jax.custom_vjp
    def run(elements, initial, starts):
        return run_forward(elements, starts, initial)

    def run_fwd(elements, initial, starts):
        out = run_forward(elements, starts, initial)
        return out, (elements, initial, starts, out[1])

    def run_bwd(kept, cotangents):
        elements, initial, starts, states = kept
        g_last, g_states = cotangents
        g, g_initial = run_backward((elements, states, g_states), starts, (initial, g_last))
        return element_gradient(algebra, elements, initial, starts, states, g), g_initial, None

    run.defvjp(run_fwd, run_bwd)
    return run


def _batched(kernel: Callable, algebra: AbstractAlgebra, method: Method) -> Callable:
    """``kernel`` with a vmap rule that puts the new axis behind time, so that scans stay scans of wider
    vectors.

    Arguments: timed (pytree with leading time), starts, and rest (pytree without time).
    """

    @custom_vmap
    def call(timed, starts, rest):
        return kernel(algebra, method, timed, starts, rest)

    @call.def_vmap
    def rule(size, batched, timed, starts, rest):
        wide = functools.partial(_widen, size=size)
        timed = jax.tree.map(lambda x, b: _move(x, b, 1), timed, batched[0])
        starts = jax.tree.map(lambda x, b: wide(_move(x, b, 1), axis=1), starts, batched[1])
        rest = jax.tree.map(lambda x, b: wide(_move(x, b, 0), axis=0), rest, batched[2])
        if isinstance(timed, Element):
            timed = timed._replace(input=wide(timed.input, axis=1))
        else:
            elements, *others = timed
            elements = elements._replace(input=wide(elements.input, axis=1))
            timed = (elements, *(wide(x, axis=1) for x in others))
        out = call(timed, starts, rest)
        first, second = _out_axes(kernel)
        return (jnp.moveaxis(out[0], first, 0), jnp.moveaxis(out[1], second, 0)), (True, True)

    return call


def _out_axes(kernel):
    return (0, 1) if kernel is forward else (1, 0)  # where the batch axis stands in each output


def _move(x, batched, axis):
    return jnp.moveaxis(x, 0, axis) if batched else jnp.expand_dims(x, axis)


def _widen(x, size, axis):
    return jnp.broadcast_to(x, (*x.shape[:axis], size, *x.shape[axis + 1 :]))


def _erase(algebra, start, h):
    if start is None:
        return h
    return jnp.where(expand(start, h.ndim), jnp.asarray(algebra.reading.zero, h.dtype), h)


def element_gradient(algebra, elements, initial, starts, states, g):
    """dL/d(A_t, b_t) for all t at once."""

    def pull(elements, previous, g):
        return jax.vjp(lambda e: algebra.act(e, previous).astype(g.dtype), elements)[1](g)[0]

    # The first step meets ``initial``, not a state. It is done apart: choosing between the two for every
    # entry would take longer than the product itself. Until then it meets zero, through which nothing flows
    # to A.
    whole = pull(elements, _erase(algebra, starts, _shift(algebra, states)).astype(g.dtype), g)
    first_start = None if starts is None else starts[:1]
    first = pull(
        jax.tree.map(lambda x: x[:1], elements),
        _erase(algebra, first_start, initial[None]).astype(g.dtype),
        g[:1],
    )

    def join(element, whole, first):
        if whole.dtype == jax.dtypes.float0:
            return whole
        return whole.at[:1].set(first) if len(element) == len(states) else whole + first

    # Where nothing settles, dL/db_t is g_t whatever the state was: no copy to set one row.
    if isinstance(algebra.reading, Ordinary) and not algebra.reading.settles:
        transition = jax.tree.map(join, elements.transition, whole.transition, first.transition)
        return Element(transition, g.astype(elements.input.dtype))
    return jax.tree.map(join, elements, whole, first)


def _shift(algebra, states):
    """h_{t-1} for all t, with the reading's zero before the first. By padding, which stays inside the
    computation that reads it, unlike a concatenation."""
    zero = jnp.asarray(algebra.reading.zero, states.dtype)
    return jax.lax.pad(states, zero, [(1, -1, 0)] + [(0, 0, 0)] * (states.ndim - 1))


def previous_states(algebra, states, initial, starts):
    """h_{t-1} for all t as step t meets it: erased at a start."""
    return _erase(algebra, starts, _shift(algebra, states).astype(initial.dtype).at[0].set(initial))


# --- forward
# ------------------------------------------------------------------------------------------------------


def forward(algebra, method, elements, starts, initial):
    """(h_{T-1}, all h_t) for arrays whose batch axes stand behind time."""
    steps, width = elements.input.shape[0], elements.input[0].size
    if method == "auto":
        method = choose(jax.default_backend(), algebra, steps, width)
    dtype = elements.input.dtype
    if method == "sequential":
        last, states = _sequential(algebra, elements, starts, initial, dtype)
    else:
        algebra, elements = algebra.materialise(elements)
        run = _associative if method == "associative" else _chunked
        states = run(algebra, elements, starts, initial)
        last, states = states[-1], states.astype(dtype)
    return last, states


def _sequential(algebra, elements, starts, initial, dtype):
    steps, shape = len(elements.input), initial.shape
    if algebra.elementwise:
        elements, initial = _rows(elements, shape), initial.reshape(-1)

    def body(t, h, b):
        transition, start = _at((elements.transition, starts), t, steps)
        h = algebra.act(Element(transition, b), _erase(algebra, _match(start, shape, h), h)).astype(h.dtype)
        return h, h.astype(dtype)

    last, states = _loop(body, range(steps), initial, elements.input, algebra.elementwise)
    return last.reshape(shape), states.reshape(-1, *shape)


def _rows(tree, shape):
    """Leaves (t, ...) that broadcast to (t, *shape), as (t, entries): a compiled step over one long axis is
    up to a third faster than the same step over several."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (len(x), *shape)).reshape(len(x), -1), tree)


def _match(start, shape, h):
    """The start flags of one step, spread over the entries if ``h`` is a flattened state of ``shape``."""
    if start is None or h.shape == shape:
        return start
    return jnp.broadcast_to(expand(start, len(shape)), shape).reshape(-1)


def _at(tree, t, steps):
    """Step t of leaves with a time axis, or with one of 1 if they are constant."""
    return jax.tree.map(
        lambda x: jax.lax.dynamic_index_in_dim(x, t if len(x) == steps else 0, keepdims=False), tree
    )


def _loop(body, times, carry, entries, in_place):
    """Step ``body(t, carry, entry_t) -> (carry, state_t)`` through ``times``: (last carry, all states).

    in_place: a state is written where its entry stood. That moves fewer bytes than a buffer for the states,
    which would have to be filled first; and if nothing else needs the entries, XLA does not copy them either.
    Where a step is more than one kernel, though, XLA reads entries in several of them, and copies the whole
    array at each step so that none of them reads what another has written."""

    def step(i, so_far):
        carry, written = so_far
        # unsigned: a signed index would be checked for being negative, at each step, by a kernel of its own
        t = (times.start + times.step * i).astype(jnp.uint32)
        entry = jax.lax.dynamic_index_in_dim(written if in_place else entries, t, keepdims=False)
        # The barrier keeps reading and writing in two kernels: for one that does both XLA would first copy
        # the whole array, at each step.
        carry, state = jax.lax.optimization_barrier(body(t, carry, entry))
        return carry, jax.lax.dynamic_update_index_in_dim(written, state, t, 0)

    return jax.lax.fori_loop(0, len(times), step, (carry, entries))


def _full_time(elements: Element, steps: int) -> Element:
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (steps, *x.shape[1:])), elements)


def lift(algebra, elements, starts, dtype):
    """Elements that can be composed (full in time and batch, in the accumulator's type), and start flags."""
    steps = elements.input.shape[0]
    batch = elements.input.shape[: elements.input.ndim - algebra.state_rank]
    flags = jnp.zeros(batch, bool) if starts is None else starts

    def full(x):
        kind_axes = x.ndim - len(batch)
        x = jnp.broadcast_to(x, (*batch, *x.shape[x.ndim - kind_axes :]))
        return x.astype(jnp.promote_types(dtype, x.dtype)) if jnp.issubdtype(x.dtype, jnp.inexact) else x

    return jax.tree.map(full, _full_time(elements, steps)), flags


def combine_lifted(algebra, first, second):
    """Composition of (element, "it erases what came before")."""
    (one, one_erases), (two, two_erases) = first, second
    both = algebra.combine(one, two)
    return algebra.where(two_erases, two, both), one_erases | two_erases


def act_lifted(algebra, lifted, h):
    element, erases = lifted
    h = _erase(algebra, erases, jnp.broadcast_to(h, element.input.shape))
    return algebra.act(algebra.erased(erases, element), h)


def _associative(algebra, elements, starts, initial):
    lifted = lift(algebra, elements, starts, initial.dtype)
    prefixes = jax.lax.associative_scan(functools.partial(combine_lifted, algebra), lifted)
    return act_lifted(algebra, prefixes, initial)


def _chunked(algebra, elements, starts, initial):
    lifted = lift(algebra, elements, starts, initial.dtype)
    steps = elements.input.shape[0]
    length = max(1, int(steps**0.5))
    count, cut = steps // length, steps // length * length

    def by_place(x):  # (T, ...) -> (place in chunk, chunk, ...)
        return jnp.swapaxes(x[:cut].reshape(count, length, *x.shape[1:]), 0, 1)

    places = jax.tree.map(by_place, lifted)
    first = jax.tree.map(lambda x: x[0], places)
    later = jax.tree.map(lambda x: x[1:], places)
    summary, _ = jax.lax.scan(lambda c, e: (combine_lifted(algebra, c, e), None), first, later)

    def walk(h, e):
        return (after := act_lifted(algebra, e, h)), (h, after)

    at_end, (at_begin, _) = jax.lax.scan(walk, initial, summary)
    _, (_, states) = jax.lax.scan(walk, at_begin, places)
    states = jnp.swapaxes(states, 0, 1).reshape(cut, *initial.shape)
    _, (_, rest) = jax.lax.scan(walk, at_end, jax.tree.map(lambda x: x[cut:], lifted))
    return jnp.concatenate([states, rest])


# --- backward
# -----------------------------------------------------------------------------------------------------


def backward(algebra, method, timed, starts, rest):
    """(g_t for all t, dL/dh_{-1}): the adjoint recurrence, for arrays whose batch axes stand behind time."""
    elements, states, g_states = timed
    initial, g_last = rest
    steps, width = states.shape[0], states[0].size
    if method == "auto":
        method = choose(jax.default_backend(), algebra, steps, width)
    if method != "sequential":
        algebra, elements = algebra.materialise(elements)
    adjoints = algebra.adjoint_inputs(elements, previous_states(algebra, states, initial, starts))
    linear = algebra.ordinary()  # erases with 0, whatever the reading

    if method == "sequential":
        shape = initial.shape
        if algebra.elementwise:
            adjoints, g_states, g_last = _rows(adjoints, shape), _rows(g_states, shape), g_last.reshape(-1)

        def passed(t, g):
            """What g_t adds to g_{t-1}."""
            adjoint, start = _at((adjoints, starts), t, steps)
            back = algebra.adjoint_apply(adjoint, g)
            return _erase(linear, _match(start, shape, back), back).astype(g.dtype)

        def body(t, later, g):  # carries what it stores: carrying what is passed on would compute it twice
            g = g + passed(t + 1, later)
            return g, g

        g = g_states.astype(g_last.dtype).at[-1].add(g_last)
        g_first, g = _loop(body, range(steps - 2, -1, -1), g[-1], g, algebra.elementwise)
        g_initial = passed(0, g_first)
        return g.reshape(-1, *shape), g_initial.reshape(shape)

    # The same recurrence as a forward one in reversed time: there, step t moves by the adjoint of step t + 1.
    adjoints = jax.tree.map(lambda x: jnp.broadcast_to(x, (steps, *x.shape[1:])), adjoints)
    batch = states.shape[: states.ndim - algebra.state_rank]
    cuts = jnp.zeros(batch, bool) if starts is None else starts
    moves = jax.tree.map(lambda x: jnp.roll(x, 1, axis=0), jax.tree.map(lambda x: jnp.flip(x, 0), adjoints))
    cuts = jnp.roll(jnp.flip(cuts, 0), 1, axis=0).at[0].set(True)
    inputs = jnp.flip(g_states.astype(g_last.dtype).at[-1].add(g_last), 0)
    run = _associative if method == "associative" else _chunked
    g = jnp.flip(run(linear, Element(moves, inputs), cuts, jnp.zeros_like(g_last)), 0)
    first = jax.tree.map(lambda x: x[0], adjoints)
    g_initial = linear.apply(first, g[0])
    return g, _erase(linear, None if starts is None else starts[0], g_initial)

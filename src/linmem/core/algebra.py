"""Elements of the one recurrence, and the three ways to read it.

    h_t = A_t ⊗ h_{t-1} ⊕ b_t

A *reading* gives ⊕ and ⊗ their meaning:

| reading    | a ⊕ b            | a ⊗ b | zero | the recurrence is            |
|------------|------------------|-------|------|------------------------------|
| Ordinary   | a + b            | a b   | 0    | a linear recurrent memory    |
| LogSumExp  | log(e^a + e^b)   | a + b | -inf | the belief filter, in logits |
| MaxPlus    | max(a, b)        | a + b | -inf | Viterbi decoding             |

A *kind* gives A_t its shape: Diagonal, Permutation (one scaled entry a row), BlockDiagonal, Dense, and
Switched (any of these, picked from a table by an index). An element is the pair (A_t, b_t). An algebra (a
kind with a reading) acts on states and composes elements, with the laws

    combine is associative                     act(combine(e, f), h) = act(f, act(e, h))

Every method takes any number of leading axes (time, batch), which broadcast.

The derivative of any reading is an Ordinary recurrence of the same kind, run backwards: ``adjoint`` gives the
transposed Jacobian of ``act`` with respect to the state, as an Ordinary transition.
"""

import abc
import functools
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact, Int


class Element(NamedTuple):
    """One step of the recurrence: the transition A_t (its form depends on the kind) and the input b_t."""

    transition: Any
    input: Inexact[Array, "..."]


# --- readings -----------------------------------------------------------------------------------------------


class AbstractReading(abc.ABC):
    """A semiring: how ⊕ and ⊗ are read. ``zero`` is neutral for ⊕ and absorbs under ⊗."""

    zero: float

    @abc.abstractmethod
    def times(self, a: Array, b: Array) -> Array: ...

    @abc.abstractmethod
    def plus(self, a: Array, b: Array) -> Array: ...

    @abc.abstractmethod
    def matvec(self, a: Inexact[Array, "*#b i j"], h: Inexact[Array, "*#b j"]) -> Inexact[Array, "*b i"]:
        """Matrix times vector with ⊕ as the sum."""

    @abc.abstractmethod
    def matmul(self, a: Inexact[Array, "*#b i j"], b: Inexact[Array, "*#b j k"]) -> Inexact[Array, "*b i k"]:
        """Matrix product with ⊕ as the sum."""

    @abc.abstractmethod
    def slope(self, a: Array, h: Array, out: Array) -> Array:
        """The derivative of out = (a ⊗ h) ⊕ ... with respect to h."""

    def project(self, *parts: Array, axes: tuple[int, ...]) -> tuple[Array, ...]:
        """Shift (the parts of) one projective object to a standard size, by one shift; ``axes`` counts the
        axes of each part. The identity unless the reading is projective."""
        return parts

    def settle(self, state: Array, rank: int) -> Array:
        """``project`` a state, and recover: one that is -inf throughout (the observations were impossible)
        knows nothing, so it becomes uniform. The identity unless the reading is projective, or shifted.

        A composed element cannot recover midway, and leaves the uniform state. So past an impossible
        observation ``associative`` stays there until the next start, and a chunk (or device) after one in
        which it happened begins there; ``sequential`` recovers at the step itself."""
        return state

    @property
    def settles(self) -> bool:
        """Whether ``settle`` does anything."""
        return False


@dataclass(frozen=True)
class Ordinary(AbstractReading):
    """Ordinary arithmetic, real or complex.

    ``shifted=True`` is for states that are logits, which matter up to a constant, under transitions that keep
    constants (permutations of scale 1): after every step the largest entry becomes 0, so that a long sum
    keeps its digits.
    """

    shifted: bool = False
    zero = 0.0

    def times(self, a, b):
        return a * b

    def plus(self, a, b):
        return a + b

    def matvec(self, a, h):
        return self.matmul(a, h[..., None])[..., 0]

    def matmul(self, a, b):
        return jnp.matmul(a, b, preferred_element_type=jnp.result_type(a, b))

    def slope(self, a, h, out):
        return jnp.where(jnp.isfinite(out), a, 0.0) if self.shifted else a

    @property
    def settles(self):
        return self.shifted

    def settle(self, state, rank):
        return _settled(state, rank) if self.shifted else state


@dataclass(frozen=True)
class _Tropical(AbstractReading):
    """Logits: ⊗ adds. ``projective=True`` says that states matter only up to a constant shift (an
    unnormalised belief): every result is shifted so that its largest entry is 0, and a filter neither drifts
    nor underflows.

    The shift is only meaningful if no element has both a transition and an input other than zero (a belief
    filter's input is -inf except at a start, where the transition is erased).
    """

    projective: bool = False
    zero = -jnp.inf

    @abc.abstractmethod
    def sum(self, terms: Array, axis: int) -> Array:
        """⊕ over one axis."""

    def times(self, a, b):
        return a + b

    def matvec(self, a, h):
        return self.sum(a + h[..., None, :], axis=-1)

    def matmul(self, a, b):
        return self.sum(a[..., :, :, None] + b[..., None, :, :], axis=-2)

    @property
    def settles(self):
        return self.projective

    def project(self, *parts, axes):
        if not self.projective:
            return parts
        top = functools.reduce(jnp.maximum, map(_top, parts, axes))
        top = jnp.where(jnp.isfinite(top), top, 0.0)
        return tuple(part - expand(top, part.ndim) for part in parts)

    def settle(self, state, rank):
        return _settled(state, rank) if self.projective else state


def _top(part: Array, rank: int) -> Array:
    """The largest entry over the last ``rank`` axes.
    A shift carries no information, so no gradient either."""
    return jax.lax.stop_gradient(jnp.max(part, axis=tuple(range(-rank, 0))))


def _settled(state: Array, rank: int) -> Array:
    top = expand(_top(state, rank), state.ndim)
    return jnp.where(jnp.isfinite(top), state - _finite(top), 0.0)


@dataclass(frozen=True)
class LogSumExp(_Tropical):
    """The log semiring. Derivatives are finite (and zero) where a sum has only -inf terms."""

    def plus(self, a, b):
        return _logsumexp([a, b])

    def sum(self, terms, axis):
        top = _finite(jnp.max(terms, axis=axis, keepdims=True))
        return _log(jnp.sum(jnp.exp(terms - top), axis=axis), jnp.squeeze(top, axis))

    def slope(self, a, h, out):
        finite = jnp.isfinite(out)
        return jnp.where(finite, jnp.exp(a + h - jnp.where(finite, out, 0.0)), 0.0)


@dataclass(frozen=True)
class MaxPlus(_Tropical):
    """The max-plus semiring. At a tie every largest term passes the derivative on."""

    def plus(self, a, b):
        return jnp.maximum(a, b)

    def sum(self, terms, axis):
        return jnp.max(terms, axis=axis)

    def slope(self, a, h, out):
        return jnp.where((a + h == out) & jnp.isfinite(out), 1.0, 0.0).astype(out.dtype)


def _logsumexp(terms: list[Array]) -> Array:
    top = _finite(functools.reduce(jnp.maximum, terms))
    return _log(functools.reduce(jnp.add, [jnp.exp(term - top) for term in terms]), top)


def _finite(top: Array) -> Array:
    """The shift that keeps exp in range; it cancels, so it carries no gradient."""
    return jax.lax.stop_gradient(jnp.where(jnp.isfinite(top), top, 0.0))


def _log(total: Array, top: Array) -> Array:
    some = total > 0  # the inner where keeps log'(0) * 0 = nan out of the derivative
    return jnp.where(some, jnp.log(jnp.where(some, total, 1.0)) + top, -jnp.inf)


# --- kinds --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AbstractAlgebra(abc.ABC):
    """A kind of element under a reading. ``state_rank`` counts the axes of one state."""

    reading: AbstractReading = Ordinary()
    state_rank = 1

    @property
    def elementwise(self) -> bool:
        """Whether each entry of the state goes its own way, so that states may be flattened."""
        return False

    # What a kind defines ...

    @abc.abstractmethod
    def apply(self, transition: Any, h: Array) -> Array:
        """A ⊗ h."""

    @abc.abstractmethod
    def compose(self, first: Any, second: Any) -> Any:
        """The transition of ``first`` and then ``second``."""

    @abc.abstractmethod
    def jacobian(self, transition: Any, h: Array, out: Array) -> Any:
        """The Ordinary transition d out / d h, out being A ⊗ h ⊕ b before any projection."""

    @abc.abstractmethod
    def transpose(self, transition: Any) -> Any:
        """The transpose of an Ordinary transition of this kind."""

    # ... and what follows.

    def act(self, element: Element, h: Array) -> Array:
        """A ⊗ h ⊕ b."""
        out = self.reading.plus(self.apply(element.transition, h), element.input)
        return self.reading.settle(out, self.state_rank)

    def combine(self, first: Element, second: Element) -> Element:
        """The element that acts as ``first`` and then ``second``."""
        transition = self.compose(first.transition, second.transition)
        input = self.reading.plus(self.apply(second.transition, first.input), second.input)
        return self.projected(transition, input)

    def projected(self, transition: Any, input: Array) -> Element:
        return Element(*self.reading.project(transition, input, axes=(self.state_rank, self.state_rank)))

    def erased(self, start: Array, element: Element) -> Element:
        """The element whose transition is zero where ``start`` holds: nothing from before survives it."""
        return Element(
            self.where(start, self.full_zero(element.transition), element.transition), element.input
        )

    def full_zero(self, transition: Any) -> Any:
        return jnp.full_like(transition, self.reading.zero)

    def where(self, flag: Array, one: Any, other: Any) -> Any:
        """Select whole transitions by flags that have only the leading axes."""
        return jax.tree.map(lambda x, y: jnp.where(expand(flag, x.ndim), x, y), one, other)

    def adjoint_inputs(self, element: Element, h: Array) -> Any:
        """What ``adjoint_apply`` needs at each step, made for all steps at once."""
        out = self.reading.plus(self.apply(element.transition, h), element.input)
        return self.transpose(self.jacobian(element.transition, h, out))

    def adjoint_apply(self, inputs: Any, g: Array) -> Array:
        """The transposed Jacobian times g."""
        return self.ordinary().apply(inputs, g)

    def materialise(self, element: Element) -> tuple["AbstractAlgebra", Element]:
        """The same element in a kind that can be composed."""
        return self, element

    def ordinary(self) -> "AbstractAlgebra":
        return replace(self, reading=Ordinary())


def expand(flag: Array, ndim: int) -> Array:
    """Append axes to ``flag`` until it has ``ndim``."""
    return flag.reshape(flag.shape + (1,) * (ndim - flag.ndim))


@dataclass(frozen=True)
class Diagonal(AbstractAlgebra):
    """A = diag(transition), of shape (..., n). State (..., n)."""

    @property
    def elementwise(self):
        return not self.reading.settles

    def apply(self, transition, h):
        return self.reading.times(transition, h)

    def compose(self, first, second):
        return self.reading.times(second, first)

    def jacobian(self, transition, h, out):
        return self.reading.slope(transition, h, out)

    def transpose(self, transition):
        return transition


class Permuted(NamedTuple):
    """A matrix with one entry a row and column: (A h)_i = scale_i ⊗ h[source_i]."""

    source: Int[Array, "... n"]
    scale: Inexact[Array, "... n"]


@dataclass(frozen=True)
class Permutation(AbstractAlgebra):
    """A scaled permutation, applied as an index gather. State (..., n)."""

    def apply(self, transition, h):
        return self.reading.times(transition.scale, _gather(h, transition.source))

    def compose(self, first, second):
        scale = self.reading.times(second.scale, _gather(first.scale, second.source))
        return Permuted(_gather(first.source, second.source), scale)

    def jacobian(self, transition, h, out):
        return Permuted(
            transition.source, self.reading.slope(transition.scale, _gather(h, transition.source), out)
        )

    def transpose(self, transition):
        inverse = jnp.argsort(transition.source, axis=-1)
        return Permuted(inverse, _gather(transition.scale, inverse))

    def projected(self, transition, input):
        scale, input = self.reading.project(transition.scale, input, axes=(1, 1))
        return Element(Permuted(transition.source, scale), input)

    def full_zero(self, transition):
        return Permuted(transition.source, jnp.full_like(transition.scale, self.reading.zero))


def _gather(x, index):
    shape = jnp.broadcast_shapes(x.shape, index.shape)
    return jnp.take_along_axis(jnp.broadcast_to(x, shape), jnp.broadcast_to(index, shape), axis=-1)


@dataclass(frozen=True)
class Dense(AbstractAlgebra):
    """A full matrix, transition (..., n, n). State (..., n)."""

    def apply(self, transition, h):
        return self.reading.matvec(transition, h)

    def compose(self, first, second):
        return self.reading.matmul(second, first)

    def jacobian(self, transition, h, out):
        return self.reading.slope(transition, h[..., None, :], out[..., :, None])

    def transpose(self, transition):
        return jnp.swapaxes(transition, -1, -2)

    def projected(self, transition, input):
        return Element(*self.reading.project(transition, input, axes=(self.state_rank + 1, self.state_rank)))


@dataclass(frozen=True)
class BlockDiagonal(Dense):
    """k blocks of size m on the diagonal, transition (..., k, m, m). State (..., k, m)."""

    state_rank = 2


class Switch(NamedTuple):
    """diag(scale) A[index]: table (..., a, *transition) holds the A,
    index (...) picks one, scale (..., n)."""

    table: Inexact[Array, "..."]
    index: Int[Array, "..."]
    scale: Inexact[Array, "... n"]


@dataclass(frozen=True)
class Switched(AbstractAlgebra):
    """Transitions of kind ``of`` (Diagonal or Dense), picked from a table and scaled by rows.

    T steps cost T indices and T scales, not T matrices, if run by the sequential method without a derivative
    in the table; the parallel methods materialise the picked transitions.
    """

    of: AbstractAlgebra = Dense()
    reading: AbstractReading = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "reading", self.of.reading)

    @property
    def state_rank(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.of.state_rank

    def ordinary(self):
        return self.of.ordinary()

    def pick(self, transition: Switch) -> Inexact[Array, "..."]:
        """The transition without its scale."""
        table, index, _ = transition
        rank = self.of.state_rank + isinstance(self.of, Dense)
        leading = table.ndim - rank - 1
        if all(size == 1 for size in table.shape[:leading]):  # one shared table: a plain gather
            return table.reshape(table.shape[leading:])[index]
        return jnp.squeeze(jnp.take_along_axis(table, expand(index, table.ndim), axis=leading), leading)

    def materialise(self, element):
        picked, scale = self.pick(element.transition), element.transition.scale
        if isinstance(self.of, Dense):
            scale = scale[..., None]
        return self.of, Element(self.reading.times(scale, picked), element.input)

    def apply(self, transition, h):
        return self.reading.times(transition.scale, self.of.apply(self.pick(transition), h))

    def adjoint_inputs(self, element, h):
        return element, h  # the matrices are made one step at a time

    def adjoint_apply(self, inputs, g):
        element, h = inputs
        return self.of.adjoint_apply(self.of.adjoint_inputs(self.materialise(element)[1], h), g)

    def compose(self, first, second):
        raise TypeError("picked transitions do not compose to a picked transition; materialise them first")

    def jacobian(self, transition, h, out):
        raise TypeError("adjoint_apply makes the Jacobian of a picked transition")

    def transpose(self, transition):
        raise TypeError("adjoint_apply makes the Jacobian of a picked transition")

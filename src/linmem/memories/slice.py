"""Structured linear controlled differential equations (SLiCE): transitions that are linear in the input.

    h_t = h_{t-1} + A(x_t) h_{t-1},   A(x) = sum_i x_i A_i,        h_t = W_0 x_t + b_0 at a start
    y_t = C h_t

The A_i share a structure, which decides the cost of a step and what can be tracked:

| structure           | A(x) h                              | parameters of A | class          |
|---------------------|-------------------------------------|-----------------|----------------|
| diagonal            | a(x) * h                            | d n             | DiagonalSLiCE  |
| complex diagonal    | the same with complex numbers       | d n             | ComplexSLiCE   |
| block-diagonal      | blocks of size m on the diagonal    | d n m           | BlockSLiCE     |
| diagonal + low rank | a(x) * h + sum_i x_i U_i V_i^T h    | d n (1 + 2 r)   | LowRankSLiCE   |
| sparse              | k entries in each row               | d n k           | SparseSLiCE    |
| Walsh-Hadamard      | H (a(x) * h)                        | d n             | HadamardSLiCE  |

| paper  | here               | shape          | meaning                                               |
|--------|--------------------|----------------|-------------------------------------------------------|
| A_i    | transition         | (d, ...)       | the structure's parameters, one set per input channel |
| W_0,b_0| first, first_bias  | (d, n), (n,)   | the state at a start                                  |
| C      | out                | (n, out)       | output matrix                                         |
| H      | -                  | (n, n)         | Hadamard matrix, orthonormal, symmetric               |

Source: B. Walker, L. Yang, N. M. Cirone, C. Salvi, T. Lyons, "Structured Linear CDEs: Maximally Expressive
and Parallel-in-Time Sequence Models", 2025, arXiv:2505.17761, and the authors' code (models/slcde.py:
transitions, first state, initial laws).
Departures: the state (of blocks and complex numbers: each by itself) is scaled to unit mean square after
every step, where the authors bound each change near 1e11. The recurrence is homogeneous, so this changes the
scale of the state and not its direction, and makes features comparable at every length. No channel of time
is added to the input, and inputs are not divided by 40, the training length. The authors' code takes
tanh of the Walsh-Hadamard A_i, and lets each entry of a sparse A_i be zero with some probability; ours are
unbounded, and every row of all A_i has the same few columns. The complex diagonal is not in the paper.
"""

import abc
import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, PRNGKeyArray

from ..core.checkpointed import KEPT, scan_states
from ..core.native import library
from ..core.native.slice import recur_diagonal, recur_low_rank
from ..core.projection import project
from .base import AbstractMemory
from .gates import projection

_SMALLEST = 1e-12  # mean square of a state that is taken for zero


class AbstractSLiCE(AbstractMemory):
    """Features (size,) for inputs (size,). ``apply`` gives A(x) h from the coefficients x @ transition."""

    transition: Float[Array, "in coefficients"]
    first: Float[Array, "in n"]
    first_bias: Float[Array, " n"]
    out: Float[Array, "n out"]
    out_size: int = eqx.field(static=True)

    def __init__(self, size: int, state_size: int, *, key: PRNGKeyArray):
        self._begin(size, state_size, 1, key)

    def _begin(self, size: int, state_size: int, entries: int, key: PRNGKeyArray) -> None:
        """With so many coefficients in each row of A(x), whose squares add up to 1 on average if inputs have
        unit variance."""
        a_key, first_key, bias_key, out_key = jax.random.split(key, 4)
        transition = jax.random.normal(a_key, (size, state_size * entries))
        self.transition = entries**-0.5 * transition / size**0.5
        self.first = projection(first_key, size, state_size)
        self.first_bias = jax.random.normal(bias_key, (state_size,))
        self.out, self.out_size = projection(out_key, state_size, size), size

    @abc.abstractmethod
    def apply(self, coefficients: Float[Array, " c"], h: Float[Array, " n"]) -> Float[Array, " n"]:
        """A(x) h."""

    @abc.abstractmethod
    def matrix(self, coefficients: np.ndarray, x: np.ndarray) -> np.ndarray:
        """A(x) written out (n, n), in float64 NumPy: the oracle."""

    def group(self, n: int) -> int:
        """How many of n entries of the state are scaled together."""
        return n

    def init(self):
        return jnp.zeros(len(self.first_bias))

    def _enter(self, x):
        return project(x, self.transition), project(x, self.first) + self.first_bias

    def _advance(self, h, coefficients, first, start):
        moved = jnp.where(start, 0.0, h)
        h = checkpoint_name(jnp.where(start, first, moved + self.apply(coefficients, moved)), KEPT)
        return scaled(h, self.group(len(h)))

    def step(self, state, x, start):
        h = self._advance(state, *self._enter(x), start)
        return h, project(h, self.out)

    def unroll(self, state, xs, starts):
        advance = lambda h, timed: self._advance(h, *timed)  # noqa: E731
        state, hs = scan_states(advance, state, (*self._enter(xs), starts))
        return state, project(hs, self.out)

    def reference(self, xs, starts):
        f = lambda a: np.asarray(a, np.float64)  # noqa: E731
        h, out = np.zeros(len(self.first_bias)), []
        for x, start in zip(f(xs), starts, strict=True):
            if start:
                h = x @ f(self.first) + f(self.first_bias)
            else:
                h = h + self.matrix(x @ f(self.transition), x) @ h
            groups = h.reshape(-1, self.group(len(h)))
            mean_square = (groups**2).mean(axis=1, keepdims=True)
            h = (groups / np.sqrt(np.where(mean_square > _SMALLEST, mean_square, 1.0))).reshape(-1)
            out.append(h @ f(self.out))
        return np.stack(out)


def scaled(h: Float[Array, " n"], group: int) -> Float[Array, " n"]:
    """Each ``group`` of entries at mean square 1; a zero state stays zero."""
    groups = h.reshape(-1, group)
    mean_square = jnp.mean(groups**2, axis=1, keepdims=True)
    return (groups * jax.lax.rsqrt(jnp.where(mean_square > _SMALLEST, mean_square, 1.0))).reshape(-1)


class DiagonalSLiCE(AbstractSLiCE):
    hadamard: ClassVar[bool] = False

    def __init__(self, size: int, state_size: int, *, key: PRNGKeyArray):
        super().__init__(size, state_size, key=key)

    def apply(self, coefficients, h):
        return coefficients * h

    def unroll(self, state, xs, starts):
        if not len(starts) or not library.serves(self.transition, xs, state):
            return super().unroll(state, xs, starts)
        hs = recur_diagonal(_SMALLEST, self.hadamard, *self._enter(xs), starts, state)
        return hs[-1], project(hs, self.out)

    def matrix(self, coefficients, x):
        return np.diag(coefficients)

    @classmethod
    def example(cls, key, steps):
        return cls(3, 5, key=key), jax.random.normal(key, (steps, 3))


class ComplexSLiCE(AbstractSLiCE):
    """``state_size`` is even: pairs (real, imaginary)."""

    def __init__(self, size: int, state_size: int, *, key: PRNGKeyArray):
        _refuse_uneven("ComplexSLiCE", state_size, 2)
        super().__init__(size, state_size, key=key)

    def group(self, n):
        return 2

    def apply(self, coefficients, h):
        (a, b), (re, im) = coefficients.reshape(-1, 2).T, h.reshape(-1, 2).T
        return jnp.stack([a * re - b * im, a * im + b * re], axis=1).reshape(-1)

    def matrix(self, coefficients, x):
        return _block_diagonal([np.array([[a, -b], [b, a]]) for a, b in coefficients.reshape(-1, 2)])

    @classmethod
    def example(cls, key, steps):
        return cls(3, 8, key=key), jax.random.normal(key, (steps, 3))


class BlockSLiCE(AbstractSLiCE):
    """Blocks of size ``block``, which divides ``state_size``."""

    block: int = eqx.field(static=True)

    def __init__(self, size: int, state_size: int, block: int = 4, *, key: PRNGKeyArray):
        _refuse_uneven("BlockSLiCE", state_size, block)
        self._begin(size, state_size, block, key)
        self.block = block

    def group(self, n):
        return self.block

    def apply(self, coefficients, h):
        blocks = coefficients.reshape(-1, self.block, self.block)
        return jnp.sum(blocks * h.reshape(-1, 1, self.block), axis=-1).reshape(-1)

    def matrix(self, coefficients, x):
        return _block_diagonal(coefficients.reshape(-1, self.block, self.block))

    @classmethod
    def example(cls, key, steps):
        return cls(5, 6, 3, key=key), jax.random.normal(key, (steps, 5))


class LowRankSLiCE(AbstractSLiCE):
    """Diagonal plus ``rank`` in each A_i."""

    left: Float[Array, "in n rank"]
    right: Float[Array, "in n rank"]

    def __init__(self, size: int, state_size: int, rank: int = 2, *, key: PRNGKeyArray):
        diagonal_key, *keys = jax.random.split(key, 3)
        super().__init__(size, state_size, key=diagonal_key)
        std = (size * rank * state_size) ** -0.25
        self.left, self.right = (std * jax.random.normal(k, (size, state_size, rank)) for k in keys)

    def _enter(self, x):
        coefficients, first = super()._enter(x)
        return jnp.concatenate([coefficients, x], axis=-1), first

    def apply(self, coefficients, h):
        diagonal, x = jnp.split(coefficients, [len(h)])
        right, left = self._factors()
        met = checkpoint_name(project(h, right), KEPT)
        return diagonal * h + project(met * jnp.repeat(x, self.right.shape[-1]), left)

    def _factors(self):
        """All V_i (n, in rank) and all U_i^T (in rank, n), which x weighs in between."""
        n = self.right.shape[1]
        return self.right.swapaxes(0, 1).reshape(n, -1), self.left.swapaxes(1, 2).reshape(-1, n)

    def unroll(self, state, xs, starts):
        if not len(starts) or not library.serves(self.right, xs, state):
            return super().unroll(state, xs, starts)
        coefficients, first = super()._enter(xs)
        gains = jnp.repeat(xs, self.right.shape[-1], axis=-1)
        hs = recur_low_rank(_SMALLEST, *self._factors(), coefficients, gains, first, starts, state)
        return hs[-1], project(hs, self.out)

    def matrix(self, coefficients, x):
        left, right = np.asarray(self.left, np.float64), np.asarray(self.right, np.float64)
        low_rank = sum(x_i * u @ v.T for x_i, u, v in zip(x, left, right, strict=True))
        return np.diag(coefficients) + low_rank

    @classmethod
    def example(cls, key, steps):
        return cls(3, 5, 2, key=key), jax.random.normal(key, (steps, 3))


class SparseSLiCE(AbstractSLiCE):
    """``entries`` entries in each row, at random columns that all A_i share."""

    columns: tuple[tuple[int, ...], ...] = eqx.field(static=True)

    def __init__(self, size: int, state_size: int, entries: int = 4, *, pattern: int = 0, key: PRNGKeyArray):
        """``pattern`` is the seed of the columns."""
        if not 1 <= entries <= state_size:
            raise ValueError(f"entries is {entries}; a row of {state_size} has 1 to {state_size}")
        rng = np.random.default_rng(pattern)
        self.columns = tuple(tuple(rng.permutation(state_size)[:entries].tolist()) for _ in range(state_size))
        self._begin(size, state_size, entries, key)

    def apply(self, coefficients, h):
        columns = np.array(self.columns)
        return jnp.sum(coefficients.reshape(columns.shape) * h[columns], axis=1)

    def matrix(self, coefficients, x):
        n, k = np.shape(self.columns)
        a = np.zeros((n, n))
        for row, column, value in zip(
            np.repeat(range(n), k), np.ravel(self.columns), coefficients, strict=True
        ):
            a[row, column] = value
        return a

    @classmethod
    def example(cls, key, steps):
        return cls(3, 5, 2, key=key), jax.random.normal(key, (steps, 3))


class HadamardSLiCE(DiagonalSLiCE):
    """``state_size`` is a power of 2."""

    hadamard: ClassVar[bool] = True

    def __init__(self, size: int, state_size: int, *, key: PRNGKeyArray):
        if state_size < 1 or state_size & (state_size - 1):
            raise ValueError(f"state_size is {state_size}; a Walsh-Hadamard matrix needs a power of 2")
        super().__init__(size, state_size, key=key)

    def apply(self, coefficients, h):
        return walsh_hadamard(coefficients * h)

    def matrix(self, coefficients, x):
        n = len(coefficients)
        signs = [[(-1.0) ** bin(i & j).count("1") for j in range(n)] for i in range(n)]
        return np.array(signs) / math.sqrt(n) @ np.diag(coefficients)

    @classmethod
    def example(cls, key, steps):
        return cls(3, 8, key=key), jax.random.normal(key, (steps, 3))


def walsh_hadamard(x: Float[Array, " n"]) -> Float[Array, " n"]:
    """The orthonormal transform in n log n additions; n is a power of 2."""
    n, half = len(x), 1
    while half < n:
        a, b = jnp.moveaxis(x.reshape(-1, 2, half), 1, 0)
        x, half = jnp.stack([a + b, a - b], axis=1).reshape(-1), 2 * half
    return x / n**0.5


def _block_diagonal(blocks) -> np.ndarray:
    m = len(blocks[0])
    a = np.zeros((m * len(blocks), m * len(blocks)))
    for i, block in enumerate(blocks):
        a[i * m : (i + 1) * m, i * m : (i + 1) * m] = block
    return a


def _refuse_uneven(name: str, state_size: int, block: int) -> None:
    if block < 1 or state_size % block or state_size < 1:
        raise ValueError(f"{name} has state_size {state_size}; it must be a positive multiple of {block}")

"""Random orthogonal matrices and small inverses, made of matrix products only.

`jnp.linalg` calls LAPACK, and compiled code that runs several such calls side by side can hang on a CPU with
few cores (jaxlib 0.10.2: six QR factorisations of 64 x 64 under one `jit` stopped for good in 3 of 6
processes on 2 cores, with one BLAS thread as well). What runs inside training therefore does without.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, PRNGKeyArray

# Each Newton-Schulz step grows a small singular value by 3/2; a Gaussian matrix of size 1000 needs about 30.
_NEWTON_STEPS = 40


def orthogonal(key: PRNGKeyArray, shape: tuple[int, int], scale: float = 1.0) -> Float[Array, "rows columns"]:
    """A uniformly random matrix with orthonormal rows or columns (whichever are fewer), times ``scale``."""
    return scale * _polar(jax.random.normal(key, shape))


def unitary(key: PRNGKeyArray, size: int) -> Inexact[Array, "size size"]:
    """A uniformly random (Haar) complex unitary matrix."""
    return _polar(jax.lax.complex(*jax.random.normal(key, (2, size, size))))


@jax.jit  # a loop outside jit is compiled again at every call
def _polar(x: Inexact[Array, "rows columns"]) -> Inexact[Array, "rows columns"]:
    """The nearest matrix with orthonormal rows or columns, by Newton-Schulz;
    that of a Gaussian matrix is Haar."""
    if x.shape[0] > x.shape[1]:
        return _polar(x.T).T
    x = x / jnp.sqrt(jnp.sum(jnp.abs(x) ** 2))  # all singular values in (0, 1]
    return jax.lax.fori_loop(0, _NEWTON_STEPS, lambda _, x: 1.5 * x - 0.5 * x @ x.conj().T @ x, x)


@jax.custom_jvp
def inverse(a: Inexact[Array, "n n"]) -> Inexact[Array, "n n"]:
    """The inverse of a small matrix, by Gauss-Jordan elimination with row pivots.
    A singular one gives inf or NaN."""
    n = a.shape[0]

    def eliminate(k, rows):
        below = jnp.where(jnp.arange(n) >= k, jnp.abs(rows[:, k]), -1.0)
        pivot = jnp.argmax(below)
        rows = rows.at[jnp.array([k, pivot])].set(rows[jnp.array([pivot, k])])
        row = rows[k] / rows[k, k]
        return (rows - rows[:, k, None] * row).at[k].set(row)

    return jax.lax.fori_loop(0, n, eliminate, jnp.concatenate([a, jnp.eye(n, dtype=a.dtype)], axis=1))[:, n:]


@inverse.defjvp
def _inverse_jvp(primals, tangents):
    (a,), (da,) = primals, tangents
    x = inverse(a)
    return x, -x @ da @ x


def tridiagonal_product(t: Inexact[Array, "3 n"], x: Inexact[Array, " n"]) -> Inexact[Array, " n"]:
    """T x, where T has the rows of ``t`` below, on and above its diagonal: T[i, i-1], T[i, i] and T[i, i+1]
    are t[0, i], t[1, i] and t[2, i], and t[0, 0] and t[2, -1] are not read."""
    return t[1] * x + jnp.pad(t[0, 1:] * x[:-1], (1, 0)) + jnp.pad(t[2, :-1] * x[1:], (0, 1))


def tridiagonal_solve(t: Inexact[Array, "3 n"], y: Inexact[Array, " n"]) -> Inexact[Array, " n"]:
    """The x of ``tridiagonal_product(t, x) = y``, by elimination in order: a pivot of 0 gives inf or NaN.

    A sequence of n short steps, so this is for many systems side by side, under ``vmap``.
    """

    def eliminate(above, row):
        above_ratio, above_value = above
        (lower, diagonal, upper), value = row
        pivot = diagonal - lower * above_ratio
        above = upper / pivot, (value - lower * above_value) / pivot
        return above, above

    def substitute(x, row):
        ratio, value = row
        x = value - ratio * x
        return x, x

    zero = jnp.zeros_like(t[1, 0] * y[0])
    rows = t.at[0, 0].set(0.0).at[2, -1].set(0.0).T, y
    return jax.lax.scan(substitute, zero, jax.lax.scan(eliminate, (zero, zero), rows)[1], reverse=True)[1]

"""The solution of (I + N) W = R for strictly lower triangular N, by matrix products only (core/matrices.py
says why). Its derivative is (I + N)^-1 (dR - dN W).

Blocks of _BASE are inverted by the finite series (I + N)^-1 = (I - N)(I + N^2)(I + N^4)..., which ends
because N^_BASE is 0; then blocks are joined in pairs, doubling in size:

    [X_1      0 ]                                   [I + N_1     0    ]
    [Y       X_2],   Y = -X_2 M X_1,   inverse of   [   M      I + N_2]
"""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

_BASE = 8


SOLVED = "solution of a triangular system"
"""The name under which ``jax.checkpoint`` may keep (I + N)^-1 and W for the derivative."""


@jax.custom_jvp
def solve_unit_lower(n: Float[Array, "C C"], r: Float[Array, "C d"]) -> Float[Array, "C d"]:
    """(I + n)^-1 r; entries of ``n`` on and above the diagonal must be 0."""
    return _inverse(n) @ r


@solve_unit_lower.defjvp
def _jvp(primals, tangents):
    (n, r), (d_n, d_r) = primals, tangents
    x = checkpoint_name(_inverse(n), SOLVED)
    w = checkpoint_name(x @ r, SOLVED)
    return w, x @ (d_r - d_n @ w)


def _inverse(n: Float[Array, "C C"]) -> Float[Array, "C C"]:
    size = len(n)
    padded = _BASE
    while padded < size:
        padded *= 2
    blocks = jnp.pad(n, (0, padded - size))
    x = _series(_diagonal(blocks, _BASE))
    while (block := x.shape[-1]) < padded:
        below = _diagonal(blocks, 2 * block)[:, block:, :block]
        first, second = x[0::2], x[1::2]
        y = -(second @ (below @ first))
        upper = jnp.concatenate([first, jnp.zeros_like(first)], axis=2)
        x = jnp.concatenate([upper, jnp.concatenate([y, second], axis=2)], axis=1)
    return x[0, :size, :size]


def _diagonal(n: Float[Array, "C C"], block: int) -> Float[Array, "k b b"]:
    count = len(n) // block
    return jnp.stack([n[i * block : (i + 1) * block, i * block : (i + 1) * block] for i in range(count)])


def _series(n: Float[Array, "k b b"]) -> Float[Array, "k b b"]:
    eye = jnp.eye(n.shape[-1], dtype=n.dtype)
    x, power, exponent = eye - n, n, 1
    while 2 * exponent < n.shape[-1]:
        power, exponent = power @ power, 2 * exponent
        x = x + x @ power
    return x

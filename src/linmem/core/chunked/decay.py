"""Products of decays, kept as logarithms and signs so that nothing overflows and no digit is lost.

Between two steps s <= t of a chunk the state shrinks by

    a_{s+1} ... a_t = sigma_t sigma_s exp(L_t - L_s)

    L_t = log|a_1| + ... + log|a_t|,     sigma_t = sign(a_1) ... sign(a_t)

and only differences L_t - L_s <= 0 are exponentiated. A difference of two large sums keeps few digits (after
64 decays of exp(-20) the last digit of a float32 sum is worth 1e-4), so L is kept in two parts: multiples of
1/256, whose float32 sums and differences are exact up to 65536, and the small rest.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

_GRID = 256.0


Began = Int[Array, " C"]
"""For each step of a chunk, the step at which its episode began; -1 if before the chunk."""


class Decay(NamedTuple):
    """Decays in [-1, 1]: ``log`` is log|a| <= 0; ``sign`` is 1.0 or -1.0, None if all are positive.

    Only ``log`` has a derivative.
    """

    log: Float[Array, "*shape"]
    sign: Float[Array, "*shape"] | None = None

    def value(self) -> Float[Array, "*shape"]:
        """a itself."""
        magnitude = jnp.exp(self.log)
        return magnitude if self.sign is None else jax.lax.stop_gradient(self.sign) * magnitude


class Cumulated(NamedTuple):
    """L_t in its two parts, and sigma_t; time is the first axis. L counts from the episode's beginning, or
    the chunk's: what lies before a start does not even change a rounding behind it."""

    coarse: Float[Array, "C *shape"]
    fine: Float[Array, "C *shape"]
    sign: Float[Array, "C *shape"] | None

    def last(self) -> "Cumulated":
        return jax.tree.map(lambda x: x[-1], self)

    def less(self, log: Float[Array, "*C"]) -> "Cumulated":
        """L_t - log_t, with all the digits of both."""
        coarse, fine = _split(log)
        return Cumulated(self.coarse - coarse, self.fine - fine, self.sign)

    def between(self, earlier: "Cumulated | None" = None) -> Float[Array, "C C"]:
        """[t, s]: L_t - L_s, of one decay a step; or the L_s of ``earlier``."""
        earlier = self if earlier is None else earlier
        return jax.tree.map(lambda x: x[:, None], self) - jax.tree.map(lambda x: x[None, :], earlier)

    def __sub__(self, earlier: "Cumulated") -> Float[Array, "..."]:
        """L_t - L_s, as exact as the decays themselves."""
        return (self.coarse - earlier.coarse) + (self.fine - earlier.fine)

    def total(self) -> Float[Array, "C *shape"]:
        """L_t."""
        return self.coarse + self.fine


def limited(decay: Decay, steepest: float) -> Decay:
    """With no step steeper than exp(-steepest)."""
    return decay._replace(log=jnp.maximum(decay.log, -steepest))


def cumulate(decay: Decay, began: Began) -> Cumulated:
    """L_t and sigma_t of a chunk, (C, ...)."""
    coarse, fine = _split(decay.log)
    since_beginning = jnp.where(causal(began), 1.0, 0.0).astype(coarse.dtype)
    sign = None
    if decay.sign is not None:  # flips before a start are counted too, but cancel in every product of two
        flips = jnp.where(decay.sign < 0, -1.0, 1.0).astype(coarse.dtype)
        sign = jax.lax.stop_gradient(jnp.cumprod(flips, axis=0))
    return Cumulated(since_beginning @ coarse, since_beginning @ fine, sign)


def _split(log: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """The nearest multiple of 1/256, and the rest, which has the derivative."""
    coarse = jax.lax.stop_gradient(jnp.round(log * _GRID) / _GRID)
    return coarse, log - coarse


def causal(began: Began, strict: bool = False) -> Bool[Array, "C C"]:
    """[t, s]: whether s <= t (``strict``: s < t) and both belong to the same episode."""
    below = jnp.tri(len(began), k=-1 if strict else 0, dtype=bool)
    return below & (began[:, None] == began[None, :])

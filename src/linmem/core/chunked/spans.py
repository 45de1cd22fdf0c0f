"""What one decay a step leaves between two moments of a chunk; 0 where a start lies between."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from .decay import Began, Cumulated, Decay, causal, cumulate, limited

NOTHING = 1000.0  # exp(-1000) is 0 in any type, and sums over a chunk stay exact (decay.py)


class Spans(NamedTuple):
    """``cumulated`` is None where nothing decays."""

    cumulated: Cumulated | None
    began: Began

    @classmethod
    def of(cls, decay: Decay | None, began: Began) -> "Spans":
        return cls(None if decay is None else cumulate(limited(decay, NOTHING), began), began)

    def between(self) -> Float[Array, "C C"]:
        """[t, s]: from s to t, for s <= t."""
        c = self.cumulated
        open_ = causal(self.began)
        if c is None:
            return jnp.where(open_, 1.0, 0.0)
        span = jnp.exp(jnp.where(open_, c.between(), -jnp.inf))
        return span if c.sign is None else span * (c.sign[:, None] * c.sign[None, :])

    def from_state(self) -> Float[Array, " C"]:
        """[t]: from the state before the chunk to t."""
        c = self.cumulated
        open_ = self.began < 0
        if c is None:
            return jnp.where(open_, 1.0, 0.0)
        span = jnp.exp(jnp.where(open_, c.total(), -jnp.inf))
        return span if c.sign is None else span * c.sign

    def to_end(self) -> Float[Array, " C"]:
        """[s]: from s to the end of the chunk."""
        c = self.cumulated
        open_ = self.began == self.began[-1]
        if c is None:
            return jnp.where(open_, 1.0, 0.0)
        span = jnp.exp(jnp.where(open_, c.last() - c, -jnp.inf))
        return span if c.sign is None else span * (c.sign[-1] * c.sign)

    def across(self) -> Float[Array, ""]:
        """From the state before the chunk to its end."""
        return self.from_state()[-1]

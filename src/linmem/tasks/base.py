"""What a task is: random sequences of tokens with the exact label of every position that has one.

A task is drawn on the fly from a key, at any length; two calls with one key give one batch. Padding comes
last: it holds token 0 and is never scored. Memories read from left to right, so it changes nothing before it.
"""

import abc
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray


class Sample(NamedTuple):
    """Sequences with labels.

    tokens:  in 0, ..., n_tokens - 1.
    targets: in 0, ..., n_targets - 1; 0 where ``mask`` is False.
    mask:    where the target is scored.
    """

    tokens: Int[Array, "*batch length"]
    targets: Int[Array, "*batch length"]
    mask: Bool[Array, "*batch length"]


class AbstractTask(eqx.Module):
    """The contract. ``shortest`` is the length of its shortest sequence."""

    n_tokens: eqx.AbstractVar[int]
    n_targets: eqx.AbstractVar[int]
    shortest: eqx.AbstractVar[int]

    @abc.abstractmethod
    def draw(self, key: PRNGKeyArray, length: int, own: Int[Array, ""]) -> Sample:
        """One sequence of ``own`` tokens in ``length`` places. What it holds from place ``own`` on does not
        matter."""

    def sample(self, key: PRNGKeyArray, batch: int, length: int, shortest: int | None = None) -> Sample:
        """``batch`` sequences, each of its own length, uniform from ``shortest`` (default: ``length``) to
        ``length``, and padded to ``length``."""
        shortest = length if shortest is None else shortest
        if not self.shortest <= shortest <= length:
            raise ValueError(
                f"lengths {shortest} to {length} were asked of {type(self).__name__}; its sequences have at "
                f"least {self.shortest} tokens, and the first number must not exceed the second"
            )
        own_key, draw_key = jax.random.split(key)
        own = jax.random.randint(own_key, (batch,), shortest, length + 1)
        keys = jax.random.split(draw_key, batch)
        tokens, targets, mask = jax.vmap(self.draw, in_axes=(0, None, 0))(keys, length, own)
        inside = jnp.arange(length) < own[:, None]
        mask &= inside
        return Sample(jnp.where(inside, tokens, 0), jnp.where(mask, targets, 0), mask)

"""Recall: what stood beside a key, which tokens were not noise, what followed a sign.

Sources: S. Arora et al., "Zoology: Measuring and Improving Recall in Efficient Language Models", 2023,
arXiv:2312.04927 (multi-query associative recall); A. Gu, T. Dao, "Mamba", 2023, arXiv:2312.00752, section 4.1
(selective copying, induction).
Departures: queries are spread evenly over the places after the pairs, where Zoology draws their distances
from a power law.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from .base import AbstractTask, Sample


class AssociativeRecall(AbstractTask):
    """Multi-query associative recall: key-value pairs, then keys of these pairs among noise; each is labelled
    with its value.

    Tokens: 0 is noise, then ``keys`` keys, then ``values`` values. All keys of a sequence are different.
    """

    pairs: int = eqx.field(static=True, default=4)
    keys: int = eqx.field(static=True, default=16)
    values: int = eqx.field(static=True, default=16)
    query_rate: float = eqx.field(static=True, default=0.5)

    def __check_init__(self):
        if not 1 <= self.pairs <= self.keys:
            raise ValueError(f"pairs is {self.pairs} and keys {self.keys}; a pair needs a key of its own")

    @property
    def n_tokens(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 1 + self.keys + self.values

    @property
    def n_targets(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.values

    @property
    def shortest(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 2 * self.pairs + 1

    def draw(self, key: PRNGKeyArray, length: int, own: Int[Array, ""]) -> Sample:
        key_key, value_key, which_key, place_key = jax.random.split(key, 4)
        keys = 1 + jax.random.permutation(key_key, self.keys)[: self.pairs]
        values = jax.random.randint(value_key, (self.pairs,), 0, self.values)
        shown = jnp.stack([keys, 1 + self.keys + values], axis=1).reshape(-1)

        asked = jax.random.randint(which_key, (length - 2 * self.pairs,), 0, self.pairs)
        asks = jax.random.uniform(place_key, asked.shape) < self.query_rate
        nothing = jnp.zeros(2 * self.pairs, jnp.int32)
        return Sample(
            jnp.concatenate([shown, jnp.where(asks, keys[asked], 0)]),
            jnp.concatenate([nothing, values[asked]]),
            jnp.concatenate([nothing > 0, asks]),
        )


class SelectiveCopying(AbstractTask):
    """``items`` random tokens at random places among noise, then as many signs to give them back in order.

    Tokens: 0 is noise, 1 the sign, then ``kinds`` kinds of items.
    The label of a sign is the kind of its item.
    """

    items: int = eqx.field(static=True, default=4)
    kinds: int = eqx.field(static=True, default=8)

    @property
    def n_tokens(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 2 + self.kinds

    @property
    def n_targets(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.kinds

    @property
    def shortest(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 2 * self.items

    def draw(self, key: PRNGKeyArray, length: int, own: Int[Array, ""]) -> Sample:
        item_key, place_key = jax.random.split(key)
        kinds = jax.random.randint(item_key, (self.items,), 0, self.kinds)
        place, first_sign = jnp.arange(length), own - self.items
        # the items go to the places that rank first in random order
        order = jnp.where(place < first_sign, jax.random.uniform(place_key, (length,)), 2.0)
        places = jnp.sort(jnp.argsort(order)[: self.items])
        tokens = jnp.zeros(length, jnp.int32).at[places].set(2 + kinds)
        asks = place >= first_sign
        turn = jnp.clip(place - first_sign, 0, self.items - 1)
        return Sample(jnp.where(asks, 1, tokens), kinds[turn], asks)


class Induction(AbstractTask):
    """Random tokens with a sign at one random place and at the end: which token followed the first sign?

    Tokens: 0 is the sign, then ``kinds`` kinds.
    """

    kinds: int = eqx.field(static=True, default=15)
    shortest: int = 3

    @property
    def n_tokens(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 1 + self.kinds

    @property
    def n_targets(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.kinds

    def draw(self, key: PRNGKeyArray, length: int, own: Int[Array, ""]) -> Sample:
        token_key, place_key = jax.random.split(key)
        kinds = jax.random.randint(token_key, (length,), 0, self.kinds)
        sign = jax.random.randint(place_key, (), 0, own - 2)
        place = jnp.arange(length)
        last = place == own - 1
        tokens = jnp.where((place == sign) | last, 0, 1 + kinds)
        return Sample(tokens, jnp.broadcast_to(kinds[sign + 1], (length,)), last)

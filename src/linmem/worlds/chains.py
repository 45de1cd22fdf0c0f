"""bsuite's chains: remember the bits of the first step, and choose what pays late.

| what       | MemoryChain                                      | DiscountingChain                     |
|------------|--------------------------------------------------|--------------------------------------|
| hidden     | the context, random bits; which one is asked for | nothing                              |
| observed   | time left, the context (first two steps), the    | the chain chosen (-1 before), time   |
|            | number of the bit asked for (near the end)       |                                      |
| actions    | 0 or 1; only the last one counts                 | a chain; only the first one counts   |
| reward     | at the end 1 for the bit asked for, else -1      | once, after 1, 3, 10, 30, 100 steps: |
|            |                                                  | 1, on the chain ``bonus`` 1.1        |
| end        | after length + 1 steps                           | after 100 steps                      |
| best       | 1                                                | 1.1                                  |
| memoryless | 0 (length 1, where the context is last seen: 1)  | 1.1                                  |

bsuite shows the observation of the step before (its first observation comes twice), and so do these.

Source: I. Osband et al., "Behaviour Suite for Reinforcement Learning", 2019, arXiv:1908.03568, sections
"memory length" and "discounting chain", and the package `bsuite`, which defines them.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .base import AbstractWorld, Card, Outcome
from .spaces import Box, Discrete

PAID_AFTER = (1, 3, 10, 30, 100)
LENGTH = 100


class Context(NamedTuple):
    """bits: the context.  query: number of the bit asked for.  t: steps taken."""

    bits: Bool[Array, " bits"]
    query: Int[Array, ""]
    t: Int[Array, ""]


class MemoryChain(AbstractWorld):
    """``bits`` bits to be remembered for ``length`` steps."""

    length: int = eqx.field(static=True)
    bits: int = eqx.field(static=True)
    observation_space: Box
    action_space = Discrete(2)

    def __init__(self, length: int = 20, bits: int = 1):
        if length < 1 or bits < 1:
            raise ValueError(f"length is {length} and bits {bits}; both must be at least 1")
        self.length, self.bits = length, bits
        self.observation_space = Box((bits + 2,), -1.0, max(1.0, bits - 1.0))

    def init(self, key: PRNGKeyArray) -> tuple[Context, Float[Array, " seen"]]:
        bits, query = jax.random.split(key)
        state = Context(
            jax.random.bernoulli(bits, shape=(self.bits,)),
            jax.random.randint(query, (), 0, self.bits),
            jnp.zeros((), jnp.int32),
        )
        return state, self._seen(state)

    def _seen(self, state: Context) -> Float[Array, " seen"]:
        left = 1 - state.t / self.length
        query = jnp.where(state.t == self.length - 1, state.query, 0)
        bits = jnp.where(state.t == 0, jnp.where(state.bits, 1.0, -1.0), 0.0)
        return jnp.concatenate([jnp.stack([left, query]), bits]).astype(jnp.float32)

    def step(self, key: PRNGKeyArray, state: Context, action: Int[Array, ""]) -> tuple[Context, Outcome]:
        over = state.t == self.length
        right = (action == 1) == state.bits[state.query]
        reward = jnp.where(over, jnp.where(right, 1.0, -1.0), 0.0).astype(jnp.float32)
        outcome = Outcome(self._seen(state), reward, over, jnp.zeros((), bool))
        return state._replace(t=state.t + 1), outcome

    def card(self) -> Card:
        return Card(1.0, 1.0 if self.length == 1 else 0.0, self.length + 1)


class Chosen(NamedTuple):
    """chain: chosen at the first step, -1 before.  t: steps taken."""

    chain: Int[Array, ""]
    t: Int[Array, ""]


class DiscountingChain(AbstractWorld):
    """Five chains, of which ``bonus`` pays a tenth more."""

    bonus: int = eqx.field(static=True)
    observation_space = Box((2,), -1.0, len(PAID_AFTER) - 1.0)
    action_space = Discrete(len(PAID_AFTER))

    def __init__(self, bonus: int = 4):
        if not 0 <= bonus < len(PAID_AFTER):
            raise ValueError(f"bonus is {bonus}; the chains are 0 to {len(PAID_AFTER) - 1}")
        self.bonus = bonus

    def init(self, key: PRNGKeyArray) -> tuple[Chosen, Float[Array, "2"]]:
        state = Chosen(jnp.int32(-1), jnp.zeros((), jnp.int32))
        return state, self._seen(state)

    def _seen(self, state: Chosen) -> Float[Array, "2"]:
        return jnp.stack([state.chain, state.t / LENGTH]).astype(jnp.float32)

    def step(self, key: PRNGKeyArray, state: Chosen, action: Int[Array, ""]) -> tuple[Chosen, Outcome]:
        chain = jnp.where(state.t == 0, action, state.chain).astype(jnp.int32)
        state = Chosen(chain, state.t + 1)
        paid = state.t == jnp.array(PAID_AFTER)[chain]
        worth = jnp.where(chain == self.bonus, 1.1, 1.0)
        reward = jnp.where(paid, worth, 0.0).astype(jnp.float32)
        return state, Outcome(self._seen(state), reward, state.t == LENGTH, jnp.zeros((), bool))

    def card(self) -> Card:
        return Card(1.1, 1.1, LENGTH)

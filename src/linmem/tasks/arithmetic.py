"""Modular arithmetic: the value of an expression of digits and + - *, modulo 5, without and with brackets.

Without brackets, digits and operators take turns, products bind first, and every prefix that is an expression
(at each digit) is labelled: a finite automaton with states (sum of finished terms, present term, pending
operator) suffices. With brackets, only the whole expression is labelled, and its nesting needs a stack.

    E -> d | -d | (d) | (-d) | (E + E) | (E - E) | (E * E)

of a given length, the sizes of the two parts being uniform among the possible ones.

Tokens: digits 0 to 4, then + - * (5, 6, 7), then ( ) (8, 9).
Source: G. Deletang et al., "Neural Networks and the Chomsky Hierarchy", 2022, arXiv:2207.02098.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from .base import AbstractTask, Sample

PLUS, MINUS, TIMES, OPEN, CLOSE = range(5)
"""Places after the digits."""


class ModularArithmetic(AbstractTask):
    """Without brackets; an own length that is even has one token of padding more."""

    modulus: int = eqx.field(static=True, default=5)
    shortest: int = 1

    @property
    def n_tokens(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.modulus + 3

    @property
    def n_targets(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.modulus

    def draw(self, key: PRNGKeyArray, length: int, own: Int[Array, ""]) -> Sample:
        digit_key, operator_key = jax.random.split(key)
        digit_next = jnp.arange(length) % 2 == 0
        digits = jax.random.randint(digit_key, (length,), 0, self.modulus)
        operators = self.modulus + jax.random.randint(operator_key, (length,), 0, 3)
        tokens = jnp.where(digit_next, digits, operators)
        tokens = jnp.where(~digit_next & (jnp.arange(length) == own - 1), 0, tokens)
        return Sample(tokens, self.label(tokens), digit_next)

    def label(self, tokens: Int[Array, " length"]) -> Int[Array, " length"]:
        """The value of every prefix that ends with a digit."""
        m = self.modulus

        def step(state, token):
            total, term, operator = state  # value = total + term
            signed = jnp.where(operator == MINUS, -token, token)
            is_digit, product = token < m, operator == TIMES
            new_total = jnp.where(product, total, (total + term) % m)
            new_term = jnp.where(product, term * token, signed) % m
            state = (
                jnp.where(is_digit, new_total, total),
                jnp.where(is_digit, new_term, term),
                jnp.where(is_digit, operator, token - m),
            )
            return state, (state[0] + state[1]) % m

        zero = jnp.zeros((), tokens.dtype)
        return jax.lax.scan(step, (zero, zero, zero + PLUS), tokens)[1]


class BracketArithmetic(AbstractTask):
    """With brackets; labelled at the last token."""

    modulus: int = eqx.field(static=True, default=5)
    shortest: int = 1

    @property
    def n_tokens(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.modulus + 5

    @property
    def n_targets(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.modulus

    def draw(self, key: PRNGKeyArray, length: int, own: Int[Array, ""]) -> Sample:
        tokens = self._expression(key, length, own)
        return Sample(tokens, self.label(tokens), jnp.arange(length) == own - 1)

    def _expression(self, key: PRNGKeyArray, length: int, own: Int[Array, ""]) -> Int[Array, " length"]:
        """Leftmost derivation with a stack: entry n > 0 stands for an expression of n tokens,
        entry -t for token t."""
        m = self.modulus
        size = length + 5  # each token takes one entry away and adds at most 4
        stack = jnp.zeros(size, jnp.int32).at[0].set(own)

        def pushed(stack, top, entries):
            for entry in entries:
                stack, top = stack.at[top].set(entry), top + 1
            return stack, top

        def step(state, key):
            stack, top = state
            digit_key, operator_key, split_key = jax.random.split(key, 3)
            n, top = stack[top - 1], top - 1
            digit = jax.random.randint(digit_key, (), 0, m)
            operator = m + jax.random.randint(operator_key, (), 0, 3)
            left = jax.random.randint(split_key, (), 1, jnp.maximum(n - 3, 2))
            cases = [
                lambda: (-n, *pushed(stack, top, [])),
                lambda: (digit, *pushed(stack, top, [])),
                lambda: (m + MINUS, *pushed(stack, top, [1])),
                lambda: (m + OPEN, *pushed(stack, top, [-(m + CLOSE), n - 2])),
                lambda: (m + OPEN, *pushed(stack, top, [-(m + CLOSE), n - 3 - left, -operator, left])),
            ]
            case = jnp.select([n <= 0, n == 1, n == 2, n <= 4], [0, 1, 2, 3], 4)
            token, new_stack, new_top = jax.lax.switch(case, cases)
            over = top < 0
            return (jnp.where(over, stack, new_stack), jnp.where(over, 0, new_top)), jnp.where(over, 0, token)

        keys = jax.random.split(key, length)
        return jax.lax.scan(step, (stack, jnp.ones((), jnp.int32)), keys)[1]

    def label(self, tokens: Int[Array, " length"]) -> Int[Array, " length"]:
        """The value of the present expression after every token: of the whole one, after its last."""
        m = self.modulus
        zero = jnp.zeros((), tokens.dtype)
        # a frame per open bracket: the left value, and the operator after it (PLUS before there is one)
        frames = jnp.zeros((len(tokens) + 2, 2), tokens.dtype)

        def step(state, token):
            frames, depth, value, negative = state
            left, operator = frames[depth]
            closed = jnp.select(
                [operator == PLUS, operator == MINUS], [left + value, left - value], left * value
            )
            digit = jnp.where(negative, -token, token)
            is_digit, is_open, is_close = token < m, token == m + OPEN, token == m + CLOSE
            # an operator follows a digit or a closing bracket; a sign does not
            sign = (token == m + MINUS) & (value < 0)
            binary = ~is_digit & ~is_open & ~is_close & ~sign
            depth = depth + is_open - is_close
            entry = jnp.where(is_open, jnp.array([0, PLUS]), jnp.stack([value, token - m]))
            frames = jnp.where(is_open | binary, frames.at[depth].set(entry), frames)
            value = jnp.select([is_digit, is_close, is_open | binary], [digit % m, closed % m, -1], value)
            return (frames, depth, value, sign), value

        return jax.lax.scan(step, (frames, zero, zero - 1, jnp.asarray(False)), tokens)[1]

"""Tokens in the order of their importance, for whole sequences that are classified.

    s_t = <x_t, w>,    P = softmax over t of -|sort(s)_i - s_t| / tau,    y = P x

The rows of P pick tokens from the most to the least important; as tau -> 0 they are one-hot, and P is a
permutation. The last token of a selective layer moves most with depth, and the first least, so the order says
which tokens contribute (T. N. Vo et al. 2024, arXiv:2410.03292, the second of their refinements; the sort is
that of S. Prillo and J. Eisenschlos, "SoftSort", 2020, arXiv:2006.16038).

Every output depends on all tokens, so this is no memory: an agent, which acts before it has seen the end,
cannot use it. It stands before a model of whole sequences.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


class ImportanceOrder(eqx.Module):
    """Tokens (T, size) to tokens (T, size), the most important first."""

    weight: Float[Array, " size"]
    temperature: float = eqx.field(static=True)

    def __init__(self, size: int, temperature: float = 0.1, *, key: PRNGKeyArray):
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature}; it must be positive")
        self.weight = jax.random.normal(key, (size,)) / size**0.5
        self.temperature = temperature

    def __call__(self, xs: Float[Array, "T size"]) -> Float[Array, "T size"]:
        scores = xs @ self.weight
        falling = -jnp.sort(-scores)
        return jax.nn.softmax(-jnp.abs(falling[:, None] - scores) / self.temperature) @ xs

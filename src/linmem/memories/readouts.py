"""What a policy is given of a filter's logits: functions (n,) -> (n,), by name."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..core.registry import UnknownName
from .belief import identity

Logits = Float[Array, " n"]


def shifted(l: Logits) -> Logits:
    """The largest becomes 0; the others say how much less probable they are."""
    return l - jnp.max(l)


def centred(l: Logits) -> Logits:
    """The mean becomes 0."""
    return l - jnp.mean(l)


def standardised(l: Logits) -> Logits:
    """Mean 0 and variance 1 at every step (LayerNorm without parameters): forgets how sure the filter is."""
    return centred(l) / (jnp.std(l) + 1e-5)


def divided(l: Logits) -> Logits:
    """By 100, about the largest size that raw logits reach in 100 steps."""
    return l / 100


def clipped(l: Logits) -> Logits:
    """Nothing below -10."""
    return jnp.maximum(l, -10.0)


READOUTS = {
    "logits": identity,
    "softmax": jax.nn.softmax,
    "shifted": shifted,
    "centred": centred,
    "standardised": standardised,
    "divided": divided,
    "clipped": clipped,
}


def named_readout(name: str):
    """Raises UnknownName listing the known ones."""
    if name not in READOUTS:
        raise UnknownName(f"unknown readout '{name}'; known: {', '.join(READOUTS)}")
    return READOUTS[name]

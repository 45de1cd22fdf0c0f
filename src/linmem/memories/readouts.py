"""What a policy is given of a filter's logits: functions (n,) -> (n,), by name."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..core.registry import UnknownName

Logits = Float[Array, " n"]

DEPTH = 50.0
"""How far below the largest logit any other is told to lie at most: at a probability of e^-50 = 2e-22. On
each ring of `linmem reproduce ringworld-choices` the lowest in 128,000 steps lay 33 below at most."""


def floored(l: Logits) -> Logits:
    """None further than DEPTH below the largest. An impossible state has the logit -inf, of which the first
    layer of a network makes NaN."""
    top = jnp.max(l)
    return jnp.maximum(l, jnp.where(jnp.isfinite(top), top, 0.0) - DEPTH)


def shifted(l: Logits) -> Logits:
    """The largest becomes 0; the others say how much less probable they are."""
    l = floored(l)
    return l - jnp.max(l)


def centred(l: Logits) -> Logits:
    """The mean becomes 0."""
    l = floored(l)
    return l - jnp.mean(l)


def standardised(l: Logits) -> Logits:
    """Mean 0 and variance 1 at every step (LayerNorm without parameters): forgets how sure the filter is."""
    l = floored(l)
    return centred(l) / (jnp.std(l) + 1e-5)


def divided(l: Logits) -> Logits:
    """By 100, about the largest size that raw logits reach in 100 steps."""
    return floored(l) / 100


def clipped(l: Logits) -> Logits:
    """Nothing below -10."""
    return jnp.maximum(l, -10.0)


READOUTS = {
    "logits": floored,
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

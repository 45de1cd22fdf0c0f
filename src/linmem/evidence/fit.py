"""Fit a model to batches with Adam: the same optimiser for everything that an experiment compares."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import optax
from jaxtyping import PRNGKeyArray


def fit(
    loss: Callable[[Any, Any], jax.Array],
    model: Any,
    batch: Callable[[PRNGKeyArray], Any],
    steps: int,
    rate: float,
    key: PRNGKeyArray,
) -> tuple[Any, jax.Array]:
    """(fitted model, loss before each step). The rate falls to 0 along a cosine; gradients are clipped to
    norm 1; one compiled loop."""
    floats, rest = eqx.partition(model, eqx.is_inexact_array)
    optimiser = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(rate, steps))
    )

    def update(carry, key):
        floats, state = carry
        data = batch(key)
        value, gradient = jax.value_and_grad(lambda f: loss(eqx.combine(f, rest), data))(floats)
        change, state = optimiser.update(gradient, state)
        return (optax.apply_updates(floats, change), state), value

    run = jax.jit(lambda carry, keys: jax.lax.scan(update, carry, keys))
    (floats, _), losses = run((floats, optimiser.init(floats)), jax.random.split(key, steps))
    return eqx.combine(floats, rest), losses

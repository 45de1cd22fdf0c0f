"""Advantages and returns. The estimator is itself a linear recurrence,
run backwards by the library's own scan."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..core.algebra import Diagonal, Element
from ..core.scan import scan


def advantages(
    rewards: Float[Array, "T *batch"],
    values: Float[Array, "T+1 *batch"],
    terminated: Bool[Array, "T *batch"],
    truncated: Bool[Array, "T *batch"],
    discount: float,
    trace: float,
) -> Float[Array, "T *batch"]:
    """Generalised advantage estimates (J. Schulman et al. 2016, arXiv:1506.02438, eq. 16).

        delta_t = r_t + discount V_{t+1} - V_t            (no V_{t+1} where terminated)
        A_t = delta_t + discount trace A_{t+1}            (no A_{t+1} where terminated or truncated)

    Where a step is truncated, values[t + 1] must be the value of the final observation (``rollout.py`` sees
    to it).
    """
    following = jnp.where(terminated, 0.0, values[1:])
    deltas = rewards + discount * following - values[:-1]
    decay = jnp.full_like(deltas, discount * trace)
    # In reversed time an episode's end is a start: nothing from beyond it enters.
    reverse = [jnp.flip(x, 0)[..., None] for x in (decay, deltas)]
    ends = jnp.flip(terminated | truncated, 0)
    _, states = scan(Diagonal(), Element(*reverse), jnp.zeros((*deltas.shape[1:], 1)), ends)
    return jnp.flip(states[..., 0], 0)

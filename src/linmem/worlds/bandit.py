"""POPGym's bandit: arms whose odds stay the same for an episode and are new in the next.

Hidden: the odds of each arm, uniform in [0, 1]. Observed: whether the last arm paid (which it was is the last
action). Action: an arm. Reward: +1/T if it pays, else -1/T. End: cut off after T steps. Best attainable: less
than 2 n / (n + 1) - 1, what one earns who knows the odds of the n arms; best memoryless: at least what one
earns who plays arm 0 after a hit and any arm after a miss, and so stays longer with an arm 0 that pays well
(0.085 with 10 arms; a fixed arm earns 0).

Source: S. Morad et al., "POPGym", 2023, arXiv:2303.01859, and the package `popgym`.
"""

import functools
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .base import AbstractWorld, Card, Outcome
from .levels import at_level
from .spaces import Discrete


class Arms(NamedTuple):
    """odds: of each arm to pay.  t: steps taken."""

    odds: Float[Array, " arms"]
    t: Int[Array, ""]


class MultiarmedBandit(AbstractWorld):
    """``arms`` arms, ``steps`` steps."""

    arms: int = eqx.field(static=True)
    steps: int = eqx.field(static=True)
    action_space: Discrete
    observation_space = Discrete(2)

    def __init__(self, arms: int = 10, steps: int = 200):
        if arms < 1 or steps < 1:
            raise ValueError(f"arms is {arms} and steps {steps}; both must be at least 1")
        self.arms, self.steps, self.action_space = arms, steps, Discrete(arms)

    def init(self, key):
        return Arms(jax.random.uniform(key, (self.arms,)), jnp.zeros((), jnp.int32)), jnp.zeros((), jnp.int32)

    def step(self, key, state, action):
        pays = jax.random.uniform(key) < state.odds[action]
        reward = jnp.where(pays, 1 / self.steps, -1 / self.steps).astype(jnp.float32)
        over = state.t >= self.steps - 1
        return state._replace(t=state.t + 1), Outcome(
            pays.astype(jnp.int32), reward, jnp.zeros((), bool), over
        )

    def card(self) -> Card:
        known = 2 * self.arms / (self.arms + 1) - 1
        return Card(known, _staying_with_hits(self.arms, self.steps), self.steps, exact=False)


@functools.cache
def _staying_with_hits(arms: int, steps: int) -> float:
    """The return of arm 0 after a hit and any arm after a miss: the mean over drawn odds, each exact."""
    odds = np.random.default_rng(0).uniform(size=(50_000, arms))
    hit, earned = np.zeros(len(odds)), 0.0
    for _ in range(steps):
        hit = hit * odds[:, 0] + (1 - hit) * odds.mean(axis=1)
        earned += float((2 * hit - 1).mean()) / steps
    return earned


def bandit(level: str = "easy") -> MultiarmedBandit:
    return MultiarmedBandit(*at_level(level, (10, 200), (20, 400), (30, 600)))

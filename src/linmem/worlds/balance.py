"""POPGym's cart-pole and pendulum, of which only a part is seen.

| world                | observed                     | action            | reward                          |
|----------------------|------------------------------|-------------------|---------------------------------|
| position_cartpole    | cart's place, pole's angle   | push left, right  | 1/T a step                      |
| velocity_cartpole    | their velocities             | push left, right  | 1/T a step                      |
| position_pendulum    | cosine and sine of the angle | torque in [-2, 2] | (c - cost)/(c T), c = 8.1368022 |
| noisy_...            | the same with Gaussian noise of sigma, clipped to the space |    |                 |

cost = angle^2 + 0.1 velocity^2 + 0.001 torque^2. Hidden: the rest of the four (two) numbers. A cart-pole ends
when the cart is beyond 2.4 or the pole beyond 12 degrees, and is cut off after T steps; a pendulum is cut off
after T. Best attainable: 1 in a cart-pole; in a pendulum 1 less the way up. ``card`` takes what one earns who
sees its velocity, too, as value iteration on a grid of 361 x 321 states and 17 torques estimates it
(`tests/worlds/test_scores.py` repeats it on a coarser grid).
Best memoryless: falls soon, as positions do not say which way the pole moves. ``card`` gives what the best
rule "push right if angle + k place > 0" earns (of velocities: spin + k velocity; of a pendulum: torque = k
sine), found on a grid of k; a better one may exist.

Source: S. Morad et al., "POPGym", 2023, arXiv:2303.01859, and the package `popgym`; dynamics: A. Barto,
R. Sutton, C. Anderson, 1983, and Gymnasium's CartPole-v1 and Pendulum-v1, Euler steps of 0.02 s and 0.05 s.
The package's first observation of VelocityOnlyCartPole shows positions, a slip of its own:
``first_shows_positions`` does the same, and is on by default, so that scores compare.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .base import AbstractWorld, Card, Outcome
from .levels import at_level
from .spaces import Box, Discrete

GRAVITY, CART, POLE, HALF_LENGTH, FORCE, DT = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
PLACE_LIMIT, ANGLE_LIMIT = 2.4, 12 * 2 * np.pi / 360


REACTIVE_STEPS = 45.4
"""Steps for which a pole stays up on positions alone, k = -1/2."""
REACTIVE_NOISY = {0.1: 0.25, 0.2: 0.21, 0.3: 0.172}
"""The reward by sigma, k = -0.2; 0 for 0.1."""
REACTIVE_VELOCITIES = {200: 1.0, 400: 0.994, 600: 0.786}
"""The reward by T, k = 0.2: velocities are nearly enough."""

REACTIVE_SWING = {0.0: 0.355, 0.1: 0.332, 0.2: 0.322, 0.3: 0.317}
"""The reward by sigma, k = -20, whatever T."""
SEEN_SWING = {200: 0.92, 150: 0.89, 100: 0.84}
"""The reward by T of one who sees the velocity, estimated: .915, .887, .830 rounded up."""


class Cart(NamedTuple):
    """x: place, velocity, angle, angular velocity.  t: steps taken."""

    x: Float[Array, "4"]
    t: Int[Array, ""]


class CartPole(AbstractWorld):
    """A cart-pole of which ``velocities`` or positions are seen, with noise of ``sigma``."""

    steps: int = eqx.field(static=True)
    sigma: float = eqx.field(static=True)
    velocities: bool = eqx.field(static=True)
    first_shows_positions: bool = eqx.field(static=True)
    observation_space: Box
    action_space = Discrete(2)

    def __init__(
        self,
        steps: int = 200,
        sigma: float = 0.0,
        velocities: bool = False,
        first_shows_positions: bool = True,
    ):
        self.steps, self.sigma, self.velocities = steps, sigma, velocities
        self.first_shows_positions = first_shows_positions
        bound = float("inf") if velocities else 2 * PLACE_LIMIT
        self.observation_space = Box((2,), -bound, bound)

    def _seen(self, key, x, velocities):
        seen = x[1::2] if velocities else x[0::2]
        if not self.sigma:
            return seen
        limit = jnp.asarray([2 * PLACE_LIMIT, 2 * ANGLE_LIMIT])
        return jnp.clip(seen + self.sigma * jax.random.normal(key, (2,)), -limit, limit)

    def init(self, key):
        place, noise = jax.random.split(key)
        x = jax.random.uniform(place, (4,), minval=-0.05, maxval=0.05)
        velocities = self.velocities and not self.first_shows_positions
        return Cart(x, jnp.zeros((), jnp.int32)), self._seen(noise, x, velocities)

    def step(self, key, state, action):
        _, velocity, angle, spin = state.x
        force = jnp.where(action == 1, FORCE, -FORCE)
        sine, cosine = jnp.sin(angle), jnp.cos(angle)
        mass, lever = CART + POLE, POLE * HALF_LENGTH
        pushed = (force + lever * spin**2 * sine) / mass
        torque = (GRAVITY * sine - cosine * pushed) / (HALF_LENGTH * (4 / 3 - POLE * cosine**2 / mass))
        speed_up = pushed - lever * torque * cosine / mass
        x = state.x + DT * jnp.stack([velocity, speed_up, spin, torque])
        fell = (abs(x[0]) > PLACE_LIMIT) | (abs(x[2]) > ANGLE_LIMIT)
        state = Cart(x, state.t + 1)
        outcome = Outcome(
            self._seen(key, x, self.velocities),
            jnp.asarray(1 / self.steps, jnp.float32),
            fell,
            (state.t >= self.steps) & ~fell,
        )
        return state, outcome

    def card(self) -> Card | None:
        if self.velocities:
            memoryless = None if self.sigma else REACTIVE_VELOCITIES.get(self.steps)
        elif self.sigma:
            memoryless = REACTIVE_NOISY.get(self.sigma) if self.steps == 200 else None
        else:
            memoryless = min(1.0, REACTIVE_STEPS / self.steps)
        return None if memoryless is None else Card(1.0, memoryless, self.steps, exact=False)


class Swing(NamedTuple):
    """angle: 0 is up.  spin: angular velocity.  t: steps taken."""

    angle: Float[Array, ""]
    spin: Float[Array, ""]
    t: Int[Array, ""]


class Pendulum(AbstractWorld):
    """A pendulum to be swung up, of which the angle is seen, with noise of ``sigma``."""

    steps: int = eqx.field(static=True)
    sigma: float = eqx.field(static=True)
    observation_space = Box((2,), -1.0, 1.0)
    action_space = Box((1,), -2.0, 2.0)

    def __init__(self, steps: int = 200, sigma: float = 0.0):
        self.steps, self.sigma = steps, sigma

    def _seen(self, key, angle):
        seen = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        if not self.sigma:
            return seen
        return jnp.clip(seen + self.sigma * jax.random.normal(key, (2,)), -1.0, 1.0)

    def init(self, key):
        angle_key, spin_key, noise = jax.random.split(key, 3)
        angle = jax.random.uniform(angle_key, minval=-np.pi, maxval=np.pi)
        spin = jax.random.uniform(spin_key, minval=-1.0, maxval=1.0)
        return Swing(angle, spin, jnp.zeros((), jnp.int32)), self._seen(noise, angle)

    def step(self, key, state, action):
        torque = jnp.clip(action[0], -2.0, 2.0)
        angle = (state.angle + np.pi) % (2 * np.pi) - np.pi
        cost = angle**2 + 0.1 * state.spin**2 + 0.001 * torque**2
        worst = 16.2736044 / 2  # half of the largest cost
        spin = jnp.clip(state.spin + (15 * jnp.sin(state.angle) + 3 * torque) * 0.05, -8.0, 8.0)
        state = Swing(state.angle + spin * 0.05, spin, state.t + 1)
        reward = (worst - cost) / worst / self.steps
        over = state.t >= self.steps
        return state, Outcome(
            self._seen(key, state.angle), reward.astype(jnp.float32), jnp.zeros((), bool), over
        )

    def card(self) -> Card | None:
        attainable, memoryless = SEEN_SWING.get(self.steps), REACTIVE_SWING.get(self.sigma)
        if attainable is None or memoryless is None:
            return None
        return Card(attainable, memoryless, self.steps, exact=False)


def position_cartpole(level: str = "easy") -> CartPole:
    return CartPole(at_level(level, 200, 400, 600))


def velocity_cartpole(level: str = "easy") -> CartPole:
    return CartPole(at_level(level, 200, 400, 600), velocities=True)


def noisy_cartpole(level: str = "easy") -> CartPole:
    return CartPole(200, at_level(level, 0.1, 0.2, 0.3))


def position_pendulum(level: str = "easy") -> Pendulum:
    return Pendulum(at_level(level, 200, 150, 100))


def noisy_pendulum(level: str = "easy") -> Pendulum:
    return Pendulum(200, at_level(level, 0.1, 0.2, 0.3))

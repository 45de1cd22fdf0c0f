"""Probe worlds: so small that their values are known, so that a wrong agent is found out in seconds.

Each asks for one thing more of an agent: a value, a value that depends on the observation, discounting, a
policy, memory, and telling the two ends of an episode apart. ``values(discount)`` gives, for each observation
that determines it, the expected discounted return of the best policy from the step at which that observation
is made.

Source: A. Jones, "Debugging RL, without the agonizing pain" (2021), for the idea of probe environments.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .base import AbstractWorld, Outcome
from .spaces import Box, Discrete
from .table_world import AbstractTabled, TableWorld
from .tables import POMDP

Values = dict[int, float] | dict[float, float]
Time = Int[Array, ""]


class ConstantProbe(AbstractWorld):
    """One step, one observation, reward 1. The value is 1: the return is that one reward.

    An agent that fails has a broken value loss or optimiser.
    """

    observation_space = Discrete(1)
    action_space = Discrete(2)

    def init(self, key: PRNGKeyArray) -> tuple[Time, Int[Array, ""]]:
        return _int(0), _int(0)

    def step(self, key: PRNGKeyArray, state: Time, action: Int[Array, ""]) -> tuple[Time, Outcome]:
        return state, Outcome(_int(0), _reward(1), _bool(True), _bool(False))

    def values(self, discount: float) -> Values:
        return {0: 1.0}


class ObservationProbe(AbstractWorld):
    """One step; the observation is -1 or 1, equally likely, and the reward is equal to it. So is the value.

    An agent that passes ConstantProbe and fails here does not read its observation.
    """

    observation_space = Box((1,), -1.0, 1.0)
    action_space = Discrete(2)

    def init(self, key: PRNGKeyArray) -> tuple[Float[Array, "1"], Float[Array, "1"]]:
        observation = jax.random.rademacher(key, (1,), jnp.float32)
        return observation, observation

    def step(
        self, key: PRNGKeyArray, state: Float[Array, "1"], action: Int[Array, ""]
    ) -> tuple[Float[Array, "1"], Outcome]:
        return state, Outcome(state, state[0], _bool(True), _bool(False))

    def values(self, discount: float) -> Values:
        return {-1.0: -1.0, 1.0: 1.0}


class DelayProbe(AbstractWorld):
    """Two steps, observed as 0 and 1; only the second earns, 1. The values are ``discount`` and 1.

    An agent that passes ObservationProbe and fails here discounts or bootstraps wrongly.
    """

    observation_space = Discrete(2)
    action_space = Discrete(2)

    def init(self, key: PRNGKeyArray) -> tuple[Time, Int[Array, ""]]:
        return _int(0), _int(0)

    def step(self, key: PRNGKeyArray, state: Time, action: Int[Array, ""]) -> tuple[Time, Outcome]:
        second = state == 1
        return _int(1), Outcome(_int(1), _reward(second), second, _bool(False))

    def values(self, discount: float) -> Values:
        return {0: discount, 1: 1.0}


class ActionProbe(AbstractWorld):
    """One step, one observation; the reward is equal to the action, 0 or 1. Always take 1: the value is 1.

    An agent that passes DelayProbe and fails here does not improve its policy. A uniformly random one earns
    1/2.
    """

    observation_space = Discrete(1)
    action_space = Discrete(2)

    def init(self, key: PRNGKeyArray) -> tuple[Time, Int[Array, ""]]:
        return _int(0), _int(0)

    def step(self, key: PRNGKeyArray, state: Time, action: Int[Array, ""]) -> tuple[Time, Outcome]:
        return state, Outcome(_int(0), _reward(action), _bool(True), _bool(False))

    def values(self, discount: float) -> Values:
        return {0: 1.0}


class AimProbe(AbstractWorld):
    """One step; the observation o is -1 or 1, and the best action is (o, 1 - o / 2). An action a earns 1
    minus its squared distance from that, so the value is 1.

    An agent that passes ActionProbe and fails here handles continuous actions wrongly; the box is not
    symmetric, so a wrong stretching shows. The best action that ignores the observation is (0, 1) and earns
    -1/4.
    """

    observation_space = Box((1,), -1.0, 1.0)
    action_space = Box((2,), -1.0, 2.0)

    def init(self, key: PRNGKeyArray) -> tuple[Float[Array, "1"], Float[Array, "1"]]:
        observation = jax.random.rademacher(key, (1,), jnp.float32)
        return observation, observation

    def step(
        self, key: PRNGKeyArray, state: Float[Array, "1"], action: Float[Array, "2"]
    ) -> tuple[Float[Array, "1"], Outcome]:
        error = action - jnp.stack([state[0], 1 - state[0] / 2])
        return state, Outcome(state, _reward(1 - jnp.sum(error**2)), _bool(True), _bool(False))

    def values(self, discount: float) -> Values:
        return {-1.0: 1.0, 1.0: 1.0}


class RecallProbe(AbstractTabled):
    """A cue seen only at the start must be given back as the action ``delay`` steps later.

    Observations: the cue (0 or 1, equally likely), then 2 (wait), and at time ``delay`` 3 (answer now). The
    answer earns 1 if it is the cue, else -1, and ends the episode; no other action matters. An agent that
    remembers the cue earns 1 at time ``delay``, so the value is ``discount ** delay`` at the cue and 1 at the
    question. Without memory the question looks the same for both cues, and every policy earns 0 in
    expectation.
    """

    world: TableWorld
    delay: int = eqx.field(static=True)

    def __init__(self, delay: int = 3, discount: float = 0.99):
        """``discount`` is for the tables only."""
        if delay < 1:
            raise ValueError(f"delay is {delay}; it must be at least 1")
        self.world = TableWorld(
            _recall_tables(delay, discount), terminal=np.arange(2 * delay + 3) == 2 * delay + 2
        )
        self.delay = delay

    def values(self, discount: float) -> Values:
        return {0: discount**self.delay, 1: discount**self.delay, 3: 1.0}


def _recall_tables(delay: int, discount: float) -> POMDP:
    """State ``2 * time + cue`` for times 0 to delay, then the end."""
    end = 2 * (delay + 1)
    wait, question = 2, 3
    transition = np.zeros((2, end + 1, end + 1))
    emission = np.zeros((end + 1, 4))
    reward = np.zeros((2, end + 1))
    initial = np.zeros(end + 1)
    for time in range(delay + 1):
        for cue in (0, 1):
            state = 2 * time + cue
            transition[:, state, min(state + 2, end)] = 1
            emission[state, cue if time == 0 else question if time == delay else wait] = 1
    for cue in (0, 1):
        initial[cue] = 1 / 2
        for answer in (0, 1):
            reward[answer, 2 * delay + cue] = 1 if answer == cue else -1
    transition[:, end, end] = 1
    emission[end, wait] = 1
    return POMDP(transition, emission, reward, initial, discount)


class TruncationProbe(AbstractWorld):
    """Reward 1 per step, cut off after ``steps`` steps by truncation, or by termination if ``terminates``.

    The observation is the time modulo ``steps``: the one after the cut is 0, as at the start, so that its
    value is one that the agent learns. A truncated episode could have gone on, so bootstrapping there gives V
    = 1 + discount * V = 1 / (1 - discount) at every observation. If it terminates, nothing follows, and at
    time t the value is the finite sum 1 + discount + ... + discount ** (steps - t - 1). An agent that
    mistakes one end for the other gets the other's value.
    """

    steps: int = eqx.field(static=True, default=4)
    terminates: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; it must be at least 1")

    @property
    def observation_space(self) -> Discrete:
        return Discrete(self.steps)

    @property
    def action_space(self) -> Discrete:
        return Discrete(2)

    def init(self, key: PRNGKeyArray) -> tuple[Time, Int[Array, ""]]:
        return _int(0), _int(0)

    def step(self, key: PRNGKeyArray, state: Time, action: Int[Array, ""]) -> tuple[Time, Outcome]:
        time = state + 1
        over, never = time >= self.steps, _bool(False)
        ends = (over, never) if self.terminates else (never, over)
        return time, Outcome(time % self.steps, _reward(1), *ends)

    def values(self, discount: float) -> Values:
        """``discount`` must be below 1 if the episode is truncated."""
        if self.terminates:
            return {t: sum(discount**k for k in range(self.steps - t)) for t in range(self.steps)}
        return {t: 1 / (1 - discount) for t in range(self.steps)}


def _int(value: int) -> Int[Array, ""]:
    return jnp.asarray(value, jnp.int32)


def _reward(value: int | Array) -> Float[Array, ""]:
    return jnp.asarray(value, jnp.float32)


def _bool(value: bool) -> Bool[Array, ""]:
    return jnp.asarray(value)

"""The share of the value of memory that an agent captured, on a finite POMDP.

    share = (J - J_reactive) / (J* - J_reactive)

| symbol     | what it is                               | how it is known                               |
|------------|------------------------------------------|-----------------------------------------------|
| J          | the agent's expected discounted return   | Monte-Carlo, with its standard error          |
| J_reactive | the best that reacts to one observation  | exact value of the best policy that was found |
| J*         | the best of all policies                 | between the bounds of the point-based solver  |

All three begin at the model's start belief, discount as the model says, and see a uniformly random first
observation, which says nothing (``SparsePOMDP.dense``). The agent samples its actions as it was trained to,
and never sees its rewards. Its episodes do not end: states that are never left and never pay add nothing.

A share of 0 is what reacting earns, 1 what is optimal; below 0 the agent did worse than the best reactive
policy. It can pass 1 only by the error of the estimate.

J* known between bounds gives a range of shares. The best stochastic reactive policy is a local optimum, so
J_reactive may be too low; the shares are then too high. The least upper bound on deterministic policies is
kept beside it.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PRNGKeyArray

from ..agents.policy import ActorCritic
from ..agents.rollout import begin, choose
from ..core.types import Inputs
from ..planning.reactive import best_deterministic, best_stochastic
from ..worlds.sparse import SparsePOMDP
from ..worlds.table_world import TableWorld
from .statistics import bootstrap_mean

NEGLIGIBLE = 1e-5
"""The discount of the last step that is played."""

WORTH = 1e-3
"""Memory is worth nothing where J* - J_reactive is surely below this share of the larger one in size."""

Z = 1.959964  # of a 95% interval


class Reactive(NamedTuple):
    """The best memoryless policies found. ``deterministic_upper`` bounds every deterministic one."""

    deterministic: float
    deterministic_upper: float
    stochastic: float

    @property
    def value(self) -> float:
        return max(self.deterministic, self.stochastic)


def best_reactive(model: SparsePOMDP, nodes: int = 2000, starts: int = 10, seed: int = 0) -> Reactive:
    """J_reactive, for agents that meet a uniformly random observation before their first action.

    nodes: branches of the search among deterministic policies.
    starts: beginnings of the gradient ascent among stochastic ones.
    """
    first = np.full(model.n_observations, 1 / model.n_observations)
    deterministic = best_deterministic(model, first, nodes, seed)
    stochastic = best_stochastic(model, first, starts, seed)
    return Reactive(deterministic.value, deterministic.upper, stochastic.value)


def horizon(discount: float, negligible: float = NEGLIGIBLE) -> int:
    """Steps until the discount has fallen to ``negligible``. Raises ValueError for a discount of 1."""
    if not 0 <= discount < 1:
        raise ValueError(f"discount is {discount:g}; discounted returns need one in [0, 1)")
    return 1 if discount == 0 else max(1, math.ceil(math.log(negligible) / math.log(discount)))


def beyond(model: SparsePOMDP, steps: int) -> float:
    """At most how much of an expected discounted return lies beyond the first ``steps`` steps."""
    return float(model.discount**steps * np.abs(model.expected_reward()).max() / (1 - model.discount))


class Returns(NamedTuple):
    """Of each seed's agent: the mean discounted return and its standard error, (seeds,)."""

    mean: Float[np.ndarray, " seeds"]
    error: Float[np.ndarray, " seeds"]


def check_episodes(episodes: int) -> None:
    """Raises ValueError for fewer than a standard error needs."""
    if episodes < 2:
        raise ValueError(f"episodes is {episodes}; a standard error needs at least 2")


def discounted_returns(
    policy: ActorCritic, model: SparsePOMDP, keys: Key[Array, " seeds"], episodes: int, steps: int
) -> Returns:
    """Play ``episodes`` fresh episodes of ``steps`` steps with every seed's agent.

    policy: leading axis seeds. Raises ValueError for fewer than 2 episodes.
    """
    check_episodes(episodes)
    world = TableWorld(model.dense())

    def one(policy: ActorCritic, key: PRNGKeyArray) -> Float[Array, ""]:
        begin_key, play_key = jax.random.split(key)
        actor = begin(policy, world, begin_key)

        def step(carry: Any, key: PRNGKeyArray):
            hidden, memory, inputs, start, worth, total = carry
            choose_key, step_key = jax.random.split(key)
            chosen = choose(policy, memory, inputs, start, choose_key)
            hidden, outcome = world.step(step_key, hidden, chosen.executed)
            inputs = Inputs(outcome.observation, chosen.executed, outcome.reward)
            total = total + worth * outcome.reward
            return (hidden, chosen.memory, inputs, jnp.asarray(False), worth * model.discount, total), None

        first = actor.world, actor.memory, actor.inputs, actor.start, jnp.ones(()), jnp.zeros(())
        (*_, total), _ = jax.lax.scan(step, first, jax.random.split(play_key, steps))
        return total

    split = jax.vmap(lambda key: jax.random.split(key, episodes))(keys)
    returns = jax.jit(jax.vmap(jax.vmap(one, in_axes=(None, 0))))(policy, split)
    returns = np.asarray(returns, np.float64)
    return Returns(returns.mean(axis=1), returns.std(axis=1, ddof=1) / math.sqrt(episodes))


class Share(NamedTuple):
    """All nan where memory is worth nothing.

    least, most: the least and the largest share of J, over J* between its bounds.
    low, high:   the same over the 95% interval of J too.
    """

    least: float
    most: float
    low: float
    high: float


class Estimate(NamedTuple):
    """J: the mean over seeds, its standard error from playing alone, and the ends of its 95% interval."""

    mean: float
    error: float
    low: float
    high: float


def estimate(returns: Returns, unplayed: float = 0.0) -> Estimate:
    """The interval is the percentile bootstrap over seeds, but never narrower than the error of playing; with
    one seed, it is that error alone.

    unplayed: see ``beyond``; it widens the interval on both sides.
    """
    mean = float(returns.mean.mean())
    error = float(np.sqrt((returns.error**2).sum()) / len(returns.error))
    low, high = mean - Z * error, mean + Z * error
    over_seeds = bootstrap_mean(returns.mean)
    if not math.isnan(over_seeds.low):
        low, high = min(low, over_seeds.low), max(high, over_seeds.high)
    return Estimate(mean, error, low - unplayed, high + unplayed)


def is_worthless(reactive: float, upper: float) -> bool:
    """Whether the best policy surely earns no more than the best reactive one."""
    return upper - reactive <= WORTH * max(abs(upper), abs(reactive))


def share(of: Estimate, reactive: float, lower: float, upper: float) -> Share:
    """The share that ``of`` captured, for every J* in [lower, upper].

    It grows with J, and is monotone in J*, so its ends are at the corners. J* is no less than J_reactive.
    Where only the upper bound is above J_reactive the share has no finite bound on one side. Raises
    ValueError for bounds in the wrong order.
    """
    if upper < lower:
        raise ValueError(f"the bounds of J* are {lower:g} and {upper:g}; the lower one is larger")
    if is_worthless(reactive, upper):
        return Share(*[math.nan] * 4)

    def quotient(gain: float, best: float) -> float:
        possible = best - reactive
        if possible > 0:
            return gain / possible
        return 0.0 if gain == 0 else math.copysign(math.inf, gain)

    def ends(gain_low: float, gain_high: float) -> tuple[float, float]:
        corners = [quotient(gain, best) for gain in (gain_low, gain_high) for best in (lower, upper)]
        return min(corners), max(corners)

    gain = of.mean - reactive
    return Share(*ends(gain, gain), *ends(of.low - reactive, of.high - reactive))

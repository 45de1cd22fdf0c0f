"""The memory gap: agents whose value is known land where they must, and every number bounds what it says."""

import json
import math
from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linmem.agents.policy import ActorCritic
from linmem.agents.ppo import PPOConfig
from linmem.cli import main
from linmem.experiments.gap import gap_config
from linmem.measures.memory_gap import (
    Estimate,
    Returns,
    best_reactive,
    beyond,
    discounted_returns,
    estimate,
    horizon,
    share,
)
from linmem.memories import MEMORIES, Belief
from linmem.planning.controllers import evaluate, reactive
from linmem.planning.point_based import PointBasedSolver
from linmem.planning.reactive import best_deterministic
from linmem.worlds.dotpomdp import loads
from linmem.worlds.model_files import model_world, read_model

# Listening is right four times in five; opening the wrong door costs, and the tiger then moves.
SMALL = """
discount: 0.6
values: reward
states: left right
actions: listen open-left open-right
observations: left right
T: listen identity
T: open-left uniform
T: open-right uniform
O: listen
0.8 0.2
0.2 0.8
O: open-left uniform
O: open-right uniform
R: listen : * : * : * -0.1
R: open-left : left : * : * -3
R: open-left : right : * : * 1
R: open-right : right : * : * -3
R: open-right : left : * : * 1
"""


@cache
def small():
    return loads(SMALL, "small")


@cache
def solved():
    solver = PointBasedSolver(small())
    *_, bounds = solver.solve(1e-6)
    return solver.policy(), bounds


@cache
def first(model):
    return np.full(model.n_observations, 1 / model.n_observations)


class BestVector(eqx.Module):
    """Logits that leave only the best vector's action."""

    vectors: jax.Array
    actions: jax.Array
    count: int = eqx.field(static=True)

    def __call__(self, belief):
        best = self.actions[jnp.argmax(self.vectors @ belief)]
        return jnp.where(jnp.arange(self.count) == best, 0.0, -jnp.inf)


class ByObservation(eqx.Module):
    """Logits of a reactive policy, from the one-hot observation."""

    logits: jax.Array

    def __call__(self, features):
        return self.logits[jnp.argmax(features)]


def agent(memory, actor, seeds=1):
    """An agent that acts as ``actor`` says, with a leading seed axis."""
    world_actions = model_world("tiger.POMDP").action_space  # three actions, as in SMALL
    policy = ActorCritic(memory, world_actions, 4, key=jax.random.key(0))
    policy = eqx.tree_at(lambda policy: policy.actor, policy, actor)
    return jax.tree.map(lambda leaf: jnp.stack([jnp.asarray(leaf)] * seeds), policy)


def optimal(seeds=1):
    policy, _ = solved()
    actor = BestVector(jnp.asarray(policy.vectors), jnp.asarray(policy.actions), 3)
    return agent(Belief(small().dense()), actor, seeds)


def by_observation(actions):
    """Reactive agents (seeds, k, m), along the seed axis."""
    memory = MEMORIES["none"].make(model_world("tiger.POMDP"), 4, jax.random.key(0))
    agents = agent(memory, ByObservation(jnp.zeros((2, 3))), len(actions))
    return eqx.tree_at(lambda policy: policy.actor.logits, agents, jnp.log(jnp.asarray(actions)))


def played(policy, seeds=1, episodes=4000):
    model = small()
    steps = horizon(model.discount)
    keys = jax.random.split(jax.random.key(1), seeds)
    return discounted_returns(policy, model, keys, episodes, steps), beyond(model, steps)


def test_the_optimal_policy_of_the_belief_has_share_1():
    _, bounds = solved()
    returns, unplayed = played(optimal(seeds=2), seeds=2)
    found = share(estimate(returns, unplayed), best_reactive(small()).value, bounds.lower, bounds.upper)
    assert found.low <= 1 <= found.high and found.high - found.low < 0.1
    assert abs(returns.mean - bounds.lower).max() < 4 * returns.error.max() + unplayed


@cache
def reactive_agents():
    """The best deterministic reactive policy and three stochastic ones: their actions, and their returns."""
    rng = np.random.default_rng(0)
    best = best_deterministic(small(), first(small())).controller.action
    actions = np.stack([best, *rng.dirichlet(np.ones(3), (3, 2))])
    return actions, *played(by_observation(actions), seeds=4)


def test_the_best_reactive_policy_has_share_0():
    _, bounds = solved()
    _, returns, unplayed = reactive_agents()
    best = Returns(returns.mean[:1], returns.error[:1])
    found = share(estimate(best, unplayed), best_reactive(small()).value, bounds.lower, bounds.upper)
    assert found.low <= 0 <= found.high and found.high - found.low < 0.1


@pytest.mark.parametrize("which", range(4))
def test_playing_agrees_with_the_exact_value_of_a_reactive_policy(which):
    actions, returns, unplayed = reactive_agents()
    exact = evaluate(small(), reactive(actions[which], first(small())))
    assert abs(returns.mean[which] - exact) < 4 * returns.error[which] + unplayed
    assert returns.error[which] < 0.05


def test_the_error_of_playing_is_how_much_repetitions_differ():
    action = np.array([[0.4, 0.3, 0.3], [0.2, 0.5, 0.3]])
    returns, _ = played(by_observation(np.stack([action] * 40)), seeds=40, episodes=200)
    assert returns.mean.std(ddof=1) == pytest.approx(returns.error.mean(), rel=0.4)


def test_what_is_not_played_is_bounded_and_negligible():
    model = small()
    steps = horizon(model.discount)
    assert model.discount**steps <= 1e-5 < model.discount ** (steps - 1)
    # The geometric tail of the largest expected reward, 3 here.
    assert beyond(model, 4) == pytest.approx(sum(3 * 0.6**t for t in range(4, 200)))
    with pytest.raises(ValueError, match="discount is 1"):
        horizon(1.0)


def test_the_share_covers_every_optimal_value_between_the_bounds_and_every_return_of_the_interval():
    rng = np.random.default_rng(0)
    for mean in (-2.0, 0.5, 1.7):
        of = Estimate(mean, 0.1, mean - 0.4, mean + 0.3)
        found = share(of, 0.2, 1.0, 2.5)
        best, earned = rng.uniform(1.0, 2.5, 500), rng.uniform(of.low, of.high, 500)
        points, all_of = (mean - 0.2) / (best - 0.2), (earned - 0.2) / (best - 0.2)
        assert found.least <= points.min() <= points.max() <= found.most
        assert found.low <= all_of.min() <= all_of.max() <= found.high
        ends = [(x - 0.2) / (b - 0.2) for x in (mean,) for b in (1.0, 2.5)]
        assert (found.least, found.most) == pytest.approx((min(ends), max(ends)))


def test_where_the_best_may_be_reactive_the_share_has_no_finite_bound():
    assert share(Estimate(0.5, 0.0, 0.4, 0.6), 0.2, 0.1, 1.2).most == math.inf
    assert share(Estimate(0.1, 0.0, 0.0, 0.15), 0.2, 0.1, 1.2).least == -math.inf


def test_there_is_no_share_where_memory_is_worth_nothing():
    assert all(map(math.isnan, share(Estimate(0.9, 0.0, 0.8, 1.0), 1.0, 1.0, 1.0 + 1e-6)))


def test_bounds_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match="lower one is larger"):
        share(Estimate(0.0, 0.0, 0.0, 0.0), -1.0, 1.0, 0.9)


def test_the_interval_is_never_narrower_than_the_error_of_playing():
    equal = estimate(Returns(np.array([2.0, 2.0]), np.array([0.3, 0.4])))
    assert equal.error == pytest.approx(0.25) and equal.high - equal.mean == pytest.approx(
        1.96 * 0.25, rel=1e-3
    )
    spread = estimate(Returns(np.array([1.0, 5.0, 3.0]), np.full(3, 1e-6)))
    assert spread.low < 2 < 4 < spread.high
    one = estimate(Returns(np.array([1.0]), np.array([0.5])), unplayed=0.25)
    assert one.high - 1 == pytest.approx(1.96 * 0.5 + 0.25, rel=1e-3)


def test_the_best_reactive_value_is_that_of_the_better_kind():
    model = read_model("4x4.POMDP")
    found = best_reactive(model, starts=2)
    assert found.stochastic > found.deterministic and found.value == found.stochastic
    tiger = best_reactive(small())
    assert tiger.deterministic == pytest.approx(tiger.deterministic_upper)
    # Every deterministic reactive policy of the small problem, by brute force.
    pairs = [(a, b) for a in range(3) for b in range(3)]
    values = [evaluate(small(), reactive(np.eye(3)[list(pair)], first(small()))) for pair in pairs]
    assert tiger.deterministic == pytest.approx(max(values))


def test_rewards_are_learned_from_in_units_of_the_models_largest():
    config, refused = gap_config("tiger.POMDP", ("none", "deep_alf"), seeds=1, steps=10)
    assert config.ppo.reward_scale == 100 and config.ppo.discount == 0.95
    assert config.memory == ("none",) and "emission depends on the action" in refused["deep_alf"]
    with pytest.raises(ValueError, match="reward_scale is 0"):
        PPOConfig(reward_scale=0.0)


def test_gap_prints_its_shares_and_goes_on_from_what_was_done(tmp_path, capsys):
    file, rows = tmp_path / "small.POMDP", tmp_path / "rows.json"
    file.write_text(SMALL)
    options = [str(file), "--memory", "none", "--seeds", "2", "--steps", "4096", "--time", "5"]
    options += ["--episodes", "100", "--out", str(tmp_path / "runs"), "--json", str(rows)]

    def once():
        with pytest.raises(SystemExit) as stopped:
            main(["gap", *options])
        assert stopped.value.code == 0
        return json.loads(rows.read_text()), capsys.readouterr().out

    before, shown = once()
    assert "J_reactive" in shown and "playing 100 episodes" in shown
    after, shown = once()
    assert after == before and "playing 100" not in shown
    (row,) = before["rows"]
    assert row["memory"] == "none"
    assert row["lower"] <= solved()[1].upper and row["upper"] >= solved()[1].lower
    assert len(row["return_of_seed"]) == 2 and row["unplayed"] < 1e-3


def test_too_few_episodes_are_refused_before_anything_is_solved(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["gap", "tiger.POMDP", "--episodes", "1", "--out", str(tmp_path)])
    assert "episodes is 1; a standard error needs at least 2" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

"""Promises of RingWorld."""

import itertools
from functools import cache

import equinox as eqx
import jax
import numpy as np
import pytest

from linmem.worlds import RingWorld, permutation_of

KEY = jax.random.key(0)
STEPS = {"CW1": 1, "CW2": 2, "CCW1": -1, "CCW2": -2}
GOALS, TRAPS = (2, 3), (6, 11, 12)
EPISODE = 100


@eqx.filter_jit
def play_at_random(world, key):
    """One episode of uniformly random actions: hidden positions, actions and outcomes."""
    first, rest = jax.random.split(key)

    def step(state, key):
        choose, move = jax.random.split(key)
        action = world.action_space.sample(choose)
        state, outcome = world.step(move, state, action)
        return state, (world.hidden(state), action, outcome)

    state, _ = world.init(first)
    return world.hidden(state), jax.lax.scan(step, state, jax.random.split(rest, EPISODE))[1]


@cache
def many_random_episodes():
    """The positions reached, the actions and the outcomes of 1000 episodes, each (episode, time)."""
    world = RingWorld()
    return jax.vmap(lambda key: play_at_random(world, key))(jax.random.split(KEY, 1000))[1]


# --- moves and rewards ---


def test_without_slips_each_action_moves_as_its_name_says():
    start, (reached, actions, _) = play_at_random(RingWorld(eps=0.0), KEY)
    position = int(start)
    for action, found in zip(np.asarray(actions), np.asarray(reached), strict=True):
        position = (position + list(STEPS.values())[action]) % 12
        assert found == position


@pytest.mark.parametrize("slip", ["other", "stay", "uniform"])
def test_slips_follow_their_law(slip):
    expected = np.zeros((4, 12, 12))
    for (a, step), s in itertools.product(enumerate(STEPS.values()), range(12)):
        expected[a, s, (s + step) % 12] += 0.95
        others = {
            "other": [s + other for other in STEPS.values() if other != step],
            "stay": [s],
            "uniform": range(12),
        }[slip]
        for place in others:
            expected[a, s, place % 12] += 0.05 / len(others)
    np.testing.assert_allclose(RingWorld(slip=slip).tables().transition, expected, atol=1e-15)


def test_regular_moves_are_permutations_that_differ_from_the_moves_by_at_most_eps():
    world = RingWorld()
    for regular, actual, step in zip(
        world.regular_moves(), world.tables().transition, STEPS.values(), strict=True
    ):
        np.testing.assert_array_equal(permutation_of(regular), (np.arange(12) - step) % 12)
        np.testing.assert_allclose(np.abs(actual - regular).sum(axis=1) / 2, 0.05)


def test_the_reward_is_that_of_the_position_reached():
    reached, _, outcome = many_random_episodes()
    goal, trap = np.isin(reached + 1, GOALS), np.isin(reached + 1, TRAPS)
    assert goal.any() and trap.any()
    np.testing.assert_array_equal(outcome.reward, np.where(goal, 1.0, np.where(trap, -1.0, 0.0)))


def test_an_episode_is_truncated_after_its_length_and_never_terminates():
    _, (_, _, outcome) = play_at_random(RingWorld(episode_length=40), KEY)
    np.testing.assert_array_equal(outcome.truncated, np.arange(1, EPISODE + 1) >= 40)
    assert not outcome.terminated.any()


# --- what a uniformly random policy earns ---


@pytest.mark.parametrize("slip", ["other", "stay", "uniform"])
def test_a_random_policy_earns_exactly_minus_a_twelfth_at_every_step(slip):
    pomdp = RingWorld(slip=slip).tables()
    positions = pomdp.initial
    for _ in range(EPISODE):
        earned = np.einsum("s,ast,ast->", positions, pomdp.transition, pomdp.reward) / 4
        np.testing.assert_allclose(earned, -1 / 12, atol=1e-12)
        positions = np.einsum("s,ast->t", positions, pomdp.transition) / 4


def test_a_simulated_random_policy_earns_minus_a_twelfth_per_step():
    _, _, outcome = many_random_episodes()
    per_episode = np.asarray(outcome.reward).mean(axis=1)
    error = per_episode.std() / np.sqrt(len(per_episode))
    assert error < 0.01
    assert abs(per_episode.mean() + 1 / 12) < 4 * error


# --- beacons ---


def test_beacons_follow_the_documented_law():
    sharpness, angles = 0.7, (10.0, 80.0, 200.0)
    found = RingWorld(sharpness=sharpness, beacon_angles=angles).tables().emission
    for i in range(12):
        weights = [np.exp(sharpness * np.cos(2 * np.pi * (i / 12 - angle / 360))) for angle in angles]
        for action in range(4):
            np.testing.assert_allclose(found[action, i], np.array(weights) / sum(weights), atol=1e-14)


def test_distinct_positions_have_distinct_positive_beacon_probabilities():
    emission = RingWorld().tables().emission[0]
    assert (emission > 0).all()
    for i, j in itertools.combinations(range(12), 2):
        assert np.abs(emission[i] - emission[j]).max() > 0.01


def test_beacons_in_mirror_symmetry_are_refused_by_naming_a_pair():
    with pytest.raises(ValueError, match="positions 2 and 12 have the same beacon probabilities"):
        RingWorld(beacon_angles=(0.0, 180.0))


def test_beacons_that_tell_nothing_are_refused():
    with pytest.raises(ValueError, match="have the same beacon probabilities; use a sharpness above 0"):
        RingWorld(sharpness=0.0)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"goals": (13,)}, "goals has 13; positions run from 1 to 12"),
        ({"traps": (0,)}, "traps has 0; positions run from 1 to 12"),
        ({"goals": (6,)}, "position 6 is both a goal and a trap"),
        ({"slip": "slide"}, "unknown slip 'slide'; known: other, stay, uniform"),
        ({"eps": 1.5}, "eps is 1.5"),
        ({"beacon_angles": ()}, "beacon_angles is empty"),
        ({"sharpness": np.nan}, r"emission\[0, 0\] is nan"),
        ({"positions": 10**9}, "1000000000 states and 4 actions are too many .* at most 3535 states"),
        ({"episode_length": 0}, "episode_length is 0"),
    ],
)
def test_wrong_parameters_are_refused_with_their_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        RingWorld(**arguments)


# --- calibration of the default sharpness ---


def qmdp_reward(pomdp, episodes, seed):
    """Mean reward per step, and its standard error, of the QMDP policy on the exact Bayes belief (NumPy
    only)."""
    rng = np.random.default_rng(seed)
    move, emit = pomdp.transition, pomdp.emission[0]
    reward = (move * pomdp.reward).sum(axis=2)
    value = np.zeros((4, 12))
    for _ in range(1000):
        value = reward + pomdp.discount * move @ value.max(axis=0)

    def draw(rows):
        return (rng.random((len(rows), 1)) > rows.cumsum(axis=1)).sum(axis=1).clip(max=rows.shape[1] - 1)

    def correct(belief, observation):
        belief = belief * emit[:, observation].T
        return belief / belief.sum(axis=1, keepdims=True)

    position = rng.integers(12, size=episodes)
    belief = correct(np.full((episodes, 12), 1 / 12), draw(emit[position]))
    earned = np.zeros(episodes)
    for _ in range(EPISODE):
        action = (belief @ value.T).argmax(axis=1)
        before, position = position, draw(move[action, position])
        earned += pomdp.reward[action, before, position] / EPISODE
        belief = correct(np.einsum("es,est->et", belief, move[action]), draw(emit[position]))
    return earned.mean(), earned.std() / np.sqrt(episodes)


def best_reactive_reward(pomdp):
    """Mean reward per step of the best of all 4^4 policies that act on the last observation alone,
    exactly."""
    best = -np.inf
    reward = (pomdp.transition * pomdp.reward).sum(axis=2)
    for policy in itertools.product(range(4), repeat=4):
        act = pomdp.emission[0] @ np.eye(4)[list(policy)]  # P(action | position)
        chain, gain = np.einsum("sa,ast->st", act, pomdp.transition), np.einsum("sa,as->s", act, reward)
        positions, total = pomdp.initial, 0.0
        for _ in range(EPISODE):
            total += positions @ gain / EPISODE
            positions = positions @ chain
        best = max(best, total)
    return best


def test_a_policy_on_the_exact_belief_can_earn_what_the_paper_reports():
    earned, error = qmdp_reward(RingWorld().tables(), episodes=3000, seed=0)
    assert error < 0.004
    assert 0.575 - 4 * error < earned < 0.60 + 4 * error


def test_memory_is_worth_having():
    assert best_reactive_reward(RingWorld().tables()) < 0.50

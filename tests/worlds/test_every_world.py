"""Promises that every registered world keeps, whatever it is."""

from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linmem.worlds import WORLDS

COPIES, STEPS = 16, 1030

every_world = pytest.mark.parametrize("name", WORLDS.names())


@cache
def world_of(name):
    return WORLDS[name].make()


@cache
def play(name):
    """COPIES runs of STEPS random actions, begun anew after each end: first observations, outcomes, and moves
    (hidden state, action, hidden state reached)."""
    world = world_of(name)

    @eqx.filter_jit
    @eqx.filter_vmap(in_axes=(None, 0))
    def run(world, key):
        first, rest = jax.random.split(key)

        def step(state, key):
            choose, move, again = jax.random.split(key, 3)
            before, action = world.hidden(state), world.action_space.sample(choose)
            state, outcome = world.step(move, state, action)
            moved = before, action, world.hidden(state)
            over = outcome.terminated | outcome.truncated
            state = jax.tree.map(lambda new, old: jnp.where(over, new, old), world.init(again)[0], state)
            return state, (outcome, moved)

        state, observation = world.init(first)
        _, (outcomes, moves) = jax.lax.scan(step, state, jax.random.split(rest, STEPS))
        return observation, outcomes, moves

    return run(world, jax.random.split(jax.random.key(0), COPIES))


@every_world
def test_every_observation_lies_in_the_declared_space(name):
    first, outcomes, _ = play(name)
    contains = world_of(name).observation_space.contains
    assert jax.jit(jax.vmap(contains))(first).all()
    assert jax.jit(jax.vmap(jax.vmap(contains)))(outcomes.observation).all()


@every_world
def test_a_step_keeps_shapes_and_dtypes_of_the_state_and_of_the_observation(name):
    world, key = world_of(name), jax.random.key(0)
    state, observation = jax.eval_shape(world.init, key)
    action = jax.ShapeDtypeStruct(world.action_space.shape, world.action_space.dtype)
    after, outcome = jax.eval_shape(world.step, key, state, action)

    def form(tree):
        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type), tree)

    assert form((after, outcome.observation)) == form((state, observation))


@every_world
def test_rewards_are_finite_float32_scalars(name):
    rewards = play(name)[1].reward
    assert rewards.shape == (COPIES, STEPS)
    assert rewards.dtype == jnp.float32
    assert jnp.isfinite(rewards).all()


@every_world
def test_an_episode_never_terminates_and_is_truncated_at_once(name):
    outcomes = play(name)[1]
    assert outcomes.terminated.dtype == outcomes.truncated.dtype == jnp.bool_
    assert not (outcomes.terminated & outcomes.truncated).any()


@every_world
def test_every_copy_comes_to_an_end(name):
    outcomes = play(name)[1]
    assert (outcomes.terminated | outcomes.truncated).any(axis=1).all()


@every_world
def test_the_same_key_gives_the_same_step(name):
    world = world_of(name)

    @jax.jit
    def twice(key):  # each traced by itself, so that what is drawn outside JAX would show
        state, _ = world.init(key)
        action = world.action_space.sample(key)
        return [world.step(key, state, action) for _ in range(2)]

    one, other = twice(jax.random.key(3))
    assert eqx.tree_equal(one, other)


def as_often(counts, probability):
    """Whether counts are what the probabilities in rows give, by Pearson's chi-squared statistic, but for 5
    standard deviations; what is impossible must not happen."""
    expected = counts.sum(axis=-1, keepdims=True) * probability
    common = expected >= 5  # of rarer ones the statistic is not chi-squared
    statistic = ((counts - expected)[common] ** 2 / expected[common]).sum()
    whole = common.any(axis=-1) & (common == (probability > 0)).all(axis=-1)  # such a row's counts are bound
    freedom = common.sum() - whole.sum()
    return (counts[probability == 0] == 0).all() and statistic <= freedom + 5 * np.sqrt(2 * freedom) + 1e-6


@every_world
def test_tables_and_hidden_states_agree_with_what_is_seen(name):
    world, (_, outcomes, (before, action, reached)) = world_of(name), play(name)
    pomdp = world.tables()
    if pomdp is None:
        assert before is None and reached is None
        return
    assert (world.action_space.n, world.observation_space.n) == (pomdp.n_actions, pomdp.n_observations)
    assert before.dtype == reached.dtype == jnp.int32
    s, a, to, seen, reward = (
        np.asarray(x).ravel() for x in (before, action, reached, outcomes.observation, outcomes.reward)
    )
    moves, sights = np.zeros(pomdp.transition.shape), np.zeros(pomdp.emission.shape)
    np.add.at(moves, (a, s, to), 1)
    np.add.at(sights, (a, to, seen), 1)
    assert as_often(moves, pomdp.transition) and as_often(sights, pomdp.emission)
    np.testing.assert_allclose(reward, pomdp.reward[a, s, to], atol=1e-6)


@every_world
def test_an_entry_says_what_it_is_and_where_it_comes_from(name):
    assert WORLDS[name].summary and WORLDS[name].source

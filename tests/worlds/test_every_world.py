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
    """COPIES runs of STEPS random actions, begun anew after each end: first observations, steps, hidden
    states."""
    world = world_of(name)

    @eqx.filter_jit
    @eqx.filter_vmap(in_axes=(None, 0))
    def run(world, key):
        first, rest = jax.random.split(key)

        def step(state, key):
            choose, move, again = jax.random.split(key, 3)
            state, outcome = world.step(move, state, world.action_space.sample(choose))
            hidden = world.hidden(state)
            over = outcome.terminated | outcome.truncated
            state = jax.tree.map(lambda new, old: jnp.where(over, new, old), world.init(again)[0], state)
            return state, (outcome, hidden)

        state, observation = world.init(first)
        _, (outcomes, hidden) = jax.lax.scan(step, state, jax.random.split(rest, STEPS))
        return observation, outcomes, hidden

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


@every_world
def test_tables_and_hidden_states_agree_with_what_is_seen(name):
    world, (_, outcomes, hidden) = world_of(name), play(name)
    pomdp = world.tables()
    if pomdp is None:
        assert hidden is None
        return
    assert (world.action_space.n, world.observation_space.n) == (pomdp.n_actions, pomdp.n_observations)
    assert hidden.dtype == jnp.int32
    assert (pomdp.emission.max(axis=0)[np.asarray(hidden), np.asarray(outcomes.observation)] > 0).all()


@every_world
def test_an_entry_says_what_it_is_and_where_it_comes_from(name):
    assert WORLDS[name].summary and WORLDS[name].source

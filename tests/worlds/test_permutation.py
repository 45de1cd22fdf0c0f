"""Permutation world: naming the state earns what the belief says it should."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linmem.core.types import Inputs
from linmem.memories import Belief
from linmem.worlds import PermutationWorld

COPIES, STEPS = 64, 60


@eqx.filter_jit
def play(world, memory, key):
    """Rewards and largest beliefs (STEPS, COPIES) of the policy that names the most probable state."""

    def one(key):
        first, rest = jax.random.split(key)
        state, observation = world.init(first)

        def step(carry, key):
            state, belief_state, x, start = carry
            belief_state, belief = memory.step(belief_state, x, start)
            action = jnp.argmax(belief).astype(world.action_space.dtype)
            state, outcome = world.step(key, state, action)
            x = Inputs(outcome.observation, action, outcome.reward)
            return (state, belief_state, x, jnp.asarray(False)), (outcome.reward, belief.max())

        zero = jnp.zeros((), world.action_space.dtype)
        carry = state, memory.init(), Inputs(observation, zero, jnp.zeros(())), jnp.asarray(True)
        return jax.lax.scan(step, carry, jax.random.split(rest, STEPS))[1]

    return jax.vmap(one, out_axes=1)(jax.random.split(key, COPIES))


def test_naming_the_most_probable_state_earns_its_probability():
    world = PermutationWorld(states=5, observations=3, eps=0.05, model_seed=1)
    reward, sure = play(world, Belief(world.tables()), jax.random.key(0))
    gap = np.mean(np.asarray(reward) - np.asarray(sure), axis=0)  # one number per episode, mean 0
    assert abs(gap.mean()) < 4 * gap.std() / COPIES**0.5
    assert np.mean(reward) > 2 / 5  # far better than a guess


def test_moves_are_one_permutation_for_all_actions_with_noise():
    tables = PermutationWorld(states=5, observations=3, eps=0.05, model_seed=1).tables()
    assert (tables.transition == tables.transition[0]).all()
    most = tables.transition[0].argmax(axis=1)
    assert sorted(most) == list(range(5))
    np.testing.assert_allclose(tables.transition[0, np.arange(5), most], 0.96)


def test_impossible_settings_are_named():
    for settings, message in (
        ({"states": 1}, "states is 1"),
        ({"states": 1000}, "1000 states and 1000 actions are too many .* at most 223 states"),
        ({"eps": 1.5}, "eps is 1.5"),
        ({"concentration": 0.0}, "concentration is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            PermutationWorld(**settings)

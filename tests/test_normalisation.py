"""The learner's options: what they normalise by is what was seen, and a critic may know the truth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linmem.agents import PPOConfig, ppo
from linmem.agents.rollout import Slot
from linmem.core.moments import merge, no_moments
from linmem.memories import MEMORIES, Normalised
from linmem.worlds import POMDP, WORLDS, TableWorld

SMALL = PPOConfig(actors=8, unroll=12, epochs=2, minibatches=2, step_size=1e-2, memory_size=8, discount=0.9)


def trained(world, updates, memory="none", **options):
    config = PPOConfig(**{**vars(SMALL), **options})
    keys = jax.random.split(jax.random.key(0), 1)
    state = ppo.seeds_init(config, world, MEMORIES[memory].make, updates, keys)
    state, metrics = ppo.compile_train(config, world, updates, updates, state)(state)
    return jax.tree.map(lambda x: x[0], (state, metrics))


def test_moments_of_batches_are_those_of_all_rows_that_count():
    rng = np.random.default_rng(0)
    batches = [rng.normal(3, 2, (n, 2)) for n in (5, 1, 7)]
    where = [rng.random(len(batch)) < 0.7 for batch in batches]
    where[1][:] = False  # a batch without any
    moments = no_moments((2,))
    for batch, chosen in zip(batches, where, strict=True):
        poisoned = np.where(chosen[:, None], batch, np.nan)
        moments = merge(moments, jnp.asarray(poisoned, jnp.float32), jnp.asarray(chosen))
    counted = np.concatenate([batch[chosen] for batch, chosen in zip(batches, where, strict=True)])
    np.testing.assert_allclose(moments.mean, counted.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments.variance, counted.var(0), rtol=1e-4)
    assert moments.count == len(counted)


def test_what_observations_are_normalised_by_is_all_that_was_seen_and_nothing_learned():
    world = WORLDS["probe_observation"].make()  # -1 or 1
    state, _ = trained(world, 3, normalise_observations=True, separate_critic=True)
    memory, critic_memory = state.policy.memory, state.policy.critic_memory
    assert isinstance(memory, Normalised) and isinstance(critic_memory, Normalised)
    jax.tree.map(np.testing.assert_array_equal, memory.moments, critic_memory.moments)
    mean, variance, count = memory.moments
    assert count == 3 * SMALL.actors * SMALL.unroll
    # The mean square is 1 whatever was drawn; a gradient step on either would break it.
    np.testing.assert_allclose(mean**2 + variance, 1, rtol=1e-5)
    assert 0 < abs(float(mean[0])) < 0.3


def test_choices_are_not_normalised():
    with pytest.raises(ValueError, match=r"only numbers \(a Box\) can be normalised; .* Discrete\(n=4\)"):
        trained(WORLDS["ringworld"].make(), 1, normalise_observations=True)


def test_rewards_are_normalised_by_the_spread_of_the_discounted_sums_of_each_episode():
    rng = np.random.default_rng(1)
    steps, actors, discount = 9, 3, 0.8
    reward, start, acts = rng.normal(size=(steps, actors)), rng.random((steps, actors)) < 0.3, True
    acts = rng.random((steps, actors)) < 0.9
    reward = np.where(acts, reward, 0)
    begun = rng.normal(size=actors)
    expected, sums = np.zeros((steps, actors)), begun.copy()
    for t in range(steps):
        sums = np.where(start[t], 0, discount * sums) + reward[t]
        expected[t] = sums
    blank = Slot(*[None] * len(Slot._fields))
    slots = blank._replace(reward=jnp.asarray(reward), start=jnp.asarray(start), acts=jnp.asarray(acts))
    earning = ppo.earn(ppo.Earning(jnp.asarray(begun), no_moments(())), slots, discount)
    np.testing.assert_allclose(earning.sums, sums, rtol=1e-5)
    np.testing.assert_allclose(earning.moments.variance, expected[acts].var(), rtol=1e-4)


def test_with_normalised_rewards_their_scale_changes_nothing_that_is_learned():
    class Scaled(type(WORLDS["probe_action"].make())):
        def step(self, key, state, action):
            state, outcome = super().step(key, state, action)
            return state, outcome._replace(reward=outcome.reward * 512)

    settings = dict(normalise_rewards=True)
    runs = [
        trained(WORLDS["probe_action"].make(), 3, **settings),
        trained(Scaled(), 3, **settings),
        trained(Scaled(), 3),
    ]
    plain, scaled, raw = (np.asarray(metrics.value_loss) for _, metrics in runs)
    np.testing.assert_allclose(plain, scaled, rtol=1e-3)
    assert np.all(raw > 1000 * scaled)  # the value's error is in units of the reward squared


HIDDEN = TableWorld(POMDP([np.eye(2)] * 2, np.ones((2, 1)), [1.0, -1.0], [0.5, 0.5], 0.9), episode_length=4)
"""Two states that look alike and are never left; one pays, the other costs."""


@pytest.mark.parametrize("privileged, low, high", [(True, 0.9, 1.01), (False, -0.5, 0.3)])
def test_a_privileged_critic_knows_the_value_of_states_that_look_alike(privileged, low, high):
    _, metrics = trained(HIDDEN, 150, actors=16, privileged_critic=privileged)
    assert low < float(metrics.explained[-10:].mean()) < high


def test_an_agent_with_a_privileged_critic_acts_without_the_truth():
    state, _ = trained(HIDDEN, 1, privileged_critic=True)
    policy = state.policy
    features = jnp.zeros(policy.memory.out_size)
    told, value = policy.heads(features, jnp.int32(1))
    untold, unknown = policy.heads(features)
    np.testing.assert_array_equal(told, untold)
    assert np.isfinite(value) and np.isnan(unknown)


def test_a_privileged_critic_needs_a_world_that_tells_the_truth():
    with pytest.raises(ValueError, match="TMaze has no tables of them; leave --privileged-critic out"):
        trained(WORLDS["tmaze"].make(), 1, privileged_critic=True)

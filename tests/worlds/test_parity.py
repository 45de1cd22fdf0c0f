"""The parity world hides the bit, pays for reporting it, and states its values rightly."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linmem.worlds.parity import Parity

LENGTH = 9


def episodes(world, policy, count=200):
    """Mean reward per step of a scripted policy: (events so far) -> report, for many episodes at once."""

    def episode(key):
        first, rest = jax.random.split(key)
        state, event = world.init(first)
        events = jnp.zeros(world.length + 1, jnp.int32).at[0].set(event)

        def step(carry, inputs):
            state, events = carry
            t, key = inputs
            state, outcome = world.step(key, state, policy(events, t))
            return (state, events.at[t + 1].set(outcome.observation)), outcome

        times = jnp.arange(world.length)
        return jax.lax.scan(step, (state, events), (times, jax.random.split(rest, world.length)))[1]

    return jax.jit(jax.vmap(episode))(jax.random.split(jax.random.key(0), count))


def counting(events, t):
    seen = jnp.arange(len(events)) <= t
    return jnp.sum(jnp.where(seen, events, 0)) % 2


def test_counting_the_events_modulo_two_earns_the_best_value():
    outcomes = episodes(Parity(0.3, LENGTH), counting)
    assert (np.asarray(outcomes.reward) == Parity().best).all()


def test_an_episode_is_truncated_after_its_reports_and_never_terminated():
    outcomes = episodes(Parity(0.3, LENGTH), counting, 3)
    assert not outcomes.terminated.any()
    np.testing.assert_array_equal(outcomes.truncated[0], np.arange(LENGTH) == LENGTH - 1)


@pytest.mark.parametrize("flip", [0.5, 0.2, 0.9])
def test_the_best_memoryless_value_is_that_of_the_best_of_all_memoryless_policies(flip):
    world = Parity(flip, LENGTH)
    tables = world.tables()
    values = []
    for reports in itertools.product((0, 1), repeat=2):
        state, total = tables.initial, 0.0
        for _ in range(LENGTH):  # the report for each state is that for its event
            gains = [tables.reward[reports[s % 2], s, :] @ tables.transition[0, s] for s in range(4)]
            total += state @ gains
            state = state @ tables.transition[0]
        values.append(total / LENGTH)
    assert world.best_memoryless == pytest.approx(max(values))


def test_reporting_the_event_earns_the_stated_memoryless_value():
    world = Parity(0.5, LENGTH)
    rewards = np.asarray(episodes(world, lambda events, t: events[t], 4000).reward)
    assert world.best_memoryless == pytest.approx(1 / LENGTH)
    assert rewards[:, 0].mean() == 1
    assert rewards.mean() == pytest.approx(world.best_memoryless, abs=4 / np.sqrt(rewards.size))


def test_a_world_without_anything_hidden_is_refused():
    with pytest.raises(ValueError, match="flip is 0"):
        Parity(0.0)

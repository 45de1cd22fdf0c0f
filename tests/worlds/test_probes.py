"""Promises of the probe worlds: their stated values are those of the worlds as they step."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linmem.worlds import (
    WORLDS,
    ActionProbe,
    ConstantProbe,
    DelayProbe,
    ObservationProbe,
    RecallProbe,
    TruncationProbe,
)

DISCOUNT = 0.9
MARKOV_PROBES = [
    ConstantProbe(),
    ObservationProbe(),
    DelayProbe(),
    ActionProbe(),
    TruncationProbe(),
    TruncationProbe(steps=3, terminates=True),
]


def explore(world, inits=10):
    """What each action leads to from each observation, found by stepping: {(o, a): (reward, terminated,
    o')}."""
    step = eqx.filter_jit(world.step)
    model = {}

    def visit(state, observation):
        for action in range(world.action_space.n):
            after, outcome = step(jax.random.key(0), state, jnp.int32(action))
            reached = np.asarray(outcome.observation).item()
            result = (float(outcome.reward), bool(outcome.terminated), reached)
            # the observation determines what follows, so that values by observation are well defined
            assert model.setdefault((observation, action), result) == result
            if not (outcome.terminated or outcome.truncated):
                visit(after, reached)

    for seed in range(inits):
        state, observation = world.init(jax.random.key(seed))
        visit(state, np.asarray(observation).item())
    return model


def best_values(model, discount):
    """Value iteration; a truncated step is followed by the value of its final observation, a terminated one
    by 0."""
    values = {observation: 0.0 for observation, _ in model}
    for _ in range(400):
        values = {
            observation: max(
                reward + (0.0 if terminated else discount * values[reached])
                for (before, _), (reward, terminated, reached) in model.items()
                if before == observation
            )
            for observation in values
        }
    return values


@pytest.mark.parametrize("world", MARKOV_PROBES, ids=repr)
def test_stated_values_are_those_found_by_stepping(world):
    assert world.values(DISCOUNT) == pytest.approx(best_values(explore(world), DISCOUNT))


def test_every_registered_probe_states_its_values():
    for entry in WORLDS:
        if entry.name.startswith("probe_"):
            assert entry.make().values(DISCOUNT)


def test_the_registered_termination_probe_terminates_and_the_truncation_probe_truncates():
    assert WORLDS["probe_termination"].make().values(DISCOUNT)[0] == pytest.approx(1 + 0.9 + 0.81 + 0.729)
    assert WORLDS["probe_truncation"].make().values(DISCOUNT)[0] == pytest.approx(10)


def test_both_observations_of_the_observation_probe_occur():
    observations = jax.vmap(lambda key: ObservationProbe().init(key)[1])(
        jax.random.split(jax.random.key(0), 100)
    )
    assert set(observations.ravel().tolist()) == {-1.0, 1.0}


# --- recall ---

DELAY = 3
WAIT, QUESTION = 2, 3


def recall_episode(seed, policy):
    """Observations, rewards and ends of one episode; the policy maps the observations so far to an action."""
    world, key = RecallProbe(delay=DELAY), jax.random.key(0)
    state, observation = world.init(jax.random.key(seed))
    observations, rewards, ends = [int(observation)], [], []
    while not any(ends):
        state, outcome = world.step(key, state, jnp.int32(policy(observations)))
        observations.append(int(outcome.observation))
        rewards.append(float(outcome.reward))
        ends.append(bool(outcome.terminated))
    return observations, rewards, ends


def test_the_cue_is_shown_at_the_start_only():
    cues = set()
    for seed in range(8):
        observations, _, ends = recall_episode(seed, lambda seen: 0)
        assert observations[1:-1] == [WAIT] * (DELAY - 1) + [QUESTION]
        assert ends == [False] * DELAY + [True]
        cues.add(observations[0])
    assert cues == {0, 1}


def test_remembering_the_cue_earns_one_at_the_question():
    for seed in range(8):
        _, rewards, _ = recall_episode(seed, lambda seen: seen[0])
        assert rewards == [0.0] * DELAY + [1.0]


def test_every_policy_without_memory_earns_nothing_on_average():
    seeds = {recall_episode(seed, lambda seen: 0)[0][0]: seed for seed in range(8)}  # one for each cue
    assert set(seeds) == {0, 1}
    for actions in itertools.product((0, 1), repeat=4):

        def act(seen, actions=actions):
            return actions[seen[-1]]

        assert sum(sum(recall_episode(seed, act)[1]) for seed in seeds.values()) == 0


def test_stated_recall_values_are_those_of_the_tables():
    """The cue is seen at the start, so that a memory knows the state: values of states are values of
    memories."""
    world = RecallProbe(delay=DELAY)
    pomdp = world.tables()
    value = np.zeros(pomdp.n_states)
    for _ in range(DELAY + 2):
        value = np.einsum("ast,ast->as", pomdp.transition, pomdp.reward + DISCOUNT * value).max(axis=0)
    for observation, stated in world.values(DISCOUNT).items():
        states = np.flatnonzero(pomdp.emission[0, :, observation])
        np.testing.assert_allclose(value[states], stated)


def test_probes_refuse_parameters_that_leave_no_episode():
    with pytest.raises(ValueError, match="delay is 0"):
        RecallProbe(delay=0)
    with pytest.raises(ValueError, match="steps is 0"):
        TruncationProbe(steps=0)

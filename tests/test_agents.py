"""The agent: advantages against a literal loop, known values on probe worlds,
and nothing that crosses a start."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from linmem.agents import PPOConfig, ppo
from linmem.agents.distributions import distribution_of
from linmem.agents.policy import ActorCritic
from linmem.agents.returns import advantages
from linmem.agents.rollout import act, begin, collect
from linmem.memories import MEMORIES
from linmem.worlds import (
    WORLDS,
    AimProbe,
    Box,
    Discrete,
    MultiDiscrete,
    RecallProbe,
    RingWorld,
    TruncationProbe,
)
from linmem.worlds.base import AbstractWorld, Outcome

SMALL = PPOConfig(actors=16, unroll=20, epochs=4, minibatches=2, step_size=1e-2, memory_size=16, discount=0.9)


def trained(world, memory, updates, config=SMALL, seeds=2):
    keys = jax.random.split(jax.random.key(0), seeds)
    state = ppo.seeds_init(config, world, MEMORIES[memory].make, updates, keys)
    state, metrics = ppo.compile_train(config, world, updates, updates, state)(state)
    return state, jax.tree.map(np.asarray, metrics)


@eqx.filter_jit
def begun(policy, world, count):
    return jax.vmap(begin, in_axes=(None, None, 0))(policy, world, jax.random.split(jax.random.key(0), count))


def test_advantages_are_the_literal_sums_with_both_kinds_of_end():
    rng = np.random.default_rng(0)
    steps, batch, discount, trace = 17, 3, 0.9, 0.7
    rewards, values = rng.normal(size=(steps, batch)), rng.normal(size=(steps + 1, batch))
    terminated = rng.random((steps, batch)) < 0.2
    truncated = (rng.random((steps, batch)) < 0.2) & ~terminated
    expected = np.zeros((steps, batch))
    for b in range(batch):
        for t in range(steps):
            factor = 1.0
            for k in range(t, steps):
                following = 0.0 if terminated[k, b] else values[k + 1, b]
                expected[t, b] += factor * (rewards[k, b] + discount * following - values[k, b])
                if terminated[k, b] or truncated[k, b]:
                    break
                factor *= discount * trace
    got = advantages(*map(jnp.asarray, (rewards, values, terminated, truncated)), discount, trace)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["probe_constant", "probe_observation", "probe_delay", "probe_truncation", "probe_termination"]
)
def test_the_critic_learns_the_known_values(name):
    world = WORLDS[name].make()
    state, _ = trained(world, "none", 150)
    policy = jax.tree.map(lambda x: x[0], state.policy)
    for observation, value in world.values(SMALL.discount).items():
        space = world.observation_space
        o = jnp.full(space.shape, observation, space.dtype)
        _, first = world.init(jax.random.key(0))
        x = begin(policy, world, jax.random.key(0)).inputs._replace(observation=o)
        assert first.shape == o.shape
        _, _, got = policy.step((), x, jnp.asarray(False))
        assert abs(float(got) - value) < 0.1 * max(1, abs(value)), (observation, float(got), value)


@pytest.mark.parametrize("memory, low, high", [("gru", 0.9, 1.01), ("s5", 0.9, 1.01), ("none", -0.3, 0.3)])
def test_a_cue_is_recalled_with_memory_and_not_without(memory, low, high):
    # at the step size of SMALL a seed of gru now and then never finds the cue
    _, metrics = trained(RecallProbe(delay=3), memory, 150, replace(SMALL, step_size=3e-3))
    returns = metrics.episode_return[:, -10:].mean()
    assert low < returns < high


def test_a_critic_with_a_memory_of_its_own_learns_beside_an_actor_that_acts_without_it():
    world = RecallProbe(delay=3)
    state, metrics = trained(world, "s5", 150, replace(SMALL, separate_critic=True), seeds=1)
    assert metrics.episode_return[:, -10:].mean() > 0.9
    assert metrics.explained[:, -10:].mean() > 0.5
    policy = jax.tree.map(lambda x: x[0], state.policy)
    actor = begin(policy, world, jax.random.key(0))
    _, parameters, value = policy.step(actor.memory, actor.inputs, actor.start)
    assert jnp.isfinite(parameters).all() and jnp.isnan(value)


def test_the_belief_is_memory_enough_for_recall():
    _, metrics = trained(RecallProbe(delay=3), "belief", 100)
    assert metrics.episode_return[:, -10:].mean() > 0.9


@pytest.mark.parametrize("memory", ["belief_logits", "lof"])
def test_logits_of_impossible_states_reach_a_policy_as_numbers_that_it_learns_from(memory):
    state, metrics = trained(WORLDS["parity"].make(), memory, 1, seeds=1)
    losses = metrics.policy_loss, metrics.value_loss, metrics.gradient
    learned = jax.tree.leaves((losses, state.policy.actor, state.policy.critic))
    assert all(np.isfinite(leaf).all() for leaf in learned)


def a_policy(memory, world, size=8):
    keys = jax.random.split(jax.random.key(3))
    return ActorCritic(MEMORIES[memory].make(world, size, keys[0]), world.action_space, size, key=keys[1])


@pytest.mark.parametrize("name, reward", [("probe_action", 0.95), ("probe_aim", 0.9)])
def test_the_policy_learns_the_best_action_of_each_observation(name, reward):
    world = WORLDS[name].make()
    state, metrics = trained(world, "none", 120)
    assert metrics.reward[:, -5:].mean() > reward
    if name == "probe_aim":
        policy = jax.tree.map(lambda x: x[0], state.policy)
        for o in (-1.0, 1.0):
            x = begin(policy, world, jax.random.key(0)).inputs._replace(observation=jnp.array([o]))
            _, parameters, value = policy.step((), x, jnp.asarray(False))
            best = policy.actions.execute(policy.actions.mode(parameters))
            np.testing.assert_allclose(best, [o, 1 - o / 2], atol=0.2)
            assert abs(float(value) - 1) < 0.15


def test_a_gaussian_has_the_density_entropy_and_mean_that_scipy_gives():
    actions = distribution_of(Box((3,), -2.0, 4.0))
    mean, log_std = np.array([0.3, -1.2, 0.0]), np.array([-1.0, 0.2, -3.0])
    parameters = jnp.concatenate([jnp.asarray(mean), jnp.asarray(log_std)])
    law = scipy.stats.norm(mean, np.exp(log_std))
    u = np.array([[0.1, 0.2, 0.05], [-1.0, -3.0, -0.1]])
    batched = jnp.broadcast_to(parameters, (2, 6))
    np.testing.assert_allclose(actions.log_prob(batched, jnp.asarray(u)), law.logpdf(u).sum(1), rtol=1e-5)
    np.testing.assert_allclose(actions.entropy(parameters), law.entropy().sum(), rtol=1e-5)
    draws = jax.vmap(lambda key: actions.sample(key, parameters))(jax.random.split(jax.random.key(0), 4000))
    assert (np.abs(draws.mean(0) - mean) < 5 * np.exp(log_std) / np.sqrt(4000)).all()
    np.testing.assert_allclose(draws.std(0), np.exp(log_std), rtol=0.1)
    np.testing.assert_array_equal(actions.mode(parameters), mean.astype(np.float32))


def test_executed_actions_fill_the_box_and_never_leave_it():
    box = Box((2, 1), -1.0, 2.0)
    actions = distribution_of(box)
    choices = jnp.array([[-7.0, -1.0], [0.0, 0.5], [1.0, 30.0]])
    executed = actions.execute(choices)
    np.testing.assert_allclose(executed[..., 0], [[-1, -1], [0.5, 1.25], [2, 2]])
    assert jax.vmap(box.contains)(executed).all()
    free = distribution_of(Box((2,), -np.inf, np.inf))
    np.testing.assert_array_equal(free.execute(choices), choices)
    with pytest.raises(ValueError, match="act on Discrete or Box actions; this world's are MultiDiscrete"):
        distribution_of(MultiDiscrete((2, 3), (2,)))


def test_the_memory_sees_the_executed_action_and_the_learner_the_drawn_one():
    world = RepeatingAim()
    policy = a_policy("gru", world)
    policy = eqx.tree_at(lambda p: p.log_std, policy, jnp.full(2, 2.0))  # so wide that most draws are clipped
    actors = begun(policy, world, 2)
    _, slots = jax.jit(lambda a: collect(policy, world, a, jax.random.key(1), 12))(actors)
    assert (jnp.abs(slots.action) > 1).any()
    going = ~slots.start[1:]
    executed = policy.actions.execute(slots.action[:-1])
    np.testing.assert_allclose(slots.inputs.action[1:][going], executed[going], atol=1e-6)
    assert jax.vmap(world.action_space.contains)(slots.inputs.action.reshape(-1, 2)).all()
    _, parameters, _ = jax.vmap(policy.unroll, in_axes=(0, 1, 1), out_axes=(0, 1, 1))(
        actors.memory, slots.inputs, slots.start
    )
    np.testing.assert_allclose(policy.actions.log_prob(parameters, slots.action), slots.log_prob, atol=1e-4)


class RepeatingAim(AimProbe):
    """AimProbe that goes on."""

    def step(self, key, state, action):
        state, outcome = super().step(key, state, action)
        return state, outcome._replace(terminated=jnp.asarray(False))


def test_a_truncated_episode_shows_its_final_observation_once_and_a_terminated_one_never():
    for terminates in (False, True):
        world = TruncationProbe(steps=4, terminates=terminates)
        policy = a_policy("none", world)
        actors = begun(policy, world, 2)
        _, slots = jax.jit(lambda a: collect(policy, world, a, jax.random.key(1), 12))(actors)  # noqa: B023
        acts, start = np.asarray(slots.acts[:, 0]), np.asarray(slots.start[:, 0])
        if terminates:
            assert acts.all() and start.tolist() == [True, False, False, False] * 3
            assert slots.terminated[:, 0].tolist() == [False, False, False, True] * 3
            assert not slots.truncated.any()
        else:
            period = [True, True, True, True, False]
            assert acts.tolist() == (period * 3)[:12]
            assert start.tolist() == ([True, False, False, False, False] * 3)[:12]
            assert slots.truncated[:, 0].tolist() == ([False, False, False, True, False] * 3)[:12]
            assert slots.inputs.observation[4, 0] == 0  # the final observation: time 4 modulo 4
        returns = np.asarray(slots.returns[:, 0])
        assert np.nanmin(returns) == np.nanmax(returns) == 4.0


class Payments(AbstractWorld):
    """Only rewards tell what happened: they are drawn, and every observation is 0. The fourth step ends an
    episode, as the sign of its reward says."""

    observation_space, action_space = Discrete(1), Discrete(2)

    def init(self, key):
        return jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)

    def step(self, key, state, action):
        reward, over = jax.random.normal(key), state == 3
        return state + 1, Outcome(jnp.zeros_like(state), reward, over & (reward > 0), over & (reward <= 0))


def test_a_memory_reads_the_last_reward_if_its_name_says_so_and_zero_at_a_start():
    world, steps = Payments(), 40

    @eqx.filter_jit
    def features(policy, inputs, starts):
        return jax.vmap(lambda xs, starts: policy.memory.unroll(policy.memory.init(), xs, starts)[1], 1, 1)(
            inputs, starts
        )

    window = a_policy("window@length=1@reward=True", world)
    _, slots = eqx.filter_jit(collect)(window, world, begun(window, world, 2), jax.random.key(1), steps)
    starts, rewards = np.asarray(slots.start), np.asarray(slots.reward)
    assert slots.terminated.any() and slots.truncated.any()
    expected = np.zeros((steps, 2))
    for t in range(1, steps):
        expected[t] = np.where(starts[t], 0.0, rewards[t - 1])
    np.testing.assert_allclose(features(window, slots.inputs, slots.start)[..., -1], expected, rtol=1e-6)

    other = slots.inputs._replace(reward=slots.inputs.reward + 1)
    for name, reads in (("gru", False), ("gru@reward=True", True)):
        policy = a_policy(name, world)
        differ = features(policy, slots.inputs, slots.start) != features(policy, other, slots.start)
        np.testing.assert_array_equal(differ.any(axis=-1), reads & ~starts)


@pytest.mark.parametrize("memory", ["s5", "gru", "deep_alf", "belief", "alf", "trace"])
def test_acting_after_a_start_does_not_depend_on_the_memory_before_it(memory):
    world = RingWorld(episode_length=5)
    policy = a_policy(memory, world)
    actor = begin(policy, world, jax.random.key(0))
    spoil = lambda x: jnp.full_like(x, jnp.nan) if jnp.issubdtype(x.dtype, jnp.inexact) else x  # noqa: E731
    other = actor._replace(memory=jax.tree.map(spoil, actor.memory))
    step = jax.jit(lambda actor: act(policy, world, actor, jax.random.key(1)))
    jax.tree.map(np.testing.assert_array_equal, step(other), step(actor))


@pytest.mark.parametrize("memory", ["s5", "gru", "deep_alf"])
def test_learning_after_a_start_does_not_depend_on_anything_before_it(memory):
    """Two rollouts that agree from a start on give bit-identical parameter gradients for
    the steps after it."""
    world = RingWorld(episode_length=7)
    policy = a_policy(memory, world)
    cut = 8  # 7 decisions and the final observation
    actors = begun(policy, world, 4)
    _, slots = jax.jit(lambda a: collect(policy, world, a, jax.random.key(1), 14))(actors)
    assert slots.start[cut].all()
    early = np.arange(14) < cut
    # Only what comes after the start counts in the loss ...
    slots = slots._replace(acts=slots.acts & ~early[:, None])
    gains = jax.random.normal(jax.random.key(2), slots.reward.shape)

    @eqx.filter_jit
    def gradient(slots, memories):
        return eqx.filter_grad(lambda p: ppo.loss(p, SMALL, (memories, None), slots, gains, gains)[0])(policy)

    # ... and everything before it is replaced: observations, actions, and the memory's first state.
    other = slots._replace(
        inputs=jax.tree.map(lambda x: jnp.where(early[:, None], (x + 1) % 3, x).astype(x.dtype), slots.inputs)
    )
    spoiled = jax.tree.map(lambda x: x + 1.5, actors.memory)
    jax.tree.map(np.testing.assert_array_equal, gradient(other, spoiled), gradient(slots, actors.memory))
    # The check can fail: a change after the start does change the gradient.
    late = slots._replace(inputs=jax.tree.map(lambda x: (x + 1) % 3, slots.inputs))
    differs = jax.tree.map(
        lambda a, b: bool((a != b).any()), gradient(late, spoiled), gradient(slots, spoiled)
    )
    assert any(jax.tree.leaves(differs))


def test_minibatches_split_the_actors_and_normalise_the_advantages_of_their_decisions():
    world, config = RingWorld(episode_length=7), replace(SMALL, actors=4, minibatches=4, step_size=0.0)
    config = replace(config, value_cost=0.0, entropy_cost=0.0)
    policy = a_policy("s5", world)
    actors = begun(policy, world, 4)
    play = jax.jit(lambda actors, key: collect(policy, world, actors, key, 10))
    actors, _ = play(actors, jax.random.key(1))
    _, slots = play(actors, jax.random.key(2))
    gains, targets = jax.random.normal(jax.random.key(3), (2, *slots.reward.shape))
    optimiser = ppo.optimiser(config, 1).init(eqx.filter(policy, eqx.is_inexact_array))

    @jax.jit
    def parts(gains):
        data = (actors.memory, None), slots, gains, targets
        whole = ppo.loss(policy, config, *data)[1]
        return ppo.learn(config, 1, policy, optimiser, data, jax.random.key(4))[2], whole

    # nobody learns here: the mean over minibatches is that of all actors, each with its memory and targets
    learned, whole = parts(gains)
    np.testing.assert_allclose(learned["value_loss"], whole["value_loss"], rtol=1e-4)
    assert not slots.acts.all()
    other = jnp.where(slots.acts, gains * jnp.array([1.0, 2.0, 30.0, 0.1]) + 3, 1e9)
    np.testing.assert_allclose(parts(other)[0]["gradient"], learned["gradient"], rtol=1e-3)
    assert abs(parts(gains**3)[0]["gradient"] / learned["gradient"] - 1) > 0.01


def test_a_rollout_in_which_nobody_acts_teaches_nothing_and_spoils_nothing():
    state, metrics = trained(RingWorld(episode_length=3), "none", 8, replace(SMALL, unroll=1))
    nobody = metrics.steps == 0
    assert nobody.any() and not nobody.all()
    assert (metrics.gradient[nobody] == 0).all() and (metrics.gradient[~nobody] > 0).all()
    np.testing.assert_array_equal(np.isnan(metrics.reward), nobody)
    assert all(
        np.isfinite(leaf).all() for leaf in jax.tree.leaves(eqx.filter(state.policy, eqx.is_inexact_array))
    )


def _separate(policy: ActorCritic, critic_memory) -> ActorCritic:
    return eqx.tree_at(lambda p: p.critic_memory, policy, critic_memory, is_leaf=lambda leaf: leaf is None)


def test_a_critic_with_a_memory_of_its_own_shares_no_gradient_with_the_actor():
    world = RingWorld(episode_length=7)
    policy = a_policy("s5", world)
    actors = begun(policy, world, 4)
    _, slots = jax.jit(lambda a: collect(policy, world, a, jax.random.key(1), 10))(actors)
    gains, targets = jax.random.normal(jax.random.key(2), (2, *slots.reward.shape))

    @eqx.filter_jit
    def size(policy, critic, value_cost, scale):
        config = replace(SMALL, value_cost=value_cost, entropy_cost=0.0)
        part = (actors.memory, critic), slots, scale * gains, targets
        gradient = eqx.filter_grad(lambda p: ppo.loss(p, config, *part)[0])(policy)
        of = lambda memory: sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(memory))  # noqa: E731
        return of(gradient.memory), of(gradient.critic_memory)

    separate = _separate(policy, policy.memory)
    actor, critic = size(separate, actors.memory, 0.0, 1.0)  # only the policy's loss
    assert actor > 0 and critic == 0
    actor, critic = size(separate, actors.memory, 1.0, 0.0)  # only the value's
    assert actor == 0 and critic > 0
    assert size(policy, None, 1.0, 0.0)[0] > 0  # which reaches a memory that they share


def test_however_large_the_values_are_a_separate_critic_leaves_the_policy_its_steps():
    """A gradient of the critic a thousand times as large, and what Adam then notes of the actor's."""
    policy, noted = a_policy("s5", RingWorld(episode_length=7)), {}
    policy = _separate(policy, policy.memory)
    parameters = eqx.filter(policy, eqx.is_inexact_array)
    critics = lambda p: (p.critic, p.critic_memory)  # noqa: E731
    large = eqx.tree_at(critics, parameters, replace_fn=lambda part: jax.tree.map(lambda x: 1e3 * x, part))
    for separate in (True, False):
        for name, gradient in (("as it is", parameters), ("large", large)):
            adam = ppo.optimiser(replace(SMALL, separate_critic=separate, max_gradient=0.5), 1)
            _, state = adam.update(gradient, adam.init(parameters))
            noted[separate, name] = np.abs(optax.tree.get(state, "mu").actor.out.weight).max()
    np.testing.assert_allclose(noted[True, "large"], noted[True, "as it is"], rtol=1e-6)
    assert noted[False, "large"] < 0.01 * noted[False, "as it is"]


def test_values_are_those_of_the_critics_own_memory_across_rollouts():
    """Nobody learns here, so a critic with a copy of the actor's memory values as one that shares it."""
    world, config = RingWorld(episode_length=7), replace(SMALL, step_size=0.0, unroll=10)
    shared = ppo.seeds_init(config, world, MEMORIES["s5"].make, 3, jax.random.split(jax.random.key(0), 1))
    copy = shared.policy.memory
    separate = shared._replace(policy=_separate(shared.policy, copy), critic=shared.actors.memory)
    adam = ppo.optimiser(config, 3).init(eqx.filter(separate.policy, eqx.is_inexact_array))
    adam = jax.tree.map(lambda x: x[None] if x.ndim == 0 else x, adam)
    runs = [
        ppo.compile_train(config, world, 3, 3, state)(state)[1]
        for state in (shared, separate._replace(optimiser=adam))
    ]
    for name in ("value_loss", "explained", "policy_loss", "reward"):
        np.testing.assert_allclose(*(getattr(run, name) for run in runs), rtol=2e-4, atol=1e-6, err_msg=name)
    assert len(np.unique(runs[0].value_loss)) == 3


def test_seeds_trained_together_are_the_seeds_trained_alone():
    world, config = RingWorld(episode_length=7), SMALL
    keys = jax.random.split(jax.random.key(0), 2)
    run = lambda keys: ppo.compile_train(  # noqa: E731
        config, world, 3, 3, state := ppo.seeds_init(config, world, MEMORIES["s5"].make, 3, keys)
    )(state)[1]
    together, alone = run(keys), run(keys[1:])
    np.testing.assert_allclose(together.reward[1], alone.reward[0], atol=0.02)
    np.testing.assert_allclose(together.value_loss[1], alone.value_loss[0], rtol=1e-2)


def test_wrong_settings_say_how_to_mend_them():
    with pytest.raises(ValueError, match="minibatches is 0; it must be at least 1"):
        PPOConfig(minibatches=0)
    with pytest.raises(ValueError, match=r"minibatches is 7 and actors 64; .* multiple"):
        PPOConfig(minibatches=7)
    with pytest.raises(
        ValueError, match="memory 'belief' is made from a finite model, and ObservationProbe has no tables"
    ):
        MEMORIES["belief"].make(WORLDS["probe_observation"].make(), 8, jax.random.key(0))

"""Bridges: other libraries' environments as worlds, and our worlds as theirs."""

import subprocess
import sys
import warnings
from dataclasses import dataclass
from types import SimpleNamespace

import equinox as eqx
import gymnasium
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import linmem.worlds.as_gymnasium  # registers
from linmem.agents import PPOConfig, host, ppo
from linmem.agents.policy import ActorCritic
from linmem.memories import MEMORIES
from linmem.worlds import (
    WORLDS,
    GymnasiumWorld,
    GymnaxWorld,
    RecallProbe,
    RingWorld,
    TruncationProbe,
    resolve,
)
from linmem.worlds.as_gymnasium import GymnasiumEnv
from linmem.worlds.as_gymnax import as_gymnax, register
from linmem.worlds.gymnasium_world import (
    GymnasiumCopies,
    Translation,
    action_translation,
    observation_translation,
)
from linmem.worlds.spaces import Box, Dict, Discrete, MultiDiscrete


class Countdown(gymnasium.Env):
    """Observes how many steps are left, and which episode it is; ends at 0 by ``cut``. It answers to
    actions."""

    observation_space = spaces.Dict({"left": spaces.Discrete(5), "episode": spaces.Box(0, np.inf, (1,))})
    action_space = spaces.Discrete(3, start=-1)

    def __init__(self, steps=3, cut="truncated"):
        self.steps, self.cut, self.episode, self.taken = steps, cut, -1, []

    def _seen(self):
        return {"left": self.left, "episode": np.array([self.episode], np.float32)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left, self.episode = self.steps, self.episode + 1
        return self._seen(), {}

    def step(self, action):
        assert self.left > 0 and self.action_space.contains(action)
        self.taken.append(int(action))
        self.left -= 1
        over = self.left == 0
        ends = over and self.cut == "terminated", over and self.cut == "truncated"
        return self._seen(), 10.0 + action, *ends, {}


def countdown_world(**settings):
    return GymnasiumWorld("countdown", lambda count: SyncVectorEnv([lambda: Countdown(**settings)] * count))


def collected(world, steps=9, actors=2, seed=0):
    """The slots of one agent, leading axes (time, actor), and the actors before and after."""
    keys = jax.random.split(jax.random.key(1))
    policy = ActorCritic(MEMORIES["gru"].make(world, 4, keys[0]), world.action_space, 4, key=keys[1])
    policy = jax.tree.map(lambda leaf: leaf[None], policy)
    rollout = host.Rollout(world, actors, steps)
    blank = jax.vmap(lambda policy: host.blank(policy, world, actors))(policy)
    key = jax.random.split(jax.random.key(seed), 1)
    begun = rollout.begin(blank, key)
    after, slots = rollout.collect(policy, begun, key)
    form = rollout.form(policy, begun)
    told, found = (jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (form, slots))
    assert told == found
    return jax.tree.map(lambda x: x[0], slots), policy, begun, after


@pytest.mark.parametrize("cut", ["terminated", "truncated"])
def test_a_host_episode_shows_its_final_observation_once_and_then_begins_anew(cut):
    slots, *_ = collected(countdown_world(steps=3, cut=cut))
    for actor in (0, 1):
        column = lambda x: np.asarray(x[:, actor]).tolist()  # noqa: B023, E731
        assert column(slots.inputs.observation["left"]) == [3, 2, 1, 0, 3, 2, 1, 0, 3]
        assert column(slots.inputs.observation["episode"][..., 0]) == [0, 0, 0, 0, 1, 1, 1, 1, 2]
        assert column(slots.acts) == [True, True, True, False, True, True, True, False, True]
        assert column(slots.start) == [True, False, False, False, True, False, False, False, True]
        ends, none = [False, False, True, False, False, False, True, False, False], [False] * 9
        assert column(slots.terminated) == (ends if cut == "terminated" else none)
        assert column(slots.truncated) == (ends if cut == "truncated" else none)
        assert (np.asarray(slots.reward[:, actor])[[3, 7]] == 0).all()
        earned = np.asarray(slots.reward[:, actor])
        assert slots.returns[2, actor] == earned[:3].sum() and slots.returns[6, actor] == earned[4:7].sum()
        assert np.isnan(slots.returns[:, actor]).sum() == 7


def test_a_host_slot_holds_the_action_before_it_and_what_that_earned():
    slots, *_ = collected(countdown_world(steps=3))
    action, reward = np.asarray(slots.action), np.asarray(slots.reward)
    # An action a here is a - 1 there, and earns 10 + (a - 1).
    np.testing.assert_array_equal(reward[slots.acts], 9 + action[slots.acts])
    for t in range(1, 9):
        if slots.start[t, 0]:
            assert not slots.inputs.action[t].any() and not slots.inputs.reward[t].any()
        else:
            np.testing.assert_array_equal(slots.inputs.action[t], action[t - 1])
            np.testing.assert_array_equal(slots.inputs.reward[t], reward[t - 1])


def test_acting_on_the_host_and_learning_see_the_same_values_and_probabilities():
    slots, policy, begun, _ = collected(countdown_world(steps=3))
    one = jax.tree.map(lambda x: x[0], (policy, begun.memory))
    unroll = jax.vmap(one[0].unroll, in_axes=(0, 1, 1), out_axes=(0, 1, 1))
    _, parameters, values = unroll(one[1], slots.inputs, slots.start)
    np.testing.assert_allclose(values, slots.value, atol=1e-5)
    np.testing.assert_allclose(one[0].actions.log_prob(parameters, slots.action), slots.log_prob, atol=1e-5)


def test_the_same_seed_gives_the_same_host_rollout_and_another_seed_another():
    world = GymnasiumWorld("CartPole-v1")
    first, again, other = (collected(world, steps=12, seed=s)[0] for s in (0, 0, 5))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert (first.inputs.observation[0] != other.inputs.observation[0]).any()
    assert (first.inputs.observation[0, 0] != first.inputs.observation[0, 1]).any()  # nor are copies alike


def test_a_vector_environment_that_hides_final_observations_is_refused():
    same = SyncVectorEnv([Countdown], autoreset_mode=AutoresetMode.SAME_STEP)
    with pytest.raises(ValueError, match=r"autoreset mode .*SAME_STEP.* make it with .*NEXT_STEP"):
        as_it_is = Translation(Discrete(2), lambda value: value)
        GymnasiumCopies(same, as_it_is, as_it_is, "countdown")


def test_a_critic_learns_on_the_host_that_truncation_is_no_end():
    """Our own probe, taken round through Gymnasium: the known values come out."""
    config = PPOConfig(
        actors=8, unroll=20, epochs=4, minibatches=2, step_size=1e-2, memory_size=16, discount=0.9
    )
    for terminates in (False, True):
        probe = TruncationProbe(steps=3, terminates=terminates)
        world = GymnasiumWorld(
            "probe",
            lambda count: SyncVectorEnv([lambda: GymnasiumEnv(probe)] * count),  # noqa: B023
        )
        keys = jax.random.split(jax.random.key(0), 1)
        state = ppo.seeds_init(config, world, MEMORIES["none"].make, 60, keys)
        state, _ = ppo.compile_train(config, world, 60, 60, state)(state)
        policy = jax.tree.map(lambda x: x[0], state.policy)
        for observation, value in probe.values(0.9).items():
            x = jax.tree.map(lambda x: x[0, 0], state.actors.inputs)
            x = x._replace(observation=jnp.asarray(observation))
            got = float(policy.step((), x, jnp.asarray(False))[2])
            assert abs(got - value) < 0.1 * max(1, value), (terminates, observation, got, value)


# Spaces


def test_observations_of_every_kind_become_members_of_the_declared_space():
    space = spaces.Dict(
        {
            "choice": spaces.Discrete(3, start=-1),
            "image": spaces.Box(0, 255, (4, 5, 3), np.uint8),
            "many": spaces.MultiDiscrete([2, 5, 3], start=[0, -2, 4]),
            "bits": spaces.MultiBinary(4),
            "number": spaces.Box(np.array([-1, 0]), np.array([1, 7]), dtype=np.float64),
            "text": spaces.Text(5),
            "pair": spaces.Tuple((spaces.Discrete(2), spaces.Box(-9, 9, (2,), np.int64))),
        }
    )
    with pytest.warns(UserWarning, match="text 'text' of the observation is left out"):
        translation = observation_translation("mine", space)
    batched = gymnasium.vector.utils.batch_space(space, 6)
    batched.seed(0)
    for _ in range(20):
        x = batched.sample()
        seen = translation.convert(x)
        for i in range(6):
            assert translation.space.contains(jax.tree.map(lambda leaf: leaf[i], seen))  # noqa: B023
    np.testing.assert_array_equal(seen["choice"], x["choice"] + 1)
    np.testing.assert_array_equal(seen["many"], x["many"] - [0, -2, 4])
    np.testing.assert_allclose(seen["image"], x["image"] / 255, rtol=1e-6)
    np.testing.assert_array_equal(seen["pair"]["1"], x["pair"][1])


def test_an_observation_of_another_form_is_refused_before_it_is_translated():
    world = countdown_world()
    good = {"left": 2, "episode": np.array([7.0])}
    received = world.receive(good)
    assert received["left"] == 2 and received["episode"].tolist() == [7.0]
    for wrong, message in (
        (good | {"left": 0.5}, r"observation\['left'\] is 0.5; expected whole numbers"),
        (good | {"episode": 7.0}, r"observation\['episode'\] has shape \(\); expected \(1,\)"),
        ({"left": 2}, r"observation is \{'left': 2\}; expected a dictionary with episode, left"),
        (3, "observation is 3; expected a dictionary with episode, left"),
    ):
        with pytest.raises(ValueError, match=message):
            world.receive(wrong)
    pair = GymnasiumWorld("pair", lambda count: SyncVectorEnv([Pair] * count))
    assert pair.receive((1, 4)) == {"0": 1, "1": 2}
    with pytest.raises(ValueError, match=r"observation\['1'\] is 2.5; expected whole numbers"):
        pair.receive((1, 2.5))


class Pair(Countdown):
    observation_space = spaces.Tuple((spaces.Discrete(2), spaces.Discrete(3, start=2)))


def test_actions_of_every_kind_are_members_of_the_environments_space():
    for space, ours in (
        (spaces.Discrete(3, start=2), Discrete(3)),
        (spaces.MultiDiscrete([2, 3, 2], start=[5, 0, -1]), Discrete(12)),
        (spaces.Box(np.array([-2.0, 0.5]), np.array([0.0, 3.0]), dtype=np.float32), Box((2,), -1.0, 1.0)),
        (spaces.Box(-np.inf, np.inf, (3,)), Box((3,), -np.inf, np.inf)),
    ):
        translation = action_translation("mine", space)
        assert translation.space == ours
        actions = jax.vmap(translation.space.sample)(jax.random.split(jax.random.key(0), 50))
        sent = translation.convert(np.asarray(actions))
        assert all(a in space for a in sent), space
    every = action_translation("mine", spaces.MultiDiscrete([2, 3])).convert(np.arange(6))
    assert len({tuple(a) for a in every}) == 6
    corners = np.array([[-1.0, 1.0]], np.float32)
    box = spaces.Box(np.array([-2.0, 0.5]), np.array([0.0, 3.0]), dtype=np.float32)
    np.testing.assert_allclose(action_translation("mine", box).convert(corners), [[-2.0, 3.0]])


def test_spaces_that_cannot_be_handled_are_refused_in_a_sentence():
    with pytest.raises(ValueError, match="'mine' observes Sequence, which no memory here reads; known"):
        observation_translation("mine", spaces.Sequence(spaces.Discrete(2)))
    with pytest.raises(ValueError, match=r"'mine' takes actions Dict.*, which no policy here gives"):
        action_translation("mine", spaces.Dict({"a": spaces.Discrete(2)}))
    with pytest.raises(ValueError, match="'mine' has 1000000 combinations of actions; at most 4096"):
        action_translation("mine", spaces.MultiDiscrete([1000, 1000]))
    with pytest.raises(ValueError, match="all bounds finite or none"):
        action_translation("mine", spaces.Box(np.array([0.0, -np.inf]), np.array([1.0, 1.0])))


def test_minigrid_codes_are_read_as_names_and_popgym_worlds_are_found():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        grid = resolve("gym:MiniGrid-MemoryS7-v0").make()
    parts = dict(grid.observation_space.parts)
    assert set(parts) == {"direction", "image"}
    assert isinstance(parts["image"], MultiDiscrete) and parts["image"].shape == (7, 7, 3)
    copies = grid.copies(2)
    seen = copies.reset([0, 1])
    for _ in range(10):
        seen = copies.step(np.array([2, 1])).observation
        assert grid.observation_space.contains(jax.tree.map(lambda x: x[0], seen))
    for name, observed, acts in (
        ("popgym-AutoencodeEasy-v0", Dict({"0": Discrete(2), "1": Discrete(4)}), Discrete(4)),
        ("popgym-BattleshipEasy-v0", Discrete(2), Discrete(64)),
        ("popgym-PositionOnlyPendulumEasy-v0", Box((2,), -np.inf, np.inf), Box((1,), -1.0, 1.0)),
    ):
        world = resolve(f"gym:{name}").make()
        assert (world.observation_space, world.action_space) == (observed, acts)


def test_somebodys_world_that_cannot_be_made_is_said_in_a_sentence(tmp_path, monkeypatch):
    world = "class World:\n    step_env = None\n\n    def __init__(self):\n        self.nothing\n"
    (tmp_path / "broken_world.py").write_text(world)
    monkeypatch.syspath_prepend(tmp_path)
    for name, why in (
        ("gymnax:broken_world:World", "'World' object has no attribute"),
        ("gymnax:.x:World", "the 'package' argument is required"),
        ("gym:.x:World-v0", "the 'package' argument is required"),
    ):
        with pytest.raises(ValueError, match=f"cannot make world '{name}': {why}"):
            resolve(name).make()


def test_an_unknown_id_and_a_missing_library_say_what_to_do(monkeypatch):
    with pytest.raises(ValueError, match=r"cannot make world 'gym:CartPole-v9'.*gym:module:id"):
        resolve("gym:CartPole-v9").make()
    with pytest.raises(ValueError, match="unknown world 'gymnax:CartPole-v9'; known: CartPole-v1"):
        resolve("gymnax:CartPole-v9").make()
    with pytest.raises(ValueError, match="cannot make world 'gymnax:no_such_module:World'"):
        resolve("gymnax:no_such_module:World").make()
    monkeypatch.setitem(sys.modules, "gymnax", None)
    with pytest.raises(ImportError, match=r'needs gymnax: pip install "linmem\[gymnax\]"'):
        resolve("gymnax:CartPole-v1").make()
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(ImportError, match=r'needs gymnasium: pip install "linmem\[gym\]"'):
        resolve("gym:CartPole-v1").make()


def test_linmem_imports_neither_others_worlds_nor_what_takes_long_by_itself():
    others = ["gymnax", "gymnasium", "flax", "popgym", "scipy.stats", "scipy.optimize", "matplotlib.pyplot"]
    code = f"import linmem.cli, sys; print([m for m in {others} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


# gymnax


def test_a_name_calls_nothing_but_a_class_of_gymnaxs_form(monkeypatch):
    called = []
    monkeypatch.setattr(sys, "their_function", lambda: called.append(True), raising=False)
    with pytest.raises(ValueError, match="'gymnax:sys:their_function' is no class with step_env"):
        resolve("gymnax:sys:their_function").make()
    assert not called


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "MemoryChain-bsuite", "Catch-bsuite"])
def test_a_gymnax_environment_takes_the_same_course_as_a_world(name):
    environment, params = gymnax.make(name)
    world = resolve(f"gymnax:{name}").make()
    low, high = -1.0, 1.0
    if isinstance(world.action_space, Box):
        theirs = environment.action_space(params)
        low, high = float(np.min(theirs.low)), float(np.max(theirs.high))

    @jax.jit
    def both(key, state, their_state, action):
        # gymnax splits the key before step_env.
        state, outcome = world.step(jax.random.split(key)[0], state, action)
        stretched = low + (high - low) * (action + 1) / 2 if isinstance(world.action_space, Box) else action
        return state, outcome, environment.step(key, their_state, stretched, params)

    key = jax.random.key(0)
    observation, their_state = environment.reset(key, params)
    state, ours = world.init(key)
    np.testing.assert_allclose(ours, np.asarray(observation, ours.dtype), rtol=1e-6)
    for _ in range(300):
        key, step_key, act_key = jax.random.split(key, 3)
        action = world.action_space.sample(act_key)
        state, outcome, (_, their_state, reward, terminated, truncated, info) = both(
            step_key, state, their_state, action
        )
        np.testing.assert_allclose(outcome.reward, reward, rtol=1e-5)
        final = info["final_observation"].astype(ours.dtype)
        np.testing.assert_allclose(outcome.observation, final, rtol=1e-5)
        assert bool(outcome.terminated) == bool(terminated)
        assert bool(outcome.truncated) == bool(truncated and not terminated)
        assert world.observation_space.contains(outcome.observation)
        if terminated or truncated:
            break
    assert terminated or truncated


def old_environment(steps, falls):
    """Of gymnax 0.0's form: ``done`` is both ends. Falls at time ``falls``; the limit is ``steps``."""

    def step_env(key, state, action, params):
        state = SimpleState(time=state.time + 1)
        done = (state.time >= params.max_steps_in_episode) | (state.time >= falls)
        return state.time, state, 1.0, done, {}

    space = gymnax.environments.spaces.Discrete
    return SimpleNamespace(
        default_params=SimpleNamespace(max_steps_in_episode=steps),
        reset_env=lambda key, params: (jnp.zeros((), jnp.int32), SimpleState(time=jnp.zeros((), jnp.int32))),
        step_env=step_env,
        observation_space=lambda params: space(10),
        action_space=lambda params: space(2),
    )


@jax.tree_util.register_dataclass
@dataclass
class SimpleState:
    time: jax.Array


@pytest.mark.parametrize("falls, ends", [(2, (True, False)), (9, (False, True))])
def test_an_environment_of_the_old_form_is_truncated_at_its_limit_and_terminated_before(falls, ends):
    world = GymnaxWorld(old_environment(steps=4, falls=falls))
    state, _ = world.init(jax.random.key(0))
    for _ in range(min(4, falls)):
        state, outcome = world.step(jax.random.key(0), state, jnp.asarray(1))
    assert (bool(outcome.terminated), bool(outcome.truncated)) == ends


def test_our_worlds_run_in_gymnax_and_come_back_unchanged():
    ours = RecallProbe(delay=2)
    environment, params = as_gymnax(ours)
    back = GymnaxWorld(environment)
    assert (back.observation_space, back.action_space) == (ours.observation_space, ours.action_space)
    step, step_back = eqx.filter_jit(ours.step), eqx.filter_jit(back.step)
    key = jax.random.key(4)
    (state, seen), (state_back, seen_back) = ours.init(key), back.init(key)
    assert seen == seen_back
    for _ in range(3):
        key, k = jax.random.split(key)
        state, outcome = step(k, state, jnp.asarray(1))
        state_back, outcome_back = step_back(k, state_back, jnp.asarray(1))
        jax.tree.map(np.testing.assert_array_equal, outcome, outcome_back)
    assert outcome.terminated
    # gymnax's own step begins the next episode and keeps the last observation in info.
    observation, state = environment.reset(key, params)
    for _ in range(3):
        observation, state, _, terminated, truncated, info = environment.step(key, state, 1, params)
    assert terminated and not truncated and info["final_observation"] == 2 and observation in (0, 1)
    cut, params = as_gymnax(RingWorld(episode_length=2))
    _, state = cut.reset(key, params)
    _, state, *_ = cut.step(key, state, 1, params)
    _, state, _, terminated, truncated, _ = cut.step(key, state, 1, params)
    assert truncated and not terminated and state.time == 0


def test_gymnax_makes_our_worlds_by_name():
    assert "RingWorld-linmem" in register() and register() == register()
    environment, params = gymnax.make("RingWorld-linmem")
    assert environment.name == "RingWorld-linmem" and environment.num_actions == 4
    assert environment.observation_space(params).n == 4


# Gymnasium


@pytest.mark.parametrize("name", WORLDS.names())
def test_gymnasiums_own_check_passes_on_every_world(name):
    id = f"linmem/{linmem.worlds.title(name)}-v0"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*Box action spaces, we recommend")
        warnings.filterwarnings(
            "ignore", message=".*infinity. This is probably too"
        )  # velocities are unbounded
        check_env(gymnasium.make(id).unwrapped)


def test_a_world_in_gymnasium_takes_the_course_that_the_world_takes():
    world = RingWorld(episode_length=4)
    env = GymnasiumEnv(world)
    observation, info = env.reset(seed=3)
    hidden = [info["hidden"]]
    for t in range(4):
        after, reward, terminated, truncated, info = env.step(0)  # one step clockwise
        hidden.append(info["hidden"])
        assert after in env.observation_space and isinstance(reward, float)
        assert reward == world.tables().reward[0, hidden[-2], hidden[-1]]
        assert (terminated, truncated) == (False, t == 3)
    moved = (np.diff(hidden) % 12).tolist()
    assert set(moved) <= {0, 1} and 1 in moved  # or it stays, irregularly
    again = GymnasiumEnv(world)
    assert again.reset(seed=3)[0] == observation
    assert [again.step(0)[4]["hidden"] for _ in range(4)] == hidden[1:]


@pytest.mark.parametrize("action", [1.7, -1, 4, [0]])
def test_an_action_that_is_not_there_is_refused_and_the_world_stays_where_it_is(action):
    env, same = GymnasiumEnv(RingWorld()), GymnasiumEnv(RingWorld())
    env.reset(seed=3), same.reset(seed=3)
    with pytest.raises(ValueError, match=r"action .*(whole numbers|lies outside|has shape)"):
        env.step(action)
    assert env.step(np.int64(2)) == same.step(2)


def test_the_registered_ids_are_the_words_of_the_documentation():
    assert gymnasium.make("linmem/RingWorld-v0").action_space == spaces.Discrete(4)
    assert gymnasium.make("linmem.worlds.as_gymnasium:linmem/ProbeRecall-v0").action_space.n == 2
    with pytest.raises(gymnasium.error.ResetNeeded):
        GymnasiumEnv("ringworld").step(0)

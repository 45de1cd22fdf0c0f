"""Deploying: a trained agent as a function on NumPy, evaluation, playing, and filters for other learners."""

import json
import shutil
import subprocess
import sys
import warnings

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

import linmem
from linmem import Inputs
from linmem.agents import PPOConfig
from linmem.agents.policy import ActorCritic
from linmem.evidence.bench_act import _untrained
from linmem.experiments import run as runs
from linmem.experiments.config import RunConfig
from linmem.experiments.deploy import Policy
from linmem.experiments.evaluate import Episode, Words, episode, evaluate
from linmem.experiments.run import episode_returns, mean_rewards
from linmem.experiments.store import Folder, FolderError
from linmem.memories import MEMORIES, AdaptiveLinearFilter, Belief, ExactLinearFilter, Trace
from linmem.memories.gymnasium_wrapper import LinearFilterWrapper
from linmem.memories.numpy_filter import NumpyFilter
from linmem.reports.play import bar, heading, lines
from linmem.worlds import WORLDS, RingWorld, resolve
from linmem.worlds.as_gymnasium import GymnasiumEnv
from test_run import command, do, learning

PPO = PPOConfig(actors=8, unroll=10, epochs=1, minibatches=2, memory_size=8)
TINY = RunConfig(
    memory=("belief", "gru"), seeds=2, steps=2 * 8 * 10, evaluation_actors=4, evaluation_steps=30, ppo=PPO
)
HOST = RunConfig(
    world="gym:linmem.worlds.as_gymnasium:linmem/ProbeRecall-v0",
    memory=("gru",),
    seeds=2,
    steps=2 * 4 * 6,
    evaluation_actors=2,
    evaluation_steps=12,
    ppo=PPOConfig(actors=4, unroll=6, epochs=1, minibatches=2, memory_size=4, separate_critic=True),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return do(TINY, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def hosted(tmp_path_factory):
    return do(HOST, tmp_path_factory.mktemp("hosted"))


def test_a_loaded_policy_acts_as_the_trained_agent_does(finished):
    """The literal loop of the agent's own step, with the deployed policy beside it, over two episodes."""
    policy = linmem.load(finished.path, memory="gru", seed=1, greedy=True)
    agent = jax.tree.map(lambda x: jnp.asarray(x[1]), runs.load_policy(finished, "gru"))
    rng, state, before = np.random.default_rng(0), agent.memory.init(), 0
    for t in range(12):
        start = t in (0, 7)
        observation, reward = int(rng.integers(4)), float(rng.normal())
        action = policy(observation, reward, done=t == 7)
        x = Inputs(
            jnp.asarray(observation),
            jnp.asarray(0 if start else before),
            jnp.asarray(0.0 if start else reward),
        )
        state, logits, value = agent.step(state, x, jnp.asarray(start))
        assert type(action) is int and action == int(jnp.argmax(logits))
        np.testing.assert_allclose(policy.value, value, rtol=1e-4, atol=1e-5)
        before = action
    assert policy.loading_seconds > 0


def test_a_deployed_memory_reads_the_reward_of_its_last_action_and_zero_at_a_start():
    policy, read = _untrained("window@length=1@reward=True", 8), []
    for reward, done in ((9.0, False), (0.5, False), (-0.25, False), (7.0, True), (2.0, False)):
        policy(1, reward, done)
        read.append(policy.features[-1])
    assert read == [0.0, 0.5, -0.25, 0.0, 2.0]


def test_reset_forgets_everything():
    policy = _untrained("gru", 8)

    def values():
        seen = []
        for _ in range(3):
            policy(1)
            seen.append(policy.value)
        return seen

    first = values()
    assert values()[0] != first[0]  # it remembers, so the same observation has another value
    policy.reset()
    assert values()[0] == first[0]


def test_draws_follow_the_policy_and_their_seed(finished):
    def actions(rng):
        policy = linmem.load(finished.path, memory="belief", seed=0, rng=rng)
        return [policy(1, 0.0, done=True) for _ in range(300)]

    first = actions(0)
    assert first == actions(0) != actions(1)
    agent = jax.tree.map(lambda x: jnp.asarray(x[0]), runs.load_policy(finished, "belief"))
    x = Inputs(jnp.asarray(1), jnp.asarray(0), jnp.asarray(0.0))
    chances = jax.nn.softmax(agent.step(agent.memory.init(), x, jnp.asarray(True))[1])
    counts = np.bincount(first, minlength=4) / 300
    np.testing.assert_allclose(counts, chances, atol=5 * np.sqrt(0.25 / 300))


def test_the_belief_of_a_deployed_filter_is_the_exact_one(finished):
    policy = linmem.load(finished.path, memory="belief", seed=0)
    model, action = RingWorld().tables(), None
    for observation in (1, 1, 2, 3):
        if action is None:
            belief = model.initial * model.initial_emission[:, observation]
        else:
            belief = (belief @ model.transition[action]) * model.emission[action, :, observation]
        belief = belief / belief.sum()
        action = policy(observation)
        np.testing.assert_allclose(policy.belief(), belief, atol=1e-6)


def test_by_default_the_agent_that_earned_most_is_loaded(finished):
    rewards = {r["memory"]: r["reward"] for r in finished.records() if r["event"] == "result"}
    best = max(rewards, key=lambda name: max(rewards[name]))
    policy = linmem.load(finished.path, greedy=True)
    expected = linmem.load(finished.path, best, int(np.argmax(rewards[best])), greedy=True)
    policy(1), expected(1)
    assert policy.value == expected.value


def test_of_episodes_that_may_end_early_the_longest_lasting_agent_is_loaded(finished, tmp_path):
    folder = shutil.copytree(finished.path, tmp_path / "run")
    returns = {"belief": [0.1, 0.2], "gru": [0.3, 0.9]}
    records = [
        {**r, "reward": [1.0, 1.0], "returns": returns[r["memory"]]} if r["event"] == "result" else r
        for r in finished.records()
    ]
    (folder / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    policy, expected = linmem.load(folder, greedy=True), linmem.load(folder, "gru", 1, greedy=True)
    policy(1), expected(1)
    assert policy.value == expected.value


def test_a_wrong_agent_or_observation_is_refused_in_a_sentence(finished, tmp_path):
    for arguments, message in (
        ({"memory": "s5"}, "has no trained memory 's5'; it has: belief, gru"),
        ({"memory": "gru", "seed": 2}, "has no seed 2; it has 0 to 1"),
    ):
        with pytest.raises(FolderError, match=message):
            linmem.load(finished.path, **arguments)
    with pytest.raises(FolderError, match="holds no config"):
        linmem.load(tmp_path)
    policy = _untrained("none", 4)
    for wrong, message in (
        (4, "lies outside Discrete"),
        ([1], r"has shape \(1,\); expected \(\)"),
        (0.5, "expected whole numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            policy(wrong)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_number_that_is_not_finite_is_refused_and_not_remembered(bad):
    world = WORLDS["noisy_cartpole"].make()
    keys = jax.random.split(jax.random.key(0))
    agent = ActorCritic(MEMORIES["gru"].make(world, 4, keys[0]), world.action_space, 4, key=keys[1])
    policy, same = Policy(world, agent), Policy(world, agent)
    width = world.observation_space.shape[0]
    policy(np.zeros(width)), same(np.zeros(width))
    with pytest.raises(ValueError, match=rf"observation\[{width - 1}\] is {bad}; expected finite numbers"):
        policy([0.0] * (width - 1) + [bad], 1.0)
    with pytest.raises(ValueError, match=f"reward is {bad}; expected a finite number"):
        policy(np.zeros(width), bad)
    policy(np.ones(width), 1.0), same(np.ones(width), 1.0)
    assert policy.value == same.value
    policy(np.ones(width), bad, done=True)  # what an episode before this one earned is not remembered


def test_a_gymnasium_worlds_policy_names_what_is_wrong_with_an_observation(hosted):
    policy = linmem.load(hosted.path)
    for wrong, message in ((0.5, "expected whole numbers"), (-1, "lies outside"), ([1], r"has shape \(1,\)")):
        with pytest.raises(ValueError, match=f"observation .*{message}"):
            policy(wrong)


def test_continuous_actions_come_out_as_arrays_in_the_box():
    world = WORLDS["probe_aim"].make()
    keys = jax.random.split(jax.random.key(0))
    agent = ActorCritic(MEMORIES["none"].make(world, 4, keys[0]), world.action_space, 4, key=keys[1])
    policy = Policy(world, agent)
    for _ in range(20):
        action = policy([0.3])
        assert isinstance(action, np.ndarray) and bool(world.action_space.contains(action))


# Gymnasium worlds through the same commands


def test_a_gymnasium_world_trains_with_the_same_records_twice(hosted, tmp_path):
    assert learning(do(HOST, tmp_path)) == learning(hosted)
    assert hosted.path.name.startswith("gym-linmem.worlds.as_gymnasium-linmem-ProbeRecall-v0-")


def test_an_interrupted_gymnasium_run_goes_on(hosted, tmp_path):
    folder = Folder.create(tmp_path, HOST, "a test")
    session = runs.run(HOST, folder)
    for _ in range(2):
        next(session)
    session.close()
    for _ in runs.run(HOST, folder):
        pass
    updates = [r["update"] for r in folder.records() if r["event"] == "update"]
    assert updates == [1, 2] and folder.finished() == {"gru"}
    # What came before the interruption is the same; after it the copies begin anew.
    assert learning(folder)[0] == learning(hosted)[0]


def test_a_policy_of_a_gymnasium_world_speaks_that_environments_language(hosted):
    policy = linmem.load(hosted.path)
    env = gymnasium.make("linmem.worlds.as_gymnasium:linmem/ProbeRecall-v0")
    observation, _ = env.reset(seed=0)
    for _ in range(10):
        action = policy(observation)
        assert env.action_space.contains(action)
        observation, _, terminated, _, _ = env.step(action)
        if terminated:
            observation, _ = env.reset()
            policy.reset()


# evaluate, play, bench act


def test_evaluation_is_repeatable_and_counts_the_same_number_of_episodes_in_every_copy(finished):
    first = list(evaluate(finished, (), actors=3, steps=210))
    again = list(evaluate(finished, (), actors=3, steps=210))
    assert [e.memory for e in first] == ["belief", "gru"]
    assert [(e.reward, e.returns) for e in first] == [(e.reward, e.returns) for e in again]
    for e in first:  # episodes of 100 steps and a slot for the final observation: 2 in 210
        assert e.episodes == 6
        # All steps but the last few lie in these episodes.
        np.testing.assert_allclose(np.array(e.returns) / 100, e.reward, atol=0.05)
    n = np.nan
    returns = np.array([[[1, n], [n, 10], [2, n], [n, 20], [3, n]]], float)  # seed, time, actor
    assert episode_returns(returns) == ([(1 + 2 + 10 + 20) / 4], 4)
    assert episode_returns(returns[:, :1]) == (None, 0)


def test_slots_that_do_not_act_do_not_count_in_the_mean_reward():
    reward, acts = np.array([[[1.0], [2.0], [9.0]], [[4.0], [9.0], [9.0]]]), np.array([[1, 1, 0], [1, 0, 0]])
    assert mean_rewards(reward, acts[..., None].astype(bool)) == [1.5, 4.0]


def test_a_played_episode_is_a_course_of_the_world(finished):
    shown = episode(finished, "gru", agent=1, steps=150, seed=3)
    model = RingWorld().tables()
    assert len(shown.reward) == 101 and shown.acts.tolist() == [True] * 100 + [False]
    assert (model.emission[0, shown.hidden, shown.observation] > 0).all()
    for t in range(100):
        a, before, after = int(shown.action[t]), shown.hidden[t], shown.hidden[t + 1]
        assert model.transition[a, before, after] > 0
        assert shown.reward[t] == np.float32(model.reward[a, before, after])
    np.testing.assert_allclose(shown.belief.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(shown.decoded.sum(1), 1, atol=1e-5)
    assert len(episode(finished, "gru", steps=7).reward) == 7


def test_evaluate_and_play_speak_on_the_command_line(finished, hosted, tmp_path, capsys):
    code, out, _ = command(
        "evaluate", str(finished.path), "--memory", "gru", "--actors", "2", "--steps", "110",
        "--json", str(tmp_path / "e.json"), capsys=capsys,
    )  # fmt: skip
    assert code == 0 and all(word in out for word in ("return per", "reward per", "loaded in", "gru"))
    assert len(json.loads((tmp_path / "e.json").read_text())["rows"][0]["reward"]) == 2
    code, out, _ = command("play", str(finished.path), "--steps", "12", capsys=capsys)
    assert code == 0 and "memory belief" in out and "exact belief" in out and "▁" in out
    code, out, _ = command("play", str(hosted.path), capsys=capsys)
    assert code == 0 and "return" in out and "nan" not in out  # its critic does not act
    for arguments, message in (
        (("play", str(finished.path), "--memory", "s5"), "it has: belief, gru"),
        (("play", str(finished.path), "--agent", "7"), "has no seed 7"),
        (("evaluate", "/nowhere"), "holds no config.json"),
    ):
        code, _, err = command(*arguments, capsys=capsys)
        assert code == 2 and message in err


LIFT = """discount: 0.9 values: reward states: low high actions: up down observations: silent ring
T: up  0 1 0 1
T: down  identity
O: *  0.9 0.1 0.1 0.9
R: down : low : * : * 1
"""


def test_a_file_of_the_users_runs_with_the_filter_that_fits_and_is_played_in_its_own_words(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lift.POMDP").write_text(LIFT)
    sizes = "--seeds 1 --steps 80 --actors 8 --unroll 10 --minibatches 2 --evaluation-actors 4"
    arguments = f"--world lift.POMDP --memory auto {sizes} --evaluation-steps 30".split()
    code, out, _ = command("run", *arguments, capsys=capsys)
    assert code == 0 and "auto is InitialStateFilter" in out  # "up" is sure, but not one-to-one
    (folder,) = (tmp_path / "runs").iterdir()
    code, out, _ = command("play", str(folder), "--steps", "9", capsys=capsys)
    assert code == 0 and {"low", "silent"} <= set(out.split()) and {"up", "down"} & set(out.split())
    policy = linmem.load(folder)
    policy.reset()
    assert policy(0) in (0, 1)
    policy(1, 0.0, False)
    assert policy.belief().sum() == pytest.approx(1)


def test_the_columns_of_a_played_file_stand_under_their_headings_and_carry_its_words():
    ones = np.ones(2)
    belief = np.array([[0.5, 0.5], [0.0, 1.0]])
    shown = Episode(
        np.array([1, 0]), np.array([0, 1]), ones, ones, ones > 0, ones < 0, np.array([0, 1]), belief, belief,
        Words(("dry", "flooded"), ("wait", "pump"), ("silent", "ring")),
    )  # fmt: skip
    head, (first, second) = heading(shown).plain, [line.plain for line in lines(shown)]
    for word, at in (("ring", "observation"), ("wait", "action"), ("▄▄", "memory"), ("▄▄", "exact belief")):
        assert first[head.index(at) :].startswith(word)
    for line, state in ((first, "dry"), (second, "flooded")):
        assert line[: head.index("true") + len("true")].endswith(state)


def test_a_bar_is_as_high_as_the_probability():
    assert [bar(p) for p in (0, 0.05, 0.13, 0.5, 1, 1.2)] == [" ", " ", "▁", "▄", "█", "█"]


def test_bench_act_states_its_target(capsys, tmp_path):
    arguments = ("--steps", "30", "--size", "8", "--json", str(tmp_path / "b.json"))
    code, _, _ = command("bench", "act", *arguments, capsys=capsys)
    content = json.loads((tmp_path / "b.json").read_text())
    assert {row["memory"] for row in content["rows"]} >= {"belief", "s5", "gru"}
    assert code == (0 if content["targets"][0]["holds"] else 1)
    assert all(row["loading_seconds"] > 0 < row["median_seconds"] for row in content["rows"])


def test_a_robot_loop_needs_numpy_only(finished):
    code = (
        "import linmem, numpy as np\n"
        f"policy = linmem.load({str(finished.path)!r}, memory='gru', seed=0)\n"
        "policy.reset()\n"
        "for t in range(5):\n"
        "    action = policy(np.int64(t % 4), 0.5, False)\n"
        "print(type(action).__name__)\n"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "int"


# Filters for learners of other libraries


def filters():
    ring = RingWorld()
    model = ring.tables()
    sure = linmem.POMDP(ring.regular_moves(), model.emission[0], np.zeros(12), model.initial, 0.9)
    return {
        "alf": (NumpyFilter.alf(model, 0.05), AdaptiveLinearFilter(model, 0.05)),
        "belief": (NumpyFilter.belief(model), Belief(model)),
        "exact": (NumpyFilter.exact_linear(sure), ExactLinearFilter(sure)),
    }


@pytest.mark.parametrize("name", ["alf", "belief", "exact"])
def test_a_numpy_filter_is_the_memory_of_the_same_name(name):
    mine, memory = filters()[name]
    rng = np.random.default_rng(1)
    observations, actions = rng.integers(0, 4, 40), rng.integers(0, 4, 40)
    starts = np.isin(np.arange(40), [0, 1, 17])
    xs = Inputs(jnp.asarray(observations), jnp.asarray(actions), jnp.zeros(40))
    _, expected = eqx.filter_jit(memory.unroll)(memory.init(), xs, jnp.asarray(starts))
    for t in range(40):
        if starts[t]:
            mine.reset()
        got = mine(observations[t], actions[t])
        np.testing.assert_allclose(got, expected[t], atol=2e-5)
        assert got.dtype == np.float32 and mine.low <= got.min() and got.max() <= mine.high


@pytest.mark.parametrize("name", ["alf", "belief", "exact"])
def test_a_numpy_filter_refuses_an_index_that_its_model_does_not_have(name):
    filter, _ = filters()[name]
    for _ in range(2):  # the first of an episode, and a later one
        for observation in (-1, 4):
            with pytest.raises(ValueError, match=rf"observation is {observation}; must be one of 0 \.\.\. 3"):
                filter(observation, 0)
        filter(0, 0)
    with pytest.raises(ValueError, match=r"action is -1; must be one of 0 \.\.\. 3"):
        filter(0, -1)
    filter.reset()
    filter(0, -1)  # no action precedes it


def test_a_numpy_trace_is_the_trace():
    mine, memory = NumpyFilter.trace(3, -1.0, 1.0), Trace(3)
    xs = np.random.default_rng(0).uniform(-1, 1, (20, 3)).astype(np.float32)
    _, expected = eqx.filter_jit(memory.unroll)(memory.init(), jnp.asarray(xs), jnp.arange(20) == 0)
    np.testing.assert_allclose([mine(x, None) for x in xs], expected, atol=1e-6)
    with pytest.raises(ValueError, match="observation has 1 numbers; this trace reads 3"):
        mine(0.5, None)


def test_the_wrapper_appends_the_features_of_the_episode_so_far():
    world = RingWorld(episode_length=6)
    filter = NumpyFilter.belief(world.tables())
    env = LinearFilterWrapper(GymnasiumEnv(world), filter)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version")  # as it should be
        check_env(env, skip_render_check=True)
    oracle = NumpyFilter.belief(world.tables())
    for seed in (0, 1):
        seen, _ = env.reset(seed=seed)
        oracle.reset()
        features = oracle(seen[:4].argmax(), None)
        np.testing.assert_array_equal(seen, np.concatenate([np.eye(4)[seen[:4].argmax()], features]))
        for t in range(6):
            seen, _, _, truncated, _ = env.step(t % 4)
            assert seen in env.observation_space and seen.shape == (4 + 12,)
            np.testing.assert_allclose(seen[4:], oracle(seen[:4].argmax(), t % 4), atol=1e-6)
        assert truncated


def test_the_wrapper_refuses_what_it_cannot_flatten():
    class Talks(gymnasium.Env):
        observation_space = spaces.Sequence(spaces.Discrete(2))
        action_space = spaces.Discrete(2)

    with pytest.raises(ValueError, match=r"Sequence.*fixed number of numbers"):
        LinearFilterWrapper(Talks(), filters()["alf"][0])


def test_a_world_name_may_name_a_place_elsewhere():
    assert resolve("ringworld") is WORLDS["ringworld"]
    assert resolve("gym:CartPole-v1").name == "gym:CartPole-v1"

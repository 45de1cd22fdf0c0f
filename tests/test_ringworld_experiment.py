"""The RingWorld experiment: what it claims, and that it starts, stops and goes on at any row."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linmem.core.types import Inputs
from linmem.evidence import ringworld, ringworld_choices
from linmem.experiments import watch
from linmem.experiments.config import RunConfig
from linmem.experiments.store import Folder
from linmem.memories import MEMORIES, Belief, LogForward, identity
from linmem.memories.belief import example_inputs
from linmem.memories.readouts import READOUTS
from linmem.reports import Run, read_run
from linmem.worlds import WORLDS

WORLD = WORLDS["ringworld"].make()


def made(name):
    return MEMORIES[name].make(WORLD, 8, jax.random.key(1))


# --- policy inputs ------------------------------------------------------------------------------------------


def test_raw_logits_differ_from_the_belief_filters_only_by_an_offset_that_falls_without_bound():
    steps = 200
    xs, starts = example_inputs(jax.random.key(0), steps, 4, 4), jnp.arange(steps) == 0
    raw, shifted, belief = (
        made(name).unroll(made(name).init(), xs, starts)[1] for name in ("lof", "belief_logits", "belief")
    )
    np.testing.assert_allclose(jax.nn.softmax(raw), belief, atol=2e-5)
    np.testing.assert_allclose(raw - raw.max(axis=1, keepdims=True), shifted, atol=2e-3)
    assert (np.diff(raw.max(axis=1)) < 0).all() and raw[-1].max() < -100


@pytest.mark.parametrize("choice", ringworld_choices.CHOICES.values())
@pytest.mark.parametrize("memory", ["lof", "belief_logits"])
def test_no_ring_has_logits_so_far_apart_that_a_policy_is_given_others(memory, choice):
    world, runs, steps = WORLDS["ringworld" + choice].make(), 64, 400
    made = MEMORIES[memory].make(world, 8, jax.random.key(1))
    true = {"lof": LogForward, "belief_logits": Belief}[memory](world.tables(), readout=identity)
    actions = jax.random.randint(jax.random.key(2), (runs, steps), 0, 4)
    keys = jax.random.split(jax.random.key(3), runs)
    seen = jax.vmap(world.tables().simulate)(keys, actions).observations[:, 1:]
    starts = jnp.arange(steps) == 0

    def features(memory, observation, action):
        return memory.unroll(memory.init(), Inputs(observation, action, jnp.zeros(steps)), starts)[1]

    given, right = (jax.vmap(partial(features, memory))(seen, actions) for memory in (made, true))
    np.testing.assert_array_equal(given, right)


@pytest.mark.parametrize("name", READOUTS)
def test_a_readout_of_an_impossible_state_is_finite_and_so_is_its_derivative(name):
    l = jnp.array([-101.0, -jnp.inf, -104.0])
    assert jnp.isfinite(READOUTS[name](l)).all() and jnp.isfinite(jax.jacobian(READOUTS[name])(l)).all()


def test_readouts_do_what_their_names_say():
    l = jnp.array([-101.0, -99.0, -104.0])
    form = lambda name: np.asarray(made(f"lof@readout={name}").readout(l))  # noqa: E731
    np.testing.assert_allclose(form("logits"), l)
    np.testing.assert_allclose(form("shifted"), [-2, 0, -5])
    np.testing.assert_allclose(form("centred"), [1 / 3, 7 / 3, -8 / 3], atol=1e-4)
    np.testing.assert_allclose([form("standardised").mean(), form("standardised").std()], [0, 1], atol=1e-4)
    np.testing.assert_allclose(form("divided"), l / 100)
    np.testing.assert_allclose(form("clipped"), [-10, -10, -10])
    np.testing.assert_allclose(form("softmax").sum(), 1, atol=1e-6)
    l = jnp.array([-jnp.inf, -3.0, -jnp.inf])  # what is impossible is told as e^-50 times as likely
    np.testing.assert_allclose(form("logits"), [-53, -3, -53])
    np.testing.assert_allclose(form("shifted"), [-50, 0, -50])
    np.testing.assert_allclose(form("centred"), [-50 / 3, 100 / 3, -50 / 3], rtol=1e-6)
    np.testing.assert_allclose(form("standardised"), [-(0.5**0.5), 2**0.5, -(0.5**0.5)], atol=1e-5)
    np.testing.assert_allclose(form("divided"), [-0.53, -0.03, -0.53])
    np.testing.assert_allclose(form("clipped"), [-10, -3, -10])
    np.testing.assert_allclose(form("softmax"), [0, 1, 0])
    l = jnp.full(3, -jnp.inf)  # what raw logits are after an impossible observation
    np.testing.assert_allclose(form("logits"), [-50, -50, -50])
    with pytest.raises(KeyError, match="unknown readout 'softmx'; known: logits, softmax"):
        made("alf@readout=softmx")


def test_only_the_named_parts_of_deep_alf_begin_at_random():
    parts = {"Lambda": "angle", "V": "v_real", "E": "emission_logits", "delta": "delta_logit"}
    good = made("deep_alf")
    for drawn in parts:
        memory = made(f"deep_alf@random={drawn}")
        for part, field in parts.items():
            same = np.allclose(getattr(memory, field), getattr(good, field))
            assert same == (part != drawn), (drawn, part)
    with pytest.raises(ValueError, match=r"has no part \['W'\]; known parts: E, Lambda, V, delta"):
        made("deep_alf@random=E,W")


def test_deep_alf_begun_at_random_has_as_many_states_as_wished_and_needs_no_tables_then():
    assert made("deep_alf_random").out_size == 12 and made("deep_alf_random@states=7").out_size == 7
    make = lambda name, world: MEMORIES[name].make(WORLDS[world].make(), 8, jax.random.key(1))  # noqa: E731
    memory = make("deep_alf_random@states=7", "repeat_previous")
    assert memory.out_size == 7 and memory.emission_logits.shape == (7, 4)
    with pytest.raises(ValueError, match=r"RepeatPrevious has no tables .*deep_alf_random@states=64"):
        make("deep_alf_random", "repeat_previous")
    with pytest.raises(ValueError, match=r"reads one of n .*; CartPole has Box and Discrete; take"):
        make("deep_alf_random@states=7", "noisy_cartpole")
    with pytest.raises(ValueError, match="asked for with -1 states; it has at least 1"):
        made("deep_alf_random@states=-1")


def test_a_size_of_its_own_replaces_the_learners():
    assert made("s5").out_size == 8 and made("s5@hidden=12").out_size == 12


# --- the experiment -----------------------------------------------------------------------------------------


def test_the_paper_preset_is_the_published_budget():
    config = ringworld.preset_config("paper")
    assert (config.steps, config.seeds, config.updates) == (30_000_000, 8, 458)
    ppo = config.ppo
    assert (ppo.actors, ppo.unroll, ppo.epochs, ppo.minibatches) == (64, 1024, 30, 8)
    assert (ppo.step_size, ppo.anneal, ppo.discount, ppo.trace, ppo.clip) == (5e-5, False, 0.99, 1.0, 0.2)
    assert (ppo.entropy_cost, ppo.value_cost, ppo.max_gradient) == (0.0, 1.0, 0.5)


def tiny(preset, memory):
    """A preset's settings at a size that runs in a moment."""
    config = ringworld.preset_config(preset)
    small = {"actors": 8, "unroll": 10, "epochs": 2, "minibatches": 2, "memory_size": 8}
    return dataclasses.replace(
        config,
        memory=memory,
        seeds=2,
        steps=3 * 80,
        snapshots=1,
        evaluation_actors=4,
        evaluation_steps=30,
        ppo=dataclasses.replace(config.ppo, **small),
    )


def test_the_paper_preset_starts_at_any_row_and_goes_on_after_an_interruption(tmp_path, monkeypatch):
    config = tiny("paper", ("belief", "none"))
    folder = Folder.create(tmp_path, config, "a test")
    show, shown = watch._show, []

    def interrupt(bars, task, event):
        shown.append(event)
        if len(shown) == 3:  # compiling, two updates
            raise KeyboardInterrupt
        show(bars, task, event)

    monkeypatch.setattr(watch, "_show", interrupt)
    assert ringworld.reproduce(config, folder, ("none",), "paper") is None
    monkeypatch.setattr(watch, "_show", show)
    evidence = ringworld.reproduce(config, folder, ("none",), "paper")
    assert [row["memory"] for row in evidence.rows] == ["none"] and evidence.targets == []
    assert "Not finished yet, and in no target: belief." in evidence.remarks
    run = read_run(folder.path)
    assert [update["update"] for update in run.updates["none"]] == [1, 2, 3]
    assert [snapshot["update"] for snapshot in run.snapshots["none"]] == [0, 3]
    page = ringworld.write(evidence, run, folder)
    assert "Beside the published values" in page.read_text()


def finished(rewards):
    """A run with these final rewards, learned in a straight line."""
    rewards = {memory: np.asarray(reward, float) for memory, reward in rewards.items()}
    updates = {
        memory: [{"update": k, "steps": k, "reward": reward * k / 40} for k in range(1, 41)]
        for memory, reward in rewards.items()
    }
    results = {memory: {"reward": reward} for memory, reward in rewards.items()}
    return Run("ring", {"memory": list(rewards)}, {}, updates, {}, results, {}, ())


def as_published(**changed):
    wide = {"deep_alf_random": 8}
    spread = np.array([-0.002, -0.001, 0.001, 0.002])
    rewards = {m: p + wide.get(m, 1) * spread for m, p in ringworld.PUBLISHED.items()}
    return rewards | {memory: value + spread for memory, value in changed.items()}


def missed(run, minutes=None):
    return [target.name for target in ringworld.targets_of(run, minutes) if not target.holds]


def test_the_published_values_meet_every_target():
    assert missed(finished(as_published()), minutes=(24.0, 40.0)) == []
    assert len(ringworld.targets_of(finished(as_published()))) >= 12


def test_each_claim_is_missed_when_it_is_false():
    for changed, names in (
        (
            {"deep_alf": 0.60},
            {"nothing earns more than the exact belief", "deep_alf earns what the belief does"},
        ),
        ({"lof": 0.57}, {"raw LOF ends lowest of all memories", "s5@hidden=12 earns more than lof"}),
        ({"s5@hidden=12": 0.535}, {"s5@hidden=256 earns more than s5@hidden=12"}),
        ({"deep_alf_random": 0.53}, {"seeds of Deep ALF differ more if everything begins at random"}),
    ):
        rewards = as_published() | {m: v + np.array([-2, -1, 1, 2]) / 1e3 for m, v in changed.items()}
        assert names <= set(missed(finished(rewards))), changed
    assert missed(finished(as_published()), minutes=(26.0, 40.0)) == ["time for all rows"]


def test_remarks_say_where_the_values_agree_and_where_not():
    run = finished(as_published(lof=0.55))
    remarks = ringworld.remarks_of(ringworld.rows_of(run), run, "paper")
    assert "Higher than published: lof (+0.110). Lower: none." in remarks
    assert any("episode length" in remark for remark in remarks)


# --- the open choices ---------------------------------------------------------------------------------------


def test_every_open_choice_is_a_world_that_can_be_made():
    worlds = [config.world for config in ringworld_choices.configs("worlds").values()]
    assert len(set(worlds)) == len(worlds) == len(ringworld_choices.CHOICES)
    for world in worlds:
        assert WORLDS[world].make().tables().n_states == 12


def test_a_worlds_options_are_part_of_a_runs_name_and_config():
    plain, other = RunConfig(), RunConfig(world="ringworld@slip=other")
    assert plain.folder_name() != other.folder_name() and other.as_dict()["world"] == "ringworld@slip=other"
    assert WORLDS[other.world].make().tables().transition[0, 0, 2] == pytest.approx(0.05 / 3)
    with pytest.raises(KeyError, match="world 'ringworld' has no option 'slp'; did you mean 'slip=stay'"):
        RunConfig(world="ringworld@slp=other")


def test_pairs_count_as_swapped_only_if_both_worlds_tell_them_apart():
    spread = np.array([-0.01, 0.0, 0.01, 0.02])
    base = {"a": 0.5 + spread, "b": 0.4 + spread, "c": 0.499 + spread}
    other = {"a": 0.2 + spread, "b": 0.3 + spread, "c": 0.201 + spread}
    assert ringworld_choices.swapped(base, other) == [("a", "b"), ("c", "b")]
    assert ringworld_choices.swapped(base, base) == []


def test_what_raw_logits_say_drowns_in_an_offset_that_a_shift_takes_away():
    raw, shifted = ringworld_choices.given(
        (ringworld_choices.RAW, ringworld_choices.SHIFTED), copies=4, width=8
    )
    assert raw["spread"] == pytest.approx(shifted["spread"], rel=1e-3)
    assert raw["offset"] == sorted(raw["offset"], reverse=True) and raw["offset"][-1] < -100
    assert raw["one_way"] > 0.95 > shifted["one_way"]
    assert raw["saturated"] > shifted["saturated"] and raw["passed"] < shifted["passed"]

"""Problem files: what they mean, what is refused and where, and that writing and reading are inverse."""

import itertools
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from linmem.core.registry import UnknownName
from linmem.worlds import pomdpx
from linmem.worlds.dotpomdp import FormatError, FormatWarning, dumps, loads
from linmem.worlds.model_files import model_world, read_model, shipped
from linmem.worlds.problems.generated import rock_sample, t_maze
from linmem.worlds.rules import ANY, Rules, TooLarge

# Problem files of other collections, if they lie beside the repository.
FOLDER = Path(os.environ.get("LINMEM_PROBLEMS", Path(__file__).parents[3] / "shared" / "pomdp"))
FILES = sorted(FOLDER.iterdir()) if FOLDER.is_dir() else []

HEAD = """
discount: 0.9
values: reward
states: a b c
actions: x y
observations: u v
"""
TABLES = "T: * identity\nO: * uniform\n"


def same(one, other) -> bool:
    matrices = zip(one.transition + one.emission, other.transition + other.emission, strict=True)
    return (
        all(np.array_equal(a.toarray(), b.toarray()) for a, b in matrices)
        and all(np.array_equal(a, b) for a, b in zip(one.reward, other.reward, strict=True))
        and np.array_equal(one.initial, other.initial)
        and (one.discount, one.state_names, one.action_names, one.observation_names)
        == (other.discount, other.state_names, other.action_names, other.observation_names)
    )


def full_reward(model):
    entries = np.array(list(itertools.product(*map(range, model.sizes))))
    return model.reward.at(entries, model.sizes).reshape(model.sizes)


def test_later_lines_override_earlier_ones_entry_by_entry():
    model = loads(
        HEAD
        + "T: * uniform\nT: x identity\nT: x : b 0.5 0.5 0\nT: x : b : a 0\nT: x : b : c 0.5\n"
        + "O: * uniform\nO: y : c : u 1\nO: y : c : v 0\nO:*:a\n0.25\n0.75"
    )
    assert np.array_equal(model.transition[0].toarray(), [[1, 0, 0], [0, 0.5, 0.5], [0, 0, 1]])
    assert np.array_equal(model.transition[1].toarray(), np.full((3, 3), 1 / 3))
    assert np.array_equal(model.emission[0].toarray(), [[0.25, 0.75], [0.5, 0.5], [0.5, 0.5]])
    assert np.array_equal(model.emission[1].toarray(), [[0.25, 0.75], [0.5, 0.5], [1, 0]])


def test_rewards_take_every_form_and_costs_are_negative_rewards():
    lines = "R: * : * : * : * 1\nR: x : a : b 2 3\nR: y : c 1 2 3 4 5 6\nR: x : * : c : v 7 # last\n"
    reward = full_reward(loads(HEAD + TABLES + lines))
    expected = np.ones((2, 3, 3, 2))
    expected[0, 0, 1] = 2, 3
    expected[1, 2] = [[1, 2], [3, 4], [5, 6]]
    expected[0, :, 2, 1] = 7
    assert np.array_equal(reward, expected)
    costs = loads(HEAD.replace("reward", "cost") + TABLES + lines)
    assert np.array_equal(full_reward(costs), -expected)


def test_the_expected_reward_is_the_mean_over_moves_and_observations():
    rng = np.random.default_rng(0)
    transition, emission, reward = (
        rng.dirichlet(np.ones(3), (2, 3)),
        rng.dirichlet(np.ones(2), (2, 3)),
        rng.normal(size=(2, 3, 3, 2)),
    )
    lines = [f"T: {a}\n{' '.join(map(repr, transition[a].ravel().tolist()))}" for a in range(2)]
    lines += [f"O: {a}\n{' '.join(map(repr, emission[a].ravel().tolist()))}" for a in range(2)]
    lines += [
        f"R: {a} : {s}\n{' '.join(map(repr, reward[a, s].ravel().tolist()))}"
        for a in range(2)
        for s in range(3)
    ]
    model = loads(HEAD + "\n".join(lines))
    assert np.allclose(model.expected_reward(), np.einsum("asr,aro,asro->as", transition, emission, reward))
    dense = model.dense()
    assert np.allclose((dense.transition * dense.reward).sum(-1), model.expected_reward())


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("", [1 / 3, 1 / 3, 1 / 3]),
        ("start: uniform", [1 / 3, 1 / 3, 1 / 3]),
        ("start: 0.5 0.25 0.25", [0.5, 0.25, 0.25]),
        ("start:\n b", [0, 1, 0]),
        ("start: 2", [0, 0, 1]),
        ("start include: a 2", [0.5, 0, 0.5]),
        ("start exclude : b", [0.5, 0, 0.5]),
    ],
)
def test_every_form_of_start_is_read_and_reset_leads_there(start, expected):
    model = loads(HEAD + start + "\nT: x identity\nT: x : c reset\nT: y reset\nO: * uniform")
    assert np.allclose(model.initial, expected)
    assert np.allclose(model.transition[0].toarray()[2], expected)
    assert np.allclose(model.transition[1].toarray(), [expected] * 3)


def test_names_may_begin_like_keywords_and_be_shared_by_states_and_observations():
    text = "discount:1 states: start-left T1\nactions: include2 O-1\nobservations: T1 start-left\n"
    model = loads(
        text + "values: reward T:*identity\nO: O-1 : T1 : start-left 1\nO: * : start-left : T1 1\n"
        "O: include2 : T1 : T1 1"
    )
    assert model.state_names == ("start-left", "T1")
    assert np.array_equal(model.emission[1].toarray(), [[1, 0], [0, 1]])


def test_a_file_without_observations_observes_the_state():
    model = loads("discount: 0.5\nvalues: reward\nstates: 2\nactions: 2\nT: * uniform\nR: 0 : 1 : * 3")
    assert np.array_equal(model.emission[0].toarray(), np.eye(2))
    assert np.array_equal(model.expected_reward(), [[0, 3], [0, 0]])


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        (HEAD + "T: x identty", "test:7:6", "'identty'; expected a number or identity or reset or uniform"),
        (HEAD + "T: x : d uniform", "test:7:8", "the name or index of a known state (one of a, b, c)"),
        (HEAD + "T: x :\n a : 3 1", "test:8:6", "found '3'"),
        (HEAD + "T: x : a 0.5 0.5", "test:7:10", "found 2 numbers; expected 3"),
        (HEAD + "T: x 1 0 0 0 1 0 0 0", "test:7:6", "found 8 numbers; expected 9"),
        (HEAD + "O: x : a : u uniform", "test:7:14", "expected a number"),
        (HEAD + "O: x identity", "test:7:6", "expected numbers"),
        (HEAD + "start: 0.5 0.4 0", "test:7:8", "sums to 0.9"),
        (HEAD + "T: * identity\ngarbage", "test:8:1", "found 'garbage'"),
        (HEAD + "R: x : a : a : u : u 1", "test:7:4", "found 5 indices; expected at most 4"),
        ("discount: 2", "test:1:11", "expected a discount in [0, 1]"),
        ("T: x : a 1", "test:1:1", "expected a 'actions:' line before it"),
        (HEAD + "states: a b", "test:7:1", "found a second 'states:'"),
        (HEAD + TABLES + "T: x : b 0.5 0.4 0", "test", "T: x state 'b' sums to 0.9; rows must sum to 1"),
        (HEAD + "T: * identity", "test", "sums to 0"),
        ("discount: 0.9\nvalues:", "test:2:8", "found the end of the file; expected cost or reward"),
    ],
)  # fmt: skip
def test_errors_say_where_and_what_was_found_and_expected(text, place, message):
    with pytest.raises(FormatError) as caught:
        loads(text, "test")
    assert str(caught.value).startswith(place + ": ") and message in str(caught.value)


def test_what_only_some_readers_accept_is_warned_of_once_and_refused_when_strict():
    text = HEAD + "start: a b\n" + TABLES + "R: x : a : * : * .5\nR: y : a : * : * .5\nT: x : a 0.999998 0 0"
    with pytest.warns(FormatWarning) as found:
        model = loads(text, "test")
    told = [str(each.message) for each in found]
    assert len(told) == 3 and sum("leading digit (line 10, 11)" in line for line in told) == 1
    assert np.array_equal(model.transition[0].toarray()[0], [1, 0, 0])
    with pytest.raises(FormatError, match="strict"):
        loads(text, "test", strict=True)


def test_small_texts_of_huge_models_are_refused_before_they_are_built():
    huge = "discount: 0.9\nvalues: reward\nstates: 900000\nactions: 2\nobservations: 3\n"
    for table in ("T: * uniform\nO: * uniform", "T: 0 identity\n" * 6):
        with pytest.raises(TooLarge):
            loads(huge + table)
    with pytest.raises(FormatError, match="count"):
        loads("states: 99999999999999999999")


def test_rules_agree_with_filling_a_full_table_in_order():
    rng = np.random.default_rng(1)
    sizes = (3, 4, 5)
    for _ in range(20):
        index = np.stack([rng.integers(-1, size, 30) for size in sizes], axis=1).astype(np.int32)
        rules = Rules(index, rng.integers(0, 3, 30).astype(float))
        table = np.zeros(sizes)
        for row, value in zip(index, rules.value, strict=True):
            table[tuple(slice(None) if i == ANY else i for i in row)] = value
        entries, value = rules.nonzero(sizes)
        assert np.array_equal(entries, np.argwhere(table)) and np.array_equal(value, table[table != 0])


@pytest.mark.parametrize("name", [name for name in shipped() if name != "rocksample-7-8.POMDP"])
def test_shipped_problems_are_read_back_as_they_were_written(name):
    model = read_model(name, strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(loads(dumps(model), strict=True), model)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
@pytest.mark.filterwarnings("ignore::linmem.worlds.dotpomdp.FormatWarning")
def test_files_of_other_collections_load_and_are_read_back_as_they_were_written(file):
    model = read_model(str(file))
    assert same(loads(dumps(model)), model)


def test_the_text_of_an_unwritable_name_is_refused():
    with pytest.raises(ValueError, match="cannot be a name"):
        dumps(pomdpx.loads(_pomdpx(values="low hi!gh")))


BASE = (
    HEAD + "start include: a b\nT: *\nuniform\nT: x : a reset\nO: * : * : u 1 # sure\nR: x : * : a : * -1.5\n"
)
PIECES = st.sampled_from(
    [*BASE.split(), "\n", " ", "#", ":", "*", "9" * 30, "1e999", "-", "identity", "start:", "\x00", "<"]
)


@settings(max_examples=80, deadline=5000, suppress_health_check=list(HealthCheck))
@given(st.data())
@pytest.mark.filterwarnings("ignore::linmem.worlds.dotpomdp.FormatWarning")
def test_a_damaged_file_gives_an_error_or_a_valid_model(data):
    text = BASE
    for _ in range(data.draw(st.integers(1, 4))):
        begin = data.draw(st.integers(0, len(text)))
        end = min(len(text), begin + data.draw(st.integers(0, 12)))
        text = text[:begin] + data.draw(PIECES) + text[end:]
    try:
        model = loads(text)
    except ValueError:
        return
    assert np.allclose(model.dense().transition.sum(-1), 1)


@settings(max_examples=60, deadline=5000, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_damaged_pomdpx_file_gives_an_error_or_a_valid_model(data):
    text = _pomdpx()
    for _ in range(data.draw(st.integers(1, 3))):
        begin = data.draw(st.integers(0, len(text)))
        end = min(len(text), begin + data.draw(st.integers(0, 12)))
        piece = data.draw(
            st.sampled_from([*_pomdpx().split(), "*", "-", "9" * 30, "</", "&x;", "<Entry>", "nan", ""])
        )
        text = text[:begin] + piece + text[end:]
    try:
        model = pomdpx.loads(text)
    except ValueError:
        return
    assert np.allclose(model.dense().transition.sum(-1), 1)


def _pomdpx(values: str = "low high") -> str:
    """Two state variables, the first fully observed; x1 depends on x, the action and, within the step, on
    y1."""
    return f"""<?xml version='1.0'?><pomdpx><Discount>0.9</Discount><Variable>
    <StateVar vnamePrev='x0' vnameCurr='x1' fullyObs='true'><NumValues>2</NumValues></StateVar>
    <StateVar vnamePrev='y0' vnameCurr='y1'><ValueEnum>{values} mid</ValueEnum></StateVar>
    <ObsVar vname='o'><NumValues>2</NumValues></ObsVar>
    <ActionVar vname='a'><ValueEnum>stay go</ValueEnum></ActionVar>
    <RewardVar vname='r'/></Variable>
    <InitialStateBelief>
    <CondProb><Var>x0</Var><Parent>null</Parent><Parameter><Entry><Instance>s1</Instance><ProbTable>1</ProbTable></Entry>
    </Parameter></CondProb>
    <CondProb><Var>y0</Var><Parent>null</Parent><Parameter><Entry><Instance>-</Instance><ProbTable>uniform</ProbTable>
    </Entry></Parameter></CondProb></InitialStateBelief>
    <StateTransitionFunction>
    <CondProb><Var>y1</Var><Parent>a y0</Parent><Parameter>
    <Entry><Instance>* - -</Instance><ProbTable>identity</ProbTable></Entry>
    <Entry><Instance>go * -</Instance><ProbTable>0.5 0.25 0.25</ProbTable></Entry></Parameter></CondProb>
    <CondProb><Var>x1</Var><Parent>x0 y1</Parent><Parameter type='DD'><DAG><Node var='y1'>
    <Edge val='mid'><SubDAG type='persistent' var='x1'/></Edge>
    <Edge val='{values.split()[0]}'><SubDAG type='deterministic' var='x1' val='s1'/></Edge>
    <Edge val='{values.split()[1]}'><SubDAG type='uniform' var='x1'/></Edge>
    </Node></DAG></Parameter></CondProb></StateTransitionFunction>
    <ObsFunction><CondProb><Var>o</Var><Parent>a y1</Parent><Parameter><Entry><Instance>* * -</Instance>
    <ProbTable>uniform</ProbTable></Entry>
    <Entry><Instance>stay mid -</Instance><ProbTable>0.9 0.1</ProbTable></Entry>
    </Parameter></CondProb></ObsFunction>
    <RewardFunction><Func><Var>r</Var><Parent>a x0</Parent><Parameter><Entry><Instance>go *</Instance>
    <ValueTable>-1</ValueTable></Entry></Parameter></Func><Func><Var>r</Var><Parent>y1</Parent><Parameter><Entry>
    <Instance>-</Instance><ValueTable>0 0 2</ValueTable></Entry></Parameter></Func></RewardFunction>
    </pomdpx>"""


def test_factors_of_pomdpx_are_multiplied_out_and_reward_functions_added():
    model = pomdpx.loads(_pomdpx())
    y1 = {"stay": np.eye(3), "go": np.tile([0.5, 0.25, 0.25], (3, 1))}
    x1 = np.zeros((2, 3, 2))  # x0, y1, x1
    x1[:, 0, 1], x1[:, 1], x1[:, 2] = 1, 0.5, np.eye(2)
    for a, action in enumerate(("stay", "go")):
        expected = np.einsum("yz,xzw->xywz", y1[action], x1).reshape(6, 6)
        assert np.allclose(model.transition[a].toarray(), expected)
        sees = np.array([[0.5, 0.5], [0.5, 0.5], [0.9, 0.1] if action == "stay" else [0.5, 0.5]])
        seen = np.einsum("yo,xw->xyow", sees, np.eye(2)).reshape(6, 4)
        assert np.allclose(model.emission[a].toarray(), seen)
        reward = 2 * expected.reshape(6, 2, 3)[:, :, 2].sum(1) - a
        assert np.allclose(model.expected_reward()[a], reward)
    assert np.allclose(model.initial, [0, 0, 0, 1 / 3, 1 / 3, 1 / 3])
    assert model.state_names[4] == "s1-high"


def test_xml_entities_are_refused():
    bomb = "<!DOCTYPE x [<!ENTITY a 'aaaa'>]>" + _pomdpx()[21:]
    with pytest.raises(FormatError, match="test:1:13: found a document type"):
        pomdpx.loads(bomb, "test")


def test_rocksample_7_8_has_its_published_size_and_sparse_tables():
    model = read_model("rocksample-7-8.POMDP")
    assert (model.n_states, model.n_actions, model.n_observations) == (12545, 13, 2)
    assert sum(matrix.nnz for matrix in model.transition) == 12545 * 13
    with pytest.raises(TooLarge):
        model.dense()


def test_a_rover_on_a_good_rock_is_paid_once_and_leaves_to_the_east_for_ten():
    model = rock_sample(2, [(1, 0)], (0, 0), half_distance=1.0)
    names = dict(zip(model.action_names, range(6), strict=True))
    rewards = model.expected_reward()
    good, bad = (model.transition[names["east"]].toarray()[s].argmax() for s in (1, 0))
    assert (rewards[names["sample"], good], rewards[names["sample"], bad]) == (10, -10)
    assert model.transition[names["sample"]].toarray()[good].argmax() == bad
    assert rewards[names["east"], good] == 10 and rewards[names["west"], 0] == -100
    assert model.emission[names["check0"]].toarray()[1] == pytest.approx([0.75, 0.25])
    assert model.terminal().tolist() == [False] * 8 + [True]


def test_a_problem_file_is_a_world_that_ends_where_nothing_is_left_to_earn():
    world = model_world("tmaze-5.POMDP")
    assert world.terminal.tolist() == [False] * 14 + [True]
    assert world.episode_length == 44  # 0.9 ** 44 is below 1%
    assert np.array_equal(world.pomdp.initial_emission, np.full((15, 5), 0.2))
    assert np.allclose(world.pomdp.transition, t_maze(5).dense().transition)
    with pytest.raises(UnknownName, match=r"shipped problems: .*tiger\.POMDP"):
        model_world("nowhere.POMDP")


@pytest.mark.parametrize(("discount", "steps"), [(0, 1), (0.9, 44), (1, 1000)])
def test_episodes_end_when_the_discount_leaves_nothing_of_rewards(discount, steps, tmp_path):
    file = tmp_path / "coin.POMDP"
    file.write_text(
        f"discount: {discount}\nstates: 2\nactions: 1\nobservations: 1\nT: * uniform\nO: * uniform\n"
    )
    assert model_world(str(file)).episode_length == steps

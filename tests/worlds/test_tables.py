"""Promises of the tables, of the spaces and of the table world."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from linmem.worlds import HMM, POMDP, Box, Discrete, TableWorld, deterministic_of, permutation_of

KEY = jax.random.key(0)


def random_rows(rng, *shape):
    rows = rng.uniform(0.1, 1, shape)
    return rows / rows.sum(axis=-1, keepdims=True)


def random_tables(seed=0, m=2, n=3, k=4):
    """Keyword arguments of a valid POMDP; all sizes differ, so that a transposed table cannot pass."""
    rng = np.random.default_rng(seed)
    return {
        "transition": random_rows(rng, m, n, n),
        "emission": random_rows(rng, m, n, k),
        "reward": rng.normal(size=(m, n, n)),
        "initial": random_rows(rng, n),
        "discount": 0.9,
        "initial_emission": random_rows(rng, n, k),
    }


def message_of(make, **arguments):
    with pytest.raises(ValueError) as caught:
        make(**arguments)
    return str(caught.value)


# --- errors ---


def test_a_row_that_does_not_sum_to_one_is_named():
    tables = random_tables(n=4)
    tables["transition"][1, 3] = [0.97, 0, 0, 0]
    assert message_of(POMDP, **tables) == "transition[1] row 3 sums to 0.97; rows must sum to 1"


def test_a_bad_row_of_an_hmm_is_named():
    assert (
        message_of(HMM, transition=np.eye(2), emission=[[1, 0], [0.5, 0.4]], initial=[1, 0])
        == "emission row 1 sums to 0.9; rows must sum to 1"
    )


def test_a_bad_initial_distribution_is_named():
    message = message_of(HMM, transition=np.eye(2), emission=np.eye(2), initial=[0.5, 0.25])
    assert message == "initial sums to 0.75; rows must sum to 1"


def test_a_negative_probability_is_named_even_in_a_row_that_sums_to_one():
    message = message_of(HMM, transition=np.eye(3), emission=[[1, 0], [0, 1], [-0.1, 1.1]], initial=[1, 0, 0])
    assert message == "emission[2, 0] is -0.1; probabilities lie in [0, 1]"


def test_names_replace_indices_in_messages():
    tables = random_tables(m=2, n=2)
    tables["transition"][1, 0] = [0.5, 0.47]
    names = {"state_names": ("left", "right"), "action_names": ("open", "listen")}
    message = message_of(POMDP, **tables, **names)
    assert message == "transition['listen'] row 'left' sums to 0.97; rows must sum to 1"


def test_a_wrong_shape_is_told_with_the_expected_one():
    tables = random_tables(m=2, n=3) | {"initial": [0.5, 0.5]}
    assert message_of(POMDP, **tables) == "initial has shape (2,); expected [state] = (3,)"


def test_a_wrong_number_of_axes_is_told_with_the_expected_ones():
    message = message_of(POMDP, **random_tables() | {"transition": np.eye(3)})
    assert message == "transition has shape (3, 3); expected axes [action, state, next state]"


def test_too_few_names_are_refused():
    message = message_of(POMDP, **random_tables(n=3), state_names=("a", "b"))
    assert "3 states but 2 names" in message


def test_an_emission_that_depends_on_the_action_asks_for_an_initial_emission():
    message = message_of(POMDP, **random_tables() | {"initial_emission": None})
    assert "give initial_emission[state, observation]" in message


@given(
    seed=st.integers(0, 10**6),
    name=st.sampled_from(["transition", "emission", "reward", "initial", "initial_emission"]),
    bad=st.sampled_from([np.nan, np.inf, -np.inf, 1e200]),
)
@settings(max_examples=100, deadline=None)
def test_any_entry_that_is_no_number_of_its_kind_is_named(seed, name, bad):
    tables = random_tables(seed)
    index = tuple(np.random.default_rng(seed).integers(tables[name].shape))
    tables[name][index] = bad
    assert f"{name}[{', '.join(map(str, index))}] is {bad:g}" in message_of(POMDP, **tables)


@given(
    seed=st.integers(0, 10**6),
    name=st.sampled_from(["transition", "emission", "initial", "initial_emission"]),
    scale=st.floats(0, 0.999) | st.floats(1.001, 1.1),
)
@settings(max_examples=100, deadline=None)
def test_any_row_off_its_sum_is_named(seed, name, scale):
    tables = random_tables(seed)
    row = tuple(map(int, np.random.default_rng(seed).integers(tables[name].shape[:-1])))
    tables[name][row] *= scale
    place = {0: "", 1: " row {}", 2: "[{}] row {}"}[len(row)].format(*row)
    assert message_of(POMDP, **tables).startswith(f"{name}{place} sums to ")


leaves = st.floats() | st.sampled_from([0.0, 0.5, 1.0, "x", None, 1j])
nested = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3), max_leaves=8)
nonsense = st.sampled_from([name for name in random_tables() if name != "discount"]).flatmap(
    lambda name: st.tuples(st.just(name), st.lists(nested, max_size=3))
) | st.tuples(st.just("discount"), st.floats())


@given(nonsense)
@example(("transition", [[[1.0]]]))
@settings(max_examples=200, deadline=None)
def test_any_nonsense_is_refused_by_name_or_gives_sound_tables(name_and_value):
    name, value = name_and_value
    arguments = random_tables() | {name: value}
    try:
        pomdp = POMDP(**arguments)
    except ValueError as error:
        # a table of another size may be sound in itself; then the first one that disagrees with it is named
        assert re.match(rf"({'|'.join(arguments)})\b.* (is|are|has shape|sums to) ", str(error))
    else:
        for table in (pomdp.transition, pomdp.emission, pomdp.initial, pomdp.initial_emission):
            assert (table >= 0).all()
            np.testing.assert_allclose(table.sum(axis=-1), 1, atol=1e-5)
        assert np.isfinite(pomdp.reward).all()
        assert 0 <= pomdp.discount <= 1


# --- layouts ---


def test_an_emission_without_actions_holds_for_every_action():
    tables = random_tables(m=2)
    emission = tables["initial_emission"]
    pomdp = POMDP(**tables | {"emission": emission, "initial_emission": None})
    for action in range(2):
        np.testing.assert_array_equal(pomdp.emission[action], emission)
    np.testing.assert_array_equal(pomdp.initial_emission, emission)


def test_a_reward_by_action_and_state_ignores_the_next_state():
    reward = np.arange(6.0).reshape(2, 3)
    full = POMDP(**random_tables(m=2, n=3) | {"reward": reward}).reward
    assert all(full[a, s, t] == reward[a, s] for a in range(2) for s in range(3) for t in range(3))


def test_a_reward_by_state_is_that_of_the_state_reached():
    full = POMDP(**random_tables(m=2, n=3) | {"reward": [5.0, 6.0, 7.0]}).reward
    assert all(full[a, s, t] == 5 + t for a in range(2) for s in range(3) for t in range(3))


def test_sizes_are_read_off_the_tables():
    pomdp = POMDP(**random_tables(m=2, n=3, k=4))
    assert (pomdp.n_actions, pomdp.n_states, pomdp.n_observations) == (2, 3, 4)


def test_tables_are_read_only_and_do_not_follow_the_users_array():
    tables = random_tables()
    pomdp = POMDP(**tables)
    before = pomdp.transition.copy()
    tables["transition"][:] = 0
    np.testing.assert_array_equal(pomdp.transition, before)
    for table in (pomdp.transition, pomdp.emission, pomdp.reward, pomdp.initial, pomdp.initial_emission):
        with pytest.raises(ValueError, match="read-only"):
            table[...] = 0


# --- permutations and maps ---


def test_a_permutation_moves_logits_as_the_forward_step_moves_beliefs():
    matrix = np.eye(5)[[2, 0, 1, 4, 3]]  # state s goes to f(s): a cycle of three, so source and f differ
    belief = np.array([0.1, 0.2, 0.3, 0.15, 0.25])
    source = permutation_of(matrix)
    assert source is not None
    np.testing.assert_allclose(np.log(belief)[source], np.log(belief @ matrix))


def test_a_deterministic_matrix_gives_its_map():
    matrix = np.array([[0.0, 0, 1], [1, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(deterministic_of(matrix), [2, 0, 2])


def test_a_many_to_one_map_is_no_permutation():
    assert permutation_of(np.array([[0.0, 1], [0, 1]])) is None


def test_a_stochastic_matrix_is_neither_map_nor_permutation():
    matrix = np.array([[0.5, 0.5], [0.5, 0.5]])
    assert deterministic_of(matrix) is None
    assert permutation_of(matrix) is None


# --- simulation ---

# A frequency over N independent draws strays by more than 5 standard deviations once in 10^6.
SIGMAS = 5


def assert_frequencies(found, draws, expected):
    np.testing.assert_array_less(
        np.abs(found - expected), SIGMAS * np.sqrt(expected * (1 - expected) / draws) + 1e-12
    )


def test_hmm_states_and_observations_follow_their_joint_law():
    rng = np.random.default_rng(1)
    hmm = HMM(random_rows(rng, 2, 2), random_rows(rng, 2, 3), [0.3, 0.7])
    runs = 20_000
    states, observations = jax.vmap(lambda key: hmm.simulate(key, 2))(jax.random.split(KEY, runs))
    found = np.zeros((2, 3, 2, 3))
    np.add.at(found, (*np.stack([states, observations], axis=2).reshape(runs, 4).T,), 1 / runs)
    expected = np.einsum("s,so,st,tp->sotp", hmm.initial, hmm.emission, hmm.transition, hmm.emission)
    assert_frequencies(found, runs, expected)


def test_pomdp_moves_and_observations_follow_their_joint_law():
    pomdp = POMDP(**random_tables(m=2, n=2, k=3))
    runs = 20_000
    run = jax.vmap(lambda key: pomdp.simulate(key, jnp.array([1])))(jax.random.split(KEY, runs))
    found = np.zeros((2, 3, 2, 3))
    np.add.at(found, (*np.stack([run.states, run.observations], axis=2).reshape(runs, 4).T,), 1 / runs)
    first = pomdp.initial[:, None] * pomdp.initial_emission
    expected = np.einsum("so,st,tp->sotp", first, pomdp.transition[1], pomdp.emission[1])
    assert_frequencies(found, runs, expected)


def test_rewards_are_those_of_the_moves_made():
    pomdp = POMDP(**random_tables())
    actions = jax.random.randint(KEY, (50,), 0, 2)
    run = pomdp.simulate(KEY, actions)
    assert run.states.shape == run.observations.shape == (51,)
    moves = (np.asarray(actions), np.asarray(run.states[:-1]), np.asarray(run.states[1:]))
    np.testing.assert_array_equal(run.rewards, pomdp.reward[moves].astype(np.float32))


def test_a_plan_with_an_action_that_is_not_there_is_refused_with_its_place():
    pomdp = POMDP(**random_tables(m=2))
    for actions, message in (([0, 1, 2], "actions[2] is 2"), ([0, -1], "actions[1] is -1")):
        said = message_of(pomdp.simulate, key=KEY, actions=jnp.array(actions))
        assert said == f"{message}; must be one of 0 ... 1"
    traced = jax.jit(lambda actions: pomdp.simulate(KEY, actions).states)(jnp.array([0, 1]))
    np.testing.assert_array_equal(traced, pomdp.simulate(KEY, jnp.array([0, 1])).states)


def test_what_has_probability_zero_never_happens():
    hmm = HMM(np.eye(3)[[1, 2, 0]], np.eye(3), [0, 1, 0])
    states, observations = hmm.simulate(KEY, 1000)
    np.testing.assert_array_equal(states, (1 + np.arange(1000)) % 3)
    np.testing.assert_array_equal(observations, states)


# --- table world ---


def corridor(**changes):
    """States 0 -> 1 -> 2, where 2 is the end; leaving 1 earns 1."""
    tables = {
        "transition": np.array([[[0.0, 1, 0], [0, 0, 1], [0, 0, 1]]]),
        "emission": np.eye(3),
        "reward": np.array([[0.0, 1, 0]]),
        "initial": np.array([1.0, 0, 0]),
        "discount": 0.9,
    }
    return POMDP(**tables | changes)


END = np.array([False, False, True])


@eqx.filter_jit
def walk(world, steps):
    def step(state, key):
        state, outcome = world.step(key, state, jnp.int32(0))
        return state, (world.hidden(state), outcome)

    return jax.lax.scan(step, world.init(KEY)[0], jax.random.split(KEY, steps))[1]


def test_arriving_in_a_terminal_state_terminates():
    hidden, outcome = walk(TableWorld(corridor(), episode_length=9, terminal=END), 2)
    np.testing.assert_array_equal(hidden, [1, 2])
    np.testing.assert_array_equal(outcome.reward, [0, 1])
    np.testing.assert_array_equal(outcome.terminated, [False, True])
    np.testing.assert_array_equal(outcome.truncated, [False, False])


def test_the_time_limit_truncates():
    _, outcome = walk(TableWorld(corridor(), episode_length=2), 2)
    np.testing.assert_array_equal(outcome.truncated, [False, True])
    np.testing.assert_array_equal(outcome.terminated, [False, False])


def test_termination_at_the_time_limit_is_no_truncation():
    _, outcome = walk(TableWorld(corridor(), episode_length=2, terminal=END), 2)
    np.testing.assert_array_equal(outcome.terminated, [False, True])
    np.testing.assert_array_equal(outcome.truncated, [False, False])


def test_without_a_time_limit_nothing_is_truncated():
    _, outcome = walk(TableWorld(corridor()), 100)
    assert not outcome.truncated.any()


@pytest.mark.parametrize(
    "changes, place",
    [
        ({"transition": np.array([[[0.0, 1, 0], [0, 0, 1], [1, 0, 0]]])}, r"transition\[0, 2, 2\] is 0"),
        ({"reward": np.array([[0.0, 1, 3]])}, r"reward\[0, 2, 2\] is 3"),
        ({"initial": np.array([0.5, 0, 0.5])}, r"initial\[2\] is 0.5"),
    ],
)
def test_tables_that_go_on_after_a_terminal_state_are_refused(changes, place):
    with pytest.raises(ValueError, match="state 2 is terminal, but " + place):
        TableWorld(corridor(**changes), terminal=END)


# --- spaces ---


@pytest.mark.parametrize("space", [Discrete(3), Box((2, 4), -1.0, 2.0), Box((2,), 0.0, np.inf)])
def test_a_space_contains_its_samples(space):
    samples = jax.vmap(space.sample)(jax.random.split(KEY, 200))
    assert jax.jit(jax.vmap(space.contains))(samples).all()
    assert samples.shape[1:] == space.shape
    assert samples.dtype == space.dtype


def test_samples_of_a_discrete_space_reach_every_member():
    samples = jax.vmap(Discrete(3).sample)(jax.random.split(KEY, 200))
    assert set(samples.tolist()) == {0, 1, 2}


@pytest.mark.parametrize(
    "space, x",
    [
        (Discrete(3), jnp.int32(3)),
        (Discrete(3), jnp.int32(-1)),
        (Discrete(3), jnp.float32(1)),
        (Discrete(3), jnp.array([1], jnp.int32)),
        (Box((2,), 0.0, 1.0), jnp.array([0.5, 1.5])),
        (Box((2,), 0.0, 1.0), jnp.array([0.5, -0.5])),
        (Box((2,), 0.0, 1.0), jnp.array([0.5, jnp.nan])),
        (Box((2,), 0.0, 1.0), jnp.array([0, 1], jnp.int32)),
        (Box((2,), 0.0, 1.0), jnp.array([0.5])),
    ],
)
def test_a_space_does_not_contain_a_wrong_range_shape_or_dtype(space, x):
    assert not space.contains(x)


def test_an_empty_space_is_refused():
    with pytest.raises(ValueError, match="n must be at least 1"):
        Discrete(0)
    with pytest.raises(ValueError, match="low must not exceed high"):
        Box((1,), 1.0, 0.0)


def test_equal_spaces_are_equal_and_hash_alike():
    assert Discrete(3) == Discrete(3) != Discrete(4)
    assert hash(Box((2,), 0.0, 1.0)) == hash(Box((2,), 0.0, 1.0))

"""The filters against the log-space forward algorithm, and that against all paths."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from linmem import (
    HMM,
    POMDP,
    AdaptiveLinearFilter,
    Belief,
    ExactLinearFilter,
    InitialStateFilter,
    Inputs,
    viterbi_path,
)
from linmem.memories import from_model
from linmem.memories.linear_filter import example_nearly_permuted
from linmem.memories.numpy_filter import NumpyFilter


def pomdp(transition, rng, observations=5, emission=None):
    n = len(transition[0])
    emission = rng.dirichlet(np.ones(observations), n) if emission is None else emission
    return POMDP(transition, emission, np.zeros(n), rng.dirichlet(np.ones(n)), discount=0.9)


def inputs(model, steps, rng):
    """Random actions and observations: the filters must agree on any sequence, likely or not."""
    return Inputs(
        jnp.asarray(rng.integers(0, model.n_observations, steps)),
        jnp.asarray(rng.integers(0, model.n_actions, steps)),
        jnp.zeros(steps),
    )


def forward_algorithm(model, xs, starts):
    """Log-beliefs by the textbook recursion in float64."""
    with np.errstate(divide="ignore"):
        log_T, log_E = np.log(model.transition), np.log(model.emission)
        log_first = np.log(model.initial) + np.log(model.initial_emission.T)
    l, out = np.zeros(model.n_states), []
    for o, a, start in zip(np.asarray(xs.observation), np.asarray(xs.action), starts, strict=True):
        l = log_first[o] if start else log_E[a, :, o] + np.logaddexp.reduce(l[:, None] + log_T[a], axis=0)
        l = l - np.logaddexp.reduce(l)
        out.append(l)
    return np.stack(out)


def beliefs(memory, xs, starts):
    return np.asarray(eqx.filter_jit(memory.unroll)(memory.init(), xs, jnp.asarray(starts))[1])


def some_starts(steps, rng):
    return (rng.random(steps) < 0.01) | (np.arange(steps) == 0)


@pytest.mark.parametrize("states, steps", [(2, 50), (7, 333), (64, 2000)])
def test_the_exact_linear_filter_is_the_forward_algorithm_for_permutations(float64, states, steps):
    rng = np.random.default_rng(states)
    model = pomdp([np.eye(states)[rng.permutation(states)] for _ in range(3)], rng)
    xs, starts = inputs(model, steps, rng), some_starts(steps, rng)
    expected = np.exp(forward_algorithm(model, xs, starts))
    assert np.abs(beliefs(ExactLinearFilter(model), xs, starts) - expected).max() < 1e-10


@pytest.mark.parametrize("states, steps", [(3, 50), (64, 2000)])
def test_the_initial_state_form_is_the_forward_algorithm_for_many_to_one_maps(float64, states, steps):
    rng = np.random.default_rng(states)
    model = pomdp([np.eye(states)[rng.integers(0, states, states)] for _ in range(3)], rng)
    xs, starts = inputs(model, steps, rng), some_starts(steps, rng)
    expected = np.exp(forward_algorithm(model, xs, starts))
    assert np.abs(beliefs(InitialStateFilter(model), xs, starts) - expected).max() < 1e-10


@pytest.mark.parametrize("states, steps", [(3, 40), (64, 1000)])
def test_a_filter_begun_at_a_wrong_vector_is_exact_after_one_corrected_input(float64, states, steps):
    rng = np.random.default_rng(states)
    model = pomdp([np.eye(states)[rng.permutation(states)] for _ in range(4)], rng)
    xs, no_start = inputs(model, steps, rng), np.zeros(steps, bool)
    # The state moves before it is first observed, so what is right at first is log pi_0, with an impossible
    # state; the oracle's one step more, the first, is a start whose observation is as likely in every state.
    prior = np.where(np.arange(states) == 1, 0, model.initial)
    prior /= prior.sum()
    model = POMDP(model.transition, model.emission, np.zeros(states), prior, 0.9, np.full((states, 5), 0.2))
    before = Inputs(*(jnp.concatenate([jnp.zeros(1, leaf.dtype), leaf]) for leaf in xs))
    expected = np.exp(forward_algorithm(model, before, np.arange(steps + 1) == 0))[1:]

    memory = ExactLinearFilter(model)
    wrong = rng.normal(size=states) + 10 * np.eye(states)[1]  # sure of the impossible state
    with np.errstate(divide="ignore"):
        first = memory.corrected(Inputs(*(leaf[0] for leaf in xs)), held=wrong, right=np.log(prior))
    state = memory.algebra.act(first, jnp.asarray(wrong))
    later = Inputs(*(leaf[1:] for leaf in xs))
    got = np.asarray(eqx.filter_jit(memory.unroll)(state, later, jnp.asarray(no_start[1:]))[1])
    assert np.abs(got - expected[1:]).max() < 1e-10
    np.testing.assert_allclose(memory.readout(state), expected[0], atol=1e-10)
    uncorrected = np.asarray(eqx.filter_jit(memory.unroll)(jnp.asarray(wrong), xs, jnp.asarray(no_start))[1])
    assert np.abs(uncorrected - expected).max() > 0.1


def test_a_correction_refuses_logits_that_cannot_be_corrected_and_names_them():
    memory, _ = ExactLinearFilter.example(jax.random.key(0), 1)
    x = Inputs(jnp.array(0), jnp.array(0), jnp.array(0.0))
    with pytest.raises(ValueError, match=r"held\[1\] is -inf; an infinite logit cannot be undone"):
        memory.corrected(x, np.array([0, -np.inf, 0]), np.zeros(3))
    with pytest.raises(ValueError, match=r"right\[2\] is nan; logits are finite, or -inf"):
        memory.corrected(x, np.zeros(3), np.array([0, 0, np.nan]))
    with pytest.raises(ValueError, match=r"held has shape \(2,\); must be \(3,\)"):
        memory.corrected(x, np.zeros(2), np.zeros(3))


def test_random_moves_make_the_linear_filter_wrong_by_more_than_a_tenth(float64):
    rng = np.random.default_rng(0)
    permutations = [np.eye(5)[rng.permutation(5)] for _ in range(2)]
    model = pomdp(permutations, rng)
    noisy = POMDP(
        [0.8 * P + 0.2 / 5 for P in permutations], model.emission[0], np.zeros(5), model.initial, discount=0.9
    )
    xs, starts = inputs(model, 100, rng), np.arange(100) == 0
    expected = np.exp(forward_algorithm(noisy, xs, starts))
    assert np.abs(beliefs(ExactLinearFilter(model), xs, starts) - expected).max() > 0.1


def test_the_linear_filters_refuse_models_they_are_wrong_for():
    rng = np.random.default_rng(1)
    merging = pomdp([[[0, 1], [0, 1]]], rng)
    with pytest.raises(ValueError, match=r"transition\[0\] is not a permutation"):
        ExactLinearFilter(merging)
    with pytest.raises(ValueError, match=r"transition\[0\] is not deterministic"):
        InitialStateFilter(pomdp([[[0.5, 0.5], [0, 1]]], rng))
    with pytest.raises(ValueError, match=r"emission\[0, 1, 0\] is 0"):
        AdaptiveLinearFilter(pomdp([np.eye(2)], rng, emission=[[0.5, 0.5], [0.0, 1.0]]), 0.1)
    with pytest.raises(ValueError, match=r"delta is 1.5"):
        AdaptiveLinearFilter(merging, 1.5)


def test_the_belief_is_what_enumerating_all_paths_gives(float64):
    rng = np.random.default_rng(2)
    model = pomdp(rng.dirichlet(np.ones(3), (2, 3)), rng, observations=4)
    steps = 6
    xs = inputs(model, steps, rng)
    o, a = np.asarray(xs.observation), np.asarray(xs.action)
    weight = np.zeros(3)
    for path in itertools.product(range(3), repeat=steps):
        p = model.initial[path[0]] * model.initial_emission[path[0], o[0]]
        for t in range(1, steps):
            p *= model.transition[a[t], path[t - 1], path[t]] * model.emission[a[t], path[t], o[t]]
        weight[path[-1]] += p
    got = beliefs(Belief(model), xs, np.arange(steps) == 0)[-1]
    np.testing.assert_allclose(got, weight / weight.sum(), rtol=1e-12)


@pytest.mark.parametrize("make", [Belief, lambda model: AdaptiveLinearFilter(model, 0.1), from_model])
def test_an_hmm_is_filtered_as_the_pomdp_of_one_action(make):
    rng = np.random.default_rng(3)
    model = HMM(rng.dirichlet(np.ones(3), 3), rng.dirichlet(np.ones(4), 3), rng.dirichlet(np.ones(3)))
    same = POMDP(model.transition[None], model.emission, np.zeros(3), model.initial, 1.0)
    xs = Inputs(jnp.array([0, 3, 1]), jnp.zeros(3, int), jnp.zeros(3))
    np.testing.assert_array_equal(*(beliefs(make(each), xs, np.arange(3) == 0) for each in (model, same)))
    with pytest.raises((TypeError, TypeCheckError), match=r"HMM.*POMDP"):
        make(3)
    memory, wrong = make(model), xs._replace(observation=jnp.array([0, 4, 1]))
    with pytest.raises(ValueError, match=r"observation\[1\] is 4; must be one of 0 \.\.\. 3"):
        memory.unroll(memory.init(), wrong, jnp.arange(3) == 0)
    with pytest.raises(ValueError, match=r"observation is -1; must be one of"):
        memory.step(memory.init(), Inputs(jnp.array(-1), jnp.array(0), jnp.array(0.0)), jnp.array(True))


@pytest.mark.parametrize("logits", [np.zeros((3, 3)), np.zeros(2), np.array([0.0, np.nan, 0.0])])
def test_first_logits_that_are_not_one_number_for_each_state_are_refused(logits):
    with pytest.raises(ValueError, match=r"initial_logits is .*each of 3 states"):
        AdaptiveLinearFilter(example_nearly_permuted(jax.random.key(0)), 0.1, logits)


def test_viterbi_finds_the_best_of_all_paths(float64):
    rng = np.random.default_rng(3)
    model = HMM(rng.dirichlet(np.ones(3), 3), rng.dirichlet(np.ones(4), 3), rng.dirichlet(np.ones(3)))
    o = rng.integers(0, 4, 7)

    def log_probability(path):
        p = np.log(model.initial[path[0]]) + np.log(model.emission[path, o]).sum()
        return p + np.log(model.transition[path[:-1], path[1:]]).sum()

    best = max((np.array(path) for path in itertools.product(range(3), repeat=7)), key=log_probability)
    np.testing.assert_array_equal(viterbi_path(model, jnp.asarray(o)), best)


def test_where_best_paths_tie_viterbi_takes_one_of_them(float64):
    swap = HMM([[0.0, 1.0], [1.0, 0.0]], np.full((2, 2), 0.5), [0.5, 0.5])
    np.testing.assert_array_equal(viterbi_path(swap, jnp.array([0, 1, 0, 1])), [1, 0, 1, 0])
    rng = np.random.default_rng(0)
    for _ in range(10):
        table = rng.integers(0, 3, (3, 3)) + np.eye(3)[rng.permutation(3)]
        model = HMM(table / table.sum(1, keepdims=True), np.full((3, 2), 0.5), np.full(3, 1 / 3))
        path = np.asarray(viterbi_path(model, jnp.zeros(5, int)))
        moves = lambda path: np.prod(model.transition[path[:-1], path[1:]])  # noqa: B023, E731
        best = max(moves(np.array(each)) for each in itertools.product(range(3), repeat=5))
        assert moves(path) == pytest.approx(best, rel=1e-12)


def test_a_sequence_that_no_path_explains_is_refused_at_the_step_where_that_shows():
    model = HMM(np.eye(3)[[1, 2, 0]], np.eye(3), [0.5, 0.5, 0.0])  # 0 -> 1 -> 2 -> 0, seen without error
    np.testing.assert_array_equal(viterbi_path(model, jnp.array([1, 2, 0, 1])), [1, 2, 0, 1])
    for observations, message in (
        ([2, 0], r"observations\[0\] is 2, which is impossible"),
        ([0, 1, 1, 2], r"observations\[2\] is 1, which is impossible after those before it"),
        ([0, 3], r"observations\[1\] is 3; must be one of 0 \.\.\. 2"),
        ([-1, 0], r"observations\[0\] is -1; must be one of 0 \.\.\. 2"),
    ):
        with pytest.raises(ValueError, match=message):
            viterbi_path(model, jnp.array(observations))
    decode = jax.jit(jax.vmap(lambda o: viterbi_path(model, o)))
    np.testing.assert_array_equal(decode(jnp.array([[0, 1], [1, 2]])), [[0, 1], [1, 2]])


def test_the_belief_stays_finite_and_right_over_a_hundred_thousand_steps_of_rare_observations():
    emission = np.array(
        [[1 - 1e-30, 1e-30], [1 - 3e-30, 3e-30]]
    )  # observation 1 is nearly impossible, 3 times less so
    model = POMDP([[[0.9, 0.1], [0.2, 0.8]]], emission, np.zeros(2), [0.5, 0.5], discount=0.9)
    steps = 100_000
    xs = Inputs(jnp.ones(steps, jnp.int32), jnp.zeros(steps, jnp.int32), jnp.zeros(steps))
    starts = np.arange(steps) == 0
    got = beliefs(Belief(model), xs, starts)
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, np.exp(forward_algorithm(model, xs, starts)), atol=1e-5)


@pytest.mark.parametrize("filter", [Belief, ExactLinearFilter, InitialStateFilter])
def test_after_an_impossible_observation_the_belief_goes_on_from_the_uniform_one(filter):
    model = POMDP([np.eye(2)], np.eye(2), np.zeros(2), [1.0, 0.0], discount=0.9)
    xs = Inputs(
        jnp.array([0, 1, 1]), jnp.zeros(3, jnp.int32), jnp.zeros(3)
    )  # state 0 never shows observation 1
    got = beliefs(filter(model), xs, np.array([True, False, False]))
    np.testing.assert_allclose(got, [[1, 0], [0.5, 0.5], [0, 1]])


EXACT = {
    Belief: [[0.2, 0.8, 0.0], [0.0, 0.5, 0.5], [1.0, 0.0, 0.0]],
    ExactLinearFilter: np.eye(3)[[1, 2, 0]],
    InitialStateFilter: np.eye(3)[[1, 2, 2]],
}
"""Each exact filter with moves that it is made for."""


def with_impossible_observations(filter, steps=60):
    """(model, random inputs, starts): each state shows two observations of three, so some are impossible."""
    rng = np.random.default_rng(7)
    emission = [[0.5, 0.5, 0.0], [0.0, 0.3, 0.7], [0.6, 0.0, 0.4]]
    model = POMDP([EXACT[filter], np.eye(3)], emission, np.zeros(3), [0.5, 0.5, 0.0], discount=0.9)
    return model, inputs(model, steps, rng), np.isin(np.arange(steps), [0, 40])


@pytest.mark.parametrize("filter", EXACT)
def test_an_exact_filter_is_bayes_and_its_numpy_twin_past_impossible_observations_too(filter):
    model, xs, starts = with_impossible_observations(filter)
    b, lost, expected = model.initial, [], []
    for t, (o, a) in enumerate(zip(*map(np.asarray, (xs.observation, xs.action)), strict=True)):
        joint = model.initial * model.initial_emission[:, o]
        if not starts[t]:
            joint = b @ model.transition[a] * model.emission[a, :, o]
        lost.append(joint.sum() == 0)
        b = np.full(3, 1 / 3) if lost[t] else joint / joint.sum()
        expected.append(b)
    assert 3 < sum(lost) < 40
    np.testing.assert_allclose(beliefs(filter(model), xs, starts), expected, atol=1e-6)

    twin = NumpyFilter.exact_linear if filter is ExactLinearFilter else NumpyFilter.belief
    numpy, got = twin(model), []
    for o, a, start in zip(*map(np.asarray, (xs.observation, xs.action)), starts, strict=True):
        if start:
            numpy.reset()
        got.append(numpy(o, a))
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("filter", EXACT)
def test_an_impossible_observation_cuts_the_derivative_and_leaves_it_finite(filter):
    model, xs, _ = with_impossible_observations(filter)
    memory, no_start = filter(model), jnp.zeros(len(xs.reward), bool)

    def said(logits, steps):
        state = (memory.init()[0], logits) if filter is InitialStateFilter else logits
        cut = jax.tree.map(lambda x: x[:steps], xs)
        return memory.unroll(state, cut, no_start[:steps])[1][-1] @ jnp.arange(3.0)

    slope = jax.jit(jax.grad(said), static_argnums=1)
    slopes = np.stack([slope(jnp.array([0.3, 0.0, -0.2]), steps) for steps in (1, len(xs.reward))])
    assert np.isfinite(slopes).all()
    assert slopes[0].any() and not slopes[1].any()


def test_transient_states_of_the_backbone_keep_their_place_in_the_adaptive_filter():
    rng = np.random.default_rng(4)
    chain = 0.9 * np.eye(3)[[1, 2, 1]] + 0.1 / 3  # 0 -> 1 <-> 2: state 0 is transient
    memory = AdaptiveLinearFilter(pomdp([chain], rng), delta=0.25)
    np.testing.assert_array_equal(memory.source[0], [0, 2, 1])

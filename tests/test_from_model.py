"""``from_model`` picks the filter that a model's transitions allow: Bayes' where that is promised."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linmem import (
    MEMORIES,
    POMDP,
    AdaptiveLinearFilter,
    Belief,
    ExactLinearFilter,
    InitialStateFilter,
    Inputs,
    analyse,
)
from linmem.memories import from_model
from linmem.worlds import TableWorld

PERMUTATIONS = np.eye(3)[[[1, 2, 0], [0, 2, 1]]]
MERGING = np.eye(3)[[[1, 2, 2], [0, 2, 1]]]
NEAR = (1 - 3e-5) * PERMUTATIONS + 1e-5
SPREAD = np.full((2, 3, 3), 1 / 3)
KINDS = [
    (PERMUTATIONS, ExactLinearFilter),
    (MERGING, InitialStateFilter),
    (NEAR, AdaptiveLinearFilter),
    (SPREAD, Belief),
]


def model(transition, zero=False):
    rng = np.random.default_rng(3)
    emission = rng.dirichlet(np.ones(4), 3)
    if zero:
        emission[1] = [0, 0.5, 0.3, 0.2]
    return POMDP(transition, emission, np.zeros(3), rng.dirichlet(np.ones(3)), discount=0.9)


def bayes(model, xs, starts):
    """Bayes' rule in probabilities, float64."""
    beliefs, b = [], model.initial
    for o, a, start in zip(*map(np.asarray, (xs.observation, xs.action)), starts, strict=True):
        b = (
            model.initial * model.initial_emission[:, o]
            if start
            else (b @ model.transition[a]) * model.emission[a, :, o]
        )
        b = b / b.sum()
        beliefs.append(b)
    return np.stack(beliefs)


def features(memory, model, steps=60):
    rng = np.random.default_rng(5)
    xs = Inputs(
        jnp.asarray(rng.integers(4, size=steps)), jnp.asarray(rng.integers(2, size=steps)), jnp.zeros(steps)
    )
    starts = np.arange(steps) % 23 == 0
    return np.asarray(eqx.filter_jit(memory.unroll)(memory.init(), xs, jnp.asarray(starts))[1]), bayes(
        model, xs, starts
    )


@pytest.mark.parametrize("transition, kind", KINDS)
def test_each_kind_of_model_gets_its_filter(transition, kind):
    assert type(from_model(model(transition))) is kind


@pytest.mark.parametrize("transition", [PERMUTATIONS, MERGING, SPREAD])
def test_the_chosen_filter_is_bayes_where_it_says_so(transition):
    found, right = features(from_model(model(transition)), model(transition))
    np.testing.assert_allclose(found, right, atol=1e-5)


def test_the_adaptive_filter_forgets_at_the_analysed_rate():
    near = model(NEAR)
    delta = analyse(near).recommended.delta
    assert float(from_model(near).gain[0]) == pytest.approx(delta)
    (found, _), (expected, _) = (
        features(from_model(near), near),
        features(AdaptiveLinearFilter(near, delta), near),
    )
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("transition, kind", [*KINDS[:2], (NEAR, Belief)])
def test_an_impossible_observation_keeps_the_exact_filters_and_forbids_the_adaptive_one(transition, kind):
    assert type(from_model(model(transition, zero=True))) is kind


def test_a_certificate_that_promises_nothing_gets_the_belief():
    loose = model(0.7 * PERMUTATIONS + 0.1)
    found = analyse(loose)
    assert found.recommended.filter == "adaptive linear" and found.certificates[0].vacuous
    assert type(from_model(loose)) is Belief


def test_a_transient_state_with_an_impossible_observation_gets_the_belief_though_the_theorem_holds():
    transition = (1 - 3e-5) * np.eye(3)[[[2, 0, 0]]] + 1e-5  # one action; state 1 is transient
    one = model(transition, zero=True)
    assert analyse(one).recommended.filter == "adaptive linear"
    assert type(from_model(one)) is Belief


def test_a_forgetting_rate_of_deep_alf_that_is_none_is_refused():
    with pytest.raises(ValueError, match="delta is 2"):
        MEMORIES["deep_alf@delta=2"].make(TableWorld(model(NEAR), 10), 0, jax.random.key(0))


def test_a_first_observation_that_is_impossible_somewhere_gets_the_belief():
    near = model(NEAR)
    first = np.eye(4)[[0, 1, 2]]
    known = POMDP(near.transition, near.emission, np.zeros(3), near.initial, 0.9, first)
    assert type(from_model(known)) is Belief


def test_rows_that_miss_1_by_rounding_are_still_sure_moves():
    rounded = model((1 - 1e-6) * PERMUTATIONS)
    assert type(from_model(rounded)) is ExactLinearFilter
    found, right = features(from_model(rounded), rounded)
    np.testing.assert_allclose(found, right, atol=1e-5)


def test_memory_auto_is_the_chosen_filter_of_the_worlds_tables():
    memory = MEMORIES["auto"].make(TableWorld(model(MERGING)), 8, jax.random.key(0))
    assert type(memory) is InitialStateFilter

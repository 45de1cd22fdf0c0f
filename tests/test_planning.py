"""Planning is compared with brute force: belief trees, all policies, and the chain followed step by step."""

import itertools
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import scipy.sparse as sp

from linmem.evidence.bench_solve import REFERENCES
from linmem.planning.alpha import AlphaPolicy, updated
from linmem.planning.bounds import blind, fib, qmdp
from linmem.planning.controllers import Controller, Evaluator, evaluate, reactive
from linmem.planning.incremental_pruning import incremental_pruning, undominated
from linmem.planning.mdp import optimal_action_values, policy_values, value_iteration
from linmem.planning.point_based import PointBasedSolver
from linmem.planning.reactive import best_deterministic, best_stochastic
from linmem.worlds.dotpomdp import loads
from linmem.worlds.model_files import read_model, shipped
from linmem.worlds.rules import Rules
from linmem.worlds.sparse import SparsePOMDP

SEEDS = range(4)


@cache
def random_model(seed: int, n=3, m=2, k=2, discount=0.4) -> SparsePOMDP:
    """Dirichlet rows with some zeros, an emission that depends on the action, a reward on everything."""
    rng = np.random.default_rng(seed)

    def rows(count, size):
        table = rng.dirichlet(np.ones(size), count)
        table[0] = np.eye(size)[rng.integers(size)]
        return sp.csr_array(table)

    index = np.array(list(itertools.product(range(m), range(n), range(n), range(k))), np.int32)
    return SparsePOMDP(
        tuple(rows(n, n) for _ in range(m)),
        tuple(rows(n, k) for _ in range(m)),
        Rules(index, rng.normal(size=len(index))),
        rng.dirichlet(np.ones(n)),
        discount,
    )


@cache
def arrays(model):
    """The tables as P(s', o | s, a) (m, n, n, k) and r(a, s)."""
    transition, emission = (
        np.stack([each.toarray() for each in table]) for table in (model.transition, model.emission)
    )
    return np.einsum("asr,aro->asro", transition, emission), model.expected_reward()


def tree_value(model, belief, horizon, choose=None):
    """The best value with ``horizon`` steps to go, or that of the actions that ``choose(belief)`` takes."""
    if horizon == 0:
        return 0.0
    step, rewards = arrays(model)
    values = []
    for a in range(model.n_actions) if choose is None else [choose(belief)]:
        value = rewards[a] @ belief
        for joint in np.tensordot(belief, step[a], 1).T:
            if joint.sum() > 0:
                value += (
                    model.discount * joint.sum() * tree_value(model, joint / joint.sum(), horizon - 1, choose)
                )
        values.append(value)
    return max(values)


def tail(model, horizon):
    return model.discount**horizon * np.abs(model.reward.value).max() / (1 - model.discount)


def followed(model, controller, steps=200):
    """The discounted return of a controller: the distribution of (node, state) carried forward in time."""
    at, total = np.outer(controller.initial, model.initial), 0.0
    rewards = model.expected_reward()
    for t in range(steps):
        following = np.zeros_like(at)
        for i, a in itertools.product(range(len(at)), range(model.n_actions)):
            weight = at[i] * controller.action[i, a]
            total += model.discount**t * weight @ rewards[a]
            reached = (weight @ model.transition[a])[:, None] * model.emission[a].toarray()
            for o in range(model.n_observations):
                following[controller.successor[i, o]] += reached[:, o]
        at = following
    return total


@pytest.mark.parametrize("seed", SEEDS)
def test_incremental_pruning_is_the_best_of_the_belief_tree(seed):
    model = random_model(seed)
    rng = np.random.default_rng(seed)
    for horizon in (1, 3):
        policy = incremental_pruning(model, horizon)
        for belief in [model.initial, *rng.dirichlet(np.ones(3), 3), np.eye(3)[1]]:
            assert policy.value(belief) == pytest.approx(tree_value(model, belief, horizon))


def test_pruning_keeps_what_is_best_somewhere_and_nothing_else():
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.normal(size=(30, 3)), rng.normal(size=(5, 3)).repeat(2, axis=0)])
    grid = np.array([(i, j, 100 - i - j) for i in range(101) for j in range(101 - i)]) / 100
    kept = undominated(vectors)
    assert np.allclose((grid @ vectors[kept].T).max(axis=1), (grid @ vectors.T).max(axis=1))
    for i in kept:
        others = [j for j in kept if j != i]
        assert ((grid @ vectors[i]) > (grid @ vectors[others].T).max(axis=1)).any()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_bounds_of_the_solver_bracket_the_belief_tree_and_meet(seed):
    model, horizon = random_model(seed), 6
    value, slack = tree_value(model, model.initial, horizon), tail(model, horizon)
    seen = list(PointBasedSolver(model).solve(1e-5))
    for bounds in seen:
        assert bounds.lower <= value + slack and bounds.upper >= value - slack
    lowers, uppers = [b.lower for b in seen], [b.upper for b in seen]
    assert lowers == sorted(lowers) and uppers == sorted(uppers, reverse=True)
    assert seen[-1].relative_gap <= 1e-5


@pytest.mark.parametrize("seed", SEEDS)
def test_the_policy_earns_its_lower_bound(seed):
    model, horizon = random_model(seed), 6
    solver = PointBasedSolver(model)
    *_, bounds = solver.solve(0.01)
    earned = tree_value(model, model.initial, horizon, solver.policy().act)
    assert earned >= bounds.lower - tail(model, horizon)
    assert solver.policy().value(model.initial) == pytest.approx(bounds.lower, abs=1e-9)


def test_probabilities_too_small_to_divide_by_leave_both_bounds_sound_and_meeting():
    model, horizon = random_model(0), 6
    tiny = sp.csr_array([[1.0, 1e-310], [1e-305, 1.0], [0.3, 0.7]])
    model = replace(model, emission=(tiny, model.emission[1]))
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        *_, bounds = PointBasedSolver(model).solve(1e-5)
    value, slack = tree_value(model, model.initial, horizon), tail(model, horizon)
    assert bounds.relative_gap <= 1e-5
    assert bounds.lower - slack <= value <= bounds.upper + slack


@pytest.mark.parametrize("seed", SEEDS)
def test_simple_bounds_stand_in_their_order(seed):
    model = random_model(seed)
    at = model.initial
    *_, bounds = PointBasedSolver(model).solve(1e-5)
    values = [(vectors @ at).max() for vectors in (blind(model), fib(model), qmdp(model))]
    assert values[0] <= bounds.upper and bounds.lower <= values[1] <= values[2] + 1e-9
    assert (fib(model) <= qmdp(model) + 1e-9).all()


def test_fib_is_the_fixed_point_of_its_equation():
    model = random_model(1, n=4, m=3, k=2)
    q = fib(model, tolerance=1e-10)
    best = np.einsum("asro,br->asob", arrays(model)[0], q).max(-1).sum(-1)
    assert np.allclose(q, model.expected_reward() + model.discount * best, atol=1e-7)


def test_policy_iteration_value_iteration_and_evaluation_agree():
    model = random_model(2, n=4, m=3)
    q = optimal_action_values(model)
    assert np.allclose(value_iteration(model, 80), q)
    assert np.allclose(policy_values(model, q.argmax(axis=0)), q.max(axis=0))
    assert np.allclose(blind(model)[1], policy_values(model, np.full(4, 1)))


TO_AND_FRO = """
discount: {discount}
states: 2
actions: 2
observations: 2
start: 0
T: 0 : 0 : 0 1
T: 1 : 0 : 1 1
T: 0 : 1 : 0 1
T: 1 : 1 : 1 1
O: * : 0 : 0 1
O: * : 1 : 1 1
R: 0 : 0 : * : * {stay}
R: 1 : 0 : * : * {go}
R: 0 : 1 : * : * {back}
"""


@pytest.mark.parametrize("size", [1.0, 1e-9])
@pytest.mark.parametrize("discount", [0.0, 0.9, 0.9999999])
def test_bounds_hold_whatever_the_discount_and_the_size_of_rewards(discount, size):
    # to and fro earns 0.99 and 1.015 in turn, 0.0025 a step more than staying: little beside values near 1e7
    rewards = {"stay": size, "go": 0.99 * size, "back": 1.015 * size}
    model = loads(TO_AND_FRO.format(discount=discount, **rewards))
    policies = [policy_values(model, np.array(actions)) for actions in itertools.product((0, 1), repeat=2)]
    best = np.max(policies, axis=0)
    np.testing.assert_allclose(optimal_action_values(model).max(axis=0), best, rtol=1e-12)
    bounds = next(PointBasedSolver(model).solve(1e-5))
    assert bounds.lower <= best[0] * (1 + 1e-12) and best[0] <= bounds.upper  # every state is seen


def test_without_a_future_the_best_guess_is_all():
    text = "discount: 0\nstates: 2\nactions: 2\nobservations: 2\nT: * uniform\nO: * uniform\n"
    model = loads(text + "R: 0 : 0 : * : * 1\nR: 1 : 1 : * : * 1\n")
    solver = PointBasedSolver(model)
    assert solver.bounds().relative_gap > 0
    list(solver._trial(target=0.0))
    assert solver.bounds().lower == 0.5 and solver.bounds().upper == pytest.approx(0.5)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_controller_is_worth_what_following_it_earns(seed):
    model, rng = random_model(seed), np.random.default_rng(seed)
    controller = Controller(
        rng.dirichlet(np.ones(2), 4), rng.integers(0, 4, (4, 2)), rng.dirichlet(np.ones(4))
    )
    assert evaluate(model, controller) == pytest.approx(followed(model, controller))


def test_the_gradient_of_a_controller_is_that_of_finite_differences():
    model, rng = random_model(0), np.random.default_rng(0)
    action, successor, initial = (
        rng.dirichlet(np.ones(2), 3),
        rng.integers(0, 3, (3, 2)),
        rng.dirichlet(np.ones(3)),
    )
    evaluator = Evaluator(model, successor)
    _, _, gradient = evaluator.solve(action, initial)
    for place in np.ndindex(*action.shape):
        step = np.zeros_like(action)
        step[place] = 1e-6
        slope = (
            evaluator.solve(action + step, initial)[0] - evaluator.solve(action - step, initial)[0]
        ) / 2e-6
        assert gradient[place] == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize("first", [None, np.array([0.3, 0.5, 0.2])], ids=["free", "given"])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_best_deterministic_reactive_policy_is_the_best_of_all(seed, first):
    model = random_model(seed, n=4, m=2, k=3, discount=0.9)
    q = 3 if first is not None else 4
    everyone = [
        evaluate(model, reactive(np.eye(2)[list(choice)], first))
        for choice in itertools.product((0, 1), repeat=q)
    ]
    found = best_deterministic(model, first)
    assert found.proven and found.value == pytest.approx(max(everyone))
    assert evaluate(model, found.controller) == pytest.approx(found.value)
    stopped = best_deterministic(model, first, nodes=2)
    assert stopped.value <= max(everyone) + 1e-9 <= stopped.upper + 2e-9


@pytest.mark.parametrize("unit", [1e-9, 1e9])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_unit_of_rewards_changes_no_plan(seed, unit):
    model = random_model(seed, n=4, m=2, k=3, discount=0.9)
    scaled = replace(model, reward=Rules(model.reward.index, unit * model.reward.value))
    one, other = best_deterministic(model), best_deterministic(scaled)
    assert other.proven and other.value == pytest.approx(unit * one.value, rel=1e-9, abs=0)
    np.testing.assert_array_equal(one.controller.action, other.controller.action)
    exact, same = incremental_pruning(model, 3), incremental_pruning(scaled, 3)
    np.testing.assert_array_equal(exact.actions, same.actions)
    np.testing.assert_allclose(unit * exact.vectors, same.vectors)


def test_chance_helps_who_cannot_see():
    # Two states that look alike: in each one action pays and changes sides, the other one costs and stays.
    alike = """discount: 0.9
    values: reward
    states: 2
    actions: 2
    observations: 1
    T: 0 0 1 0 1
    T: 1 1 0 1 0
    O: * uniform
    R: 0 : 0 : * : * 1
    R: 1 : 1 : * : * 1
    R: 0 : 1 : * : * -1
    R: 1 : 0 : * : * -1
    """
    model = loads(alike)
    deterministic, chance = best_deterministic(model), best_stochastic(model, starts=3)
    # The first action earns 0 and leads to a known state; the other one then earns 1 once, and costs 1 ever
    # after.
    assert deterministic.value == pytest.approx(0.9 * (1 - 0.9 / 0.1))
    # From there on a coin of bias d earns d (0.1 - 0.9 d) / 0.1, at most 1/36.
    assert chance.value == pytest.approx(0.9 / 36, abs=1e-5)


def test_impossible_observations_are_refused():
    model = read_model("tmaze-5.POMDP")
    with pytest.raises(ValueError, match="probability 0"):
        updated(model, model.initial, 2, 0)


def test_undiscounted_problems_are_refused():
    model = loads("discount: 1 states: 1 actions: 1 observations: 1 T: * identity O: * uniform")
    with pytest.raises(ValueError, match="discount is 1"):
        PointBasedSolver(model)


def test_alpha_vectors_act_by_the_best_of_them():
    policy = AlphaPolicy(np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([3, 5]))
    assert (policy.act(np.array([0.9, 0.1])), policy.act(np.array([0.5, 0.5]))) == (3, 5)


HARD = ("network.POMDP",)  # takes a minute


@pytest.mark.parametrize(
    "reference", [r for r in REFERENCES if r.shipped in shipped() and r.shipped not in HARD]
)
def test_classic_problems_are_solved_to_one_percent_around_their_known_values(reference):
    *_, bounds = PointBasedSolver(read_model(reference.shipped)).solve(0.01)
    digits = 2e-6 * abs(reference.upper)  # those of the reference
    assert bounds.lower <= reference.upper + digits and bounds.upper >= reference.lower - digits
    assert bounds.relative_gap <= 0.01


# Computed by exact value iteration in another program (pomdp-solve).
@pytest.mark.parametrize(
    ("name", "horizon", "value"),
    [("tiger.POMDP", 3, 2.3098), ("cheese.POMDP", 5, 0.60833012), ("paint.POMDP", 3, 0.3954375)],
)
def test_finite_horizon_values_are_the_known_ones(name, horizon, value):
    model = read_model(name)
    assert incremental_pruning(model, horizon).value(model.initial) == pytest.approx(value, abs=1e-7)

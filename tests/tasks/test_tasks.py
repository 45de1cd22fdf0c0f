"""Labels are what an independent simulator in plain Python says, and padding is where it should be."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linmem.tasks import (
    TASKS,
    AssociativeRecall,
    Automaton,
    BracketArithmetic,
    Induction,
    ModularArithmetic,
    SelectiveCopying,
    random_automaton,
)
from linmem.tasks.groups import alternating, cyclic, symmetric

BATCH, LENGTH, SHORTEST = 50, 23, 9


@eqx.filter_jit
def sample(task, key, batch, length, shortest=None):
    return task.sample(key, batch, length, shortest)


def drawn(task, shortest=SHORTEST):
    """Sequences of different lengths: lists of (tokens, targets, mask) cut to their own lengths."""
    tokens, targets, mask = map(np.asarray, sample(task, jax.random.key(0), BATCH, LENGTH, shortest))
    return list(zip(tokens.tolist(), targets.tolist(), mask.tolist(), strict=True))


def scored(name, shortest=SHORTEST):
    """(prefix, target) of every scored position."""
    for tokens, targets, mask in drawn(TASKS[name].make(), shortest):
        for t in np.flatnonzero(mask):
            yield tokens[: t + 1], targets[t]


def test_parity_is_the_sum_of_the_bits_modulo_two():
    assert all(target == sum(prefix) % 2 for prefix, target in scored("parity"))


def test_even_pairs_counts_the_changes():
    for prefix, target in scored("even_pairs"):
        changes = sum(a != b for a, b in itertools.pairwise(prefix))
        assert target == (changes % 2 == 0)


def test_cycle_navigation_adds_the_steps():
    for prefix, target in scored("cycle_navigation"):
        assert target == sum({0: 0, 1: 1, 2: -1}[token] for token in prefix) % 5


@pytest.mark.parametrize(
    "name, group, order",
    [
        ("z3", cyclic(3), 3),
        ("z5", cyclic(5), 5),
        ("s3", symmetric(3), 6),
        ("a4", alternating(4), 12),
        ("s4", symmetric(4), 24),
        ("a5", alternating(5), 60),
        ("s5", symmetric(5), 120),
    ],
)
def test_word_problems_multiply_permutation_matrices(name, group, order):
    assert len(set(group)) == order
    task = TASKS[f"word_{name}"].make()
    assert (task.n_tokens, task.n_targets) == (order, order)
    matrices = [np.eye(len(p), dtype=int)[list(p)] for p in group]
    for prefix, target in list(scored(f"word_{name}"))[::7]:
        product = np.eye(len(group[0]), dtype=int)
        for token in prefix:
            product = product @ matrices[token]
        np.testing.assert_array_equal(product, matrices[target])


def test_alternating_groups_hold_the_even_permutations_only():
    for p in alternating(5):
        assert np.linalg.det(np.eye(5)[list(p)]) == pytest.approx(1)


def test_an_automaton_has_a_label_for_every_state():
    assert Automaton(np.array([[1, 2, 0]]), np.array([0, 1, 1])).n_targets == 2
    for reading in ([0, 1], [0, 1, -1]):
        with pytest.raises(ValueError, match=r"reading is \[0, 1.*of each of 3 states"):
            Automaton(np.array([[1, 2, 0]]), np.array(reading))


def test_random_automata_are_simulated_and_reach_every_state():
    for commutative in (False, True):
        task = random_automaton(3, states=5, tokens=3, commutative=commutative)
        table = task.transition
        for tokens, targets, _ in drawn(task, LENGTH):
            state = 0
            for token, target in zip(tokens, targets, strict=True):
                state = table[token][state]
                assert target == state
        commutes = all((p[q] == q[p]).all() for p in table for q in table)
        assert commutes == commutative
        assert {t for _, targets, _ in drawn(task, LENGTH) for t in targets} == set(range(5))


def text(tokens, modulus=5):
    signs = "+-*()"
    return "".join(str(t) if t < modulus else signs[t - modulus] for t in tokens)


def test_modular_arithmetic_is_what_python_evaluates():
    seen = set()
    for prefix, target in scored("modular_arithmetic"):
        assert target == eval(text(prefix)) % 5
        seen.add(text(prefix[-2:-1]))
    assert seen == {"", "+", "-", "*"}


@pytest.mark.parametrize("length", [1, 4, 5, 23])
def test_bracket_arithmetic_is_what_python_evaluates_at_every_length(length):
    task = BracketArithmetic()
    tokens, targets, mask = map(np.asarray, sample(task, jax.random.key(length), BATCH, length))
    assert (mask == (np.arange(length) == length - 1)).all()
    for row, target in zip(tokens, targets[:, -1], strict=True):
        assert target == eval(text(row)) % 5
    assert len({text(row) for row in tokens}) > 4


def test_bracket_arithmetic_of_mixed_lengths_is_scored_at_the_last_token_before_the_padding():
    for tokens, targets, mask in drawn(BracketArithmetic(), 1):
        (last,) = np.flatnonzero(mask)
        assert targets[last] == eval(text(tokens[: last + 1])) % 5
        assert not any(tokens[last + 1 :])


def test_recall_asks_for_the_value_that_stood_beside_the_key():
    task = AssociativeRecall(pairs=3, keys=7, values=5)
    asked = 0
    for tokens, targets, mask in drawn(task):
        pairs = dict(itertools.batched(tokens[:6], 2)) if hasattr(itertools, "batched") else {}
        pairs = pairs or dict(zip(tokens[:6:2], tokens[1:6:2], strict=True))
        assert len(pairs) == 3
        for t, (token, target) in enumerate(zip(tokens, targets, strict=True)):
            assert mask[t] == (t >= 6 and token > 0)
            if mask[t]:
                asked += 1
                assert target == pairs[token] - 8
    assert asked > BATCH


def test_selective_copying_gives_the_items_back_in_order():
    task = SelectiveCopying(items=3, kinds=5)
    places = set()
    for tokens, targets, mask in drawn(task):
        own = max(np.flatnonzero(mask)) + 1
        items = [(t, token - 2) for t, token in enumerate(tokens) if token > 1]
        assert tokens[own - 3 : own] == [1, 1, 1] and tokens.count(1) == 3 == sum(mask)
        assert [target for target, m in zip(targets, mask, strict=True) if m] == [kind for _, kind in items]
        places.update(t for t, _ in items)
    assert places >= set(range(SHORTEST - 3))


def test_induction_asks_for_the_token_after_the_first_sign():
    task = Induction(kinds=5)
    for tokens, targets, mask in drawn(task):
        (last,) = np.flatnonzero(mask)
        assert tokens[last] == 0 and tokens[: last + 1].count(0) == 2
        assert targets[last] == tokens[tokens.index(0) + 1] - 1


every_task = pytest.mark.parametrize("name", TASKS.names())


@every_task
def test_every_task_keeps_its_ranges_and_pads_with_unscored_zeros(name):
    task = TASKS[name].make()
    lengths = set()
    for tokens, targets, mask in drawn(task, max(SHORTEST, task.shortest)):
        assert 0 <= min(tokens) and max(tokens) < task.n_tokens
        assert 0 <= min(targets) and max(targets) < task.n_targets
        assert all(m or target == 0 for m, target in zip(mask, targets, strict=True))
        lengths.add(max(np.flatnonzero(mask), default=0))
    assert len(lengths) > 4  # lengths do differ


@every_task
def test_one_key_gives_one_batch_and_another_key_another(name):
    task = TASKS[name].make()
    one, same, other = (sample(task, jax.random.key(k), BATCH, LENGTH, 19) for k in (1, 1, 2))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, one, same))
    assert not jnp.array_equal(one.tokens, other.tokens)


def test_impossible_lengths_are_refused_with_the_shortest_possible_one():
    with pytest.raises(ValueError, match="at least 9 tokens"):
        AssociativeRecall().sample(jax.random.key(0), 1, 8)
    with pytest.raises(ValueError, match="must not exceed"):
        ModularArithmetic().sample(jax.random.key(0), 1, 8, 9)

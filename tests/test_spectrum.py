"""Learned modes beside those of the exact filter."""

import itertools

import equinox as eqx
import jax
import numpy as np
import pytest

from linmem.measures.spectrum import angular_distance, chance_distance, eigenvalues, theoretical
from linmem.memories import MEMORIES
from linmem.worlds import POMDP, WORLDS

RING = WORLDS["ringworld"].make()


def made(name, world=RING):
    return MEMORIES[name].make(world, 6, jax.random.key(0))


def turns(angles):
    return np.exp(1j * np.atleast_2d(angles))


def test_the_angle_between_spectra_is_that_of_the_best_pairing():
    rng = np.random.default_rng(0)
    learned, theory = rng.uniform(-np.pi, np.pi, (2, 3)), rng.uniform(-np.pi, np.pi, (2, 4))
    best = min(
        np.mean([np.abs(np.angle(np.exp(1j * (learned[:, i] - theory[:, j])))) for i, j in enumerate(chosen)])
        for chosen in itertools.permutations(range(4), 3)
    )
    assert angular_distance(turns(learned), turns(theory)) == pytest.approx(best)


def test_the_moduli_of_eigenvalues_do_not_count_as_angles():
    theory = turns([0.0, 1.0, 2.0])
    assert angular_distance(0.3 * theory[:, ::-1], theory) == pytest.approx(0, abs=1e-7)


def test_the_modes_of_the_ring_are_roots_of_unity_and_each_action_turns_them_by_its_steps():
    modes = theoretical(RING.tables())
    first = modes[0]  # CW1
    order = np.rint(np.angle(first) * 12 / (2 * np.pi)).astype(int) % 12
    assert sorted(order) == list(range(12)) and np.allclose(first**12, 1)
    for action, steps in enumerate((1, 2, -1, -2)):
        np.testing.assert_allclose(modes[action], first**steps, atol=1e-10)


def test_deep_alf_begun_well_turns_with_the_ring_and_a_turned_mode_is_seen():
    memory, theory = made("deep_alf@delta=0.2"), theoretical(RING.tables())
    found = eigenvalues(memory, RING.tables())
    assert angular_distance(found, theory) < 1e-5
    np.testing.assert_allclose(np.abs(found), 0.8, atol=1e-5)
    turned = eqx.tree_at(lambda m: m.angle, memory, memory.angle.at[:, 5].add(0.06))
    assert angular_distance(eigenvalues(turned, RING.tables()), theory) == pytest.approx(0.06 / 12, abs=1e-5)


def test_eigenvalues_of_deep_alf_are_those_of_its_matrices():
    memory = made("deep_alf_random")
    V = np.asarray(memory.v_real) + 1j * np.asarray(memory.v_imag)
    delta = float(jax.nn.sigmoid(memory.delta_logit))
    for angle, found in zip(np.asarray(memory.angle), eigenvalues(memory, RING.tables()), strict=True):
        dense = (1 - delta) * V @ np.diag(np.exp(1j * angle)) @ np.linalg.inv(V)
        expected = np.linalg.eigvals(dense)
        assert max(np.abs(expected - value).min() for value in found) < 1e-4


def test_a_layer_inside_encoder_and_block_gives_both_of_each_conjugate_pair():
    memory = made("s5")
    layer = memory.memory.memory
    pole = np.asarray(layer.decay.rate(layer.weight)) + 1j * np.asarray(layer.frequency)
    half = np.exp(pole * np.exp(np.asarray(layer.log_step)))
    np.testing.assert_allclose(eigenvalues(memory, RING.tables()), [[*half, *half.conj()]], rtol=1e-5)


@pytest.mark.parametrize("name", ["gru", "belief", "alf", "none"])
def test_a_memory_without_fixed_diagonal_modes_has_no_spectrum(name):
    assert eigenvalues(made(name), RING.tables()) is None


def test_backbones_that_do_not_commute_have_no_joint_spectrum():
    swap, cycle = np.eye(3)[[1, 0, 2]], np.eye(3)[[1, 2, 0]]
    assert theoretical(POMDP([swap, cycle], np.eye(3), np.zeros(3), np.ones(3) / 3, 0.9)) is None


def test_random_turns_are_nearer_to_many_modes_than_to_few():
    many, few = theoretical(RING.tables())[:1], turns([0.0, np.pi])
    assert 0 < chance_distance(1, many) == pytest.approx(np.pi / 24, rel=0.2)  # uniform within +-pi/12
    assert chance_distance(1, few) == pytest.approx(np.pi / 4, rel=0.2)

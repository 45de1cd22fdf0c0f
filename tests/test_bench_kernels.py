"""What `linmem bench kernels` measures, of which layers, and how it is judged."""

import equinox as eqx
import jax
import numpy as np
import pytest

from linmem.core.chunked.kernel import walk
from linmem.evidence import bench_kernels
from linmem.memories import learned_layers
from linmem.memories.matrix_memory import AbstractMatrixMemory


@pytest.fixture
def small(monkeypatch):
    """Nothing is timed, and sizes are small."""
    for name, value in {"BATCH": 2, "STEPS": 4, "SIZE": 8, "LONG": 8}.items():
        monkeypatch.setattr(bench_kernels, name, value)
    monkeypatch.setattr(bench_kernels, "medians", lambda programs, repeats: dict.fromkeys(programs, 1.0))


def test_every_learned_layer_acts_and_the_slowest_is_judged(small, monkeypatch):
    rates = iter(range(4000, 0, -1))
    monkeypatch.setattr(bench_kernels, "_acting", lambda memory: next(rates))
    found = bench_kernels._layers(("acting",), 1)
    assert [row["layer"] for row in found.rows] == list(learned_layers())
    (target,) = found.targets
    last = 4000 - len(learned_layers()) + 1
    assert target.measured == f"{last:,} steps/s (hiss)" and target.holds
    assert [t.holds for t in bench_kernels._targets([{"layer": "s5", "steps_per_second": 2999}])] == [False]


def test_the_layers_that_are_held_to_a_floor_are_those_with_a_matrix_state():
    forms = {
        name: eqx.filter_eval_shape(lambda key, layer=layer: layer(8, key), jax.random.key(0))
        for name, layer in learned_layers().items()
    }
    assert {n for n, form in forms.items() if isinstance(form, AbstractMatrixMemory)} == set(
        bench_kernels.CHUNKED
    )
    assert set(bench_kernels.GROWING) <= set(forms)


def test_growth_is_time_a_step_of_a_long_sequence_over_that_of_a_short_one_and_memory_over_inputs(
    small, monkeypatch
):
    monkeypatch.setattr(bench_kernels, "medians", lambda programs, repeats: {"4": 1.0, "8": 3.0})
    found = bench_kernels._growth(learned_layers()["s7"](8, jax.random.key(0)), 1)
    assert found["long_over_short"] == 1.5 and found["memory"] > 0


def test_a_baseline_has_the_derivatives_of_the_layer_that_it_is_compared_with(small):
    memory = learned_layers()["deltanet"](8, jax.random.key(0))
    for run in (walk, bench_kernels.dense_associative):
        results = []
        for how in (None, run):
            program, arguments = bench_kernels._ours(memory, 2, 4, how)
            results.append(jax.tree.leaves(jax.jit(program)(*arguments)))
        for ours, theirs in zip(*results, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


def test_where_memax_is_absent_the_comparison_is_left_out_with_a_note(small, monkeypatch):
    def absent(size, state):
        raise ImportError("No module named 'memax'")

    monkeypatch.setattr(bench_kernels, "memax_deltanet", absent)
    monkeypatch.setattr(bench_kernels, "_BASELINES", bench_kernels._BASELINES[-2:])
    found, notes = bench_kernels._speedups(1)
    assert not found
    assert notes[0] == "DeltaNet over memax's, 64 x 64: left out, No module named 'memax'"

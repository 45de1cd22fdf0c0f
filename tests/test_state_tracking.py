"""The state-tracking command judges its rows as stated, and goes on where it stopped."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Int

from linmem.agents.policy import ActorCritic
from linmem.core.registry import UnknownName, options
from linmem.evidence import parity_rl, state_tracking
from linmem.evidence.state_tracking import (
    LAYERS,
    PUBLISHED,
    ROWS,
    TASK_MAKERS,
    Row,
    a5_generators,
    iterations_target,
    main,
    model_of,
    run_rows,
    table_of,
    targets_of,
)
from linmem.memories import MEMORIES
from linmem.memories.base import AbstractMemory
from linmem.memories.sd_ssm import SDSSM
from linmem.memories.stack import Residual
from linmem.worlds.spaces import Discrete

CAN, CANNOT, OPEN = (
    Row("parity", "Mamba [-1,1]", 1, True),
    Row("parity", "Mamba [0,1]", 1, False),
    Row("parity", "S5", 1, None),
)


def record(row, to_256):
    settings = {
        "task": row.task,
        "layer": row.layer,
        "depth": row.depth,
        "steps": row.steps,
        "train": row.train,
    }
    scores = {"trained": [1.0, 1.0], "to_256": to_256, "to_512": to_256}
    return settings | scores | {"steps_used": 10, "cpu_seconds": 1.0, "loss": [0.1, 0.1]}


def test_a_row_that_should_solve_is_judged_by_its_best_seed():
    (target,) = targets_of([CAN], [record(CAN, [0.2, 0.99])])
    assert target.holds and "best 0.990, median 0.595" in target.measured
    (target,) = targets_of([CAN], [record(CAN, [0.2, 0.9])])
    assert not target.holds


def test_that_a_model_diverged_does_not_show_that_its_layer_cannot():
    (target,) = targets_of([CANNOT], [record(CANNOT, [0.0, 0.0]) | {"loss": [0.1, float("nan")]}])
    assert not target.holds and target.measured.endswith("diverged")


def test_a_row_that_should_fail_is_judged_by_its_best_seed_too():
    assert targets_of([CANNOT], [record(CANNOT, [0.1, 0.3])])[0].holds
    assert not targets_of([CANNOT], [record(CANNOT, [0.1, 0.7])])[0].holds


def test_a_row_left_out_is_a_missed_target_and_a_row_without_claim_is_none():
    (target,) = targets_of([CAN, OPEN], [])
    assert not target.holds and "not run" in target.measured


def test_sd_ssm_stands_alone_as_in_its_paper_and_other_layers_in_a_residual_block():
    task = TASK_MAKERS["parity"]()
    rows = [Row("parity", layer, 1, None) for layer in ("SD-SSM", "S5")]
    blocks = [type(model_of(row, task, jax.random.key(0)).blocks[0]) for row in rows]
    assert blocks == [SDSSM, Residual]


def test_iterations_must_raise_the_accuracy_every_time_and_all_be_run():
    def records(*trained):
        layers = ("Fixed-point RNN, 1", "Fixed-point RNN, 4", "Fixed-point RNN, 8")
        return [{"layer": l, "trained": [t]} for l, t in zip(layers, trained, strict=False)]

    assert iterations_target(records(0.2, 0.4, 0.5)).holds
    assert not iterations_target(records(0.2, 0.5, 0.4)).holds
    assert not iterations_target(records(0.2, 0.4)).holds
    assert "not run" in iterations_target([]).measured


def test_finished_rows_are_not_run_again_and_none_begins_after_the_time(tmp_path, monkeypatch):
    ran = []

    def train_and_test(row, seeds, seed):
        ran.append(row)
        return record(row, [1.0])

    monkeypatch.setattr(state_tracking, "train_and_test", train_and_test)
    first = list(run_rows([CAN, CANNOT], tmp_path, 1, 0, 60.0))
    again = list(run_rows([CAN, CANNOT, OPEN], tmp_path, 1, 0, -1.0))
    assert ran == [CAN, CANNOT] and again == first
    assert (
        len(list(run_rows([CAN], tmp_path, 2, 0, 60.0))) == 1 and len(ran) == 3
    )  # other seeds are another row


def test_every_row_names_a_known_task_and_layer_once():
    assert len(set(ROWS)) == len(ROWS)
    for row in ROWS:
        assert row.task in TASK_MAKERS and row.layer in LAYERS
    for task, layer in PUBLISHED:
        assert task in TASK_MAKERS and layer in LAYERS


def test_the_published_figure_stands_beside_ours():
    table = table_of([record(CAN, [0.5, 1.0])])
    assert table.rows[0][4] == "0.750 / 1.000" and table.rows[0][6] == "1.000"


def test_two_generators_reach_all_of_a5():
    assert (a5_generators().n_tokens, a5_generators().n_targets) == (2, 60)


def test_unknown_rows_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"rows: Mamba \[-1,1\], 1 layer, on parity"):
        main(only="nothing")


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_fits_the_width_of_the_models(name):
    layer = jax.eval_shape(lambda key: LAYERS[name](state_tracking.WIDTH, key), jax.random.key(0))
    assert layer.out_size == state_tracking.WIDTH


def test_lengths_at_which_a_task_asks_for_nothing_do_not_spoil_the_score(monkeypatch):
    """Arithmetic has no label after an operator."""
    for name, small in {"WIDTH": 8, "BATCH": 4, "LONG": 258, "TEST_BATCH": 4, "CHUNK": 51}.items():
        monkeypatch.setattr(state_tracking, name, small)
    row = Row("modular arithmetic", "SLiCE diagonal", 1, None, steps=51, train=7, anneal=True)
    record = state_tracking.train_and_test(row, seeds=2, seed=0)
    for part in ("trained", "to_256", "to_512"):
        assert len(record[part]) == 2
        assert np.isfinite(record[part]).all()
        assert (np.abs(record[part]) <= 1).all()


def parity_trained(without, with_negative, ran):
    """In the place of training: the best of two seeds is as said, but layers other than mamba do as they
    should."""

    def train(layer, eigenvalues, step_size, steps, seeds, seed):
        ran.append((layer, eigenvalues))
        best = {"[0,1]": 0.0, "[-1,1]": 1.0}[eigenvalues]
        if layer == "mamba":
            best = {"[0,1]": without, "[-1,1]": with_negative}[eigenvalues]
        curve = np.outer((best, 0.1), np.arange(1, parity_rl.CALLS + 1) / parity_rl.CALLS)
        row = {"layer": layer, "eigenvalues": eigenvalues, "seeds": seeds, "steps": steps, "cpu_seconds": 1.0}
        # in training all do well: judged is what they do in long episodes
        return row | {"reward": [1.0, 1.0], "longer": [best, 0.1], "curve": curve.tolist()}

    return train


@pytest.mark.parametrize(
    ("without", "with_negative", "code"), [(0.2, 0.95, 0), (0.3, 0.95, 1), (0.2, 0.8, 1)]
)
def test_parity_rl_judges_each_layer_by_its_best_seeds_and_draws_every_seed(
    tmp_path, monkeypatch, without, with_negative, code
):
    monkeypatch.setattr(parity_rl, "train", parity_trained(without, with_negative, []))
    assert parity_rl.main(layers=("gla", "mamba"), out=tmp_path) == code
    page = (tmp_path / "parity.html").read_text()
    for layer, name, best in (
        ("mamba", "[0,1]", without),
        ("mamba", "[-1,1]", with_negative),
        ("gla", "[-1,1]", 1.0),
    ):
        assert f"{layer}, reward per step on the parity world" in page
        assert f"with eigenvalues in {name} the seeds end at 1.000, 1.000 and earn {best:.3f}, 0.100" in page


def test_parity_rl_keeps_finished_rows_and_trains_only_the_others(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(parity_rl, "train", parity_trained(0.2, 0.95, ran))
    parity_rl.main(layers=("mamba",), out=tmp_path)
    parity_rl.main(layers=("mamba", "mlstm"), out=tmp_path)
    assert ran == [(layer, eigenvalues) for layer in ("mamba", "mlstm") for eigenvalues in parity_rl.RANGES]


def test_parity_rl_refuses_a_layer_with_one_range_and_names_those_with_both():
    with pytest.raises(UnknownName, match="no layer 's5' has both ranges; those that do: mamba, mamba2, gla"):
        parity_rl.main(layers=("mamba", "s5"))


def test_parity_rl_trains_every_layer_that_has_both_ranges():
    both = {name for name in MEMORIES.names() if "negative_eigenvalues" in options(MEMORIES[name])}
    assert set(parity_rl.NAMES) == both
    assert all(f"{name} {r}" in LAYERS for name in parity_rl.NAMES.values() for r in parity_rl.RANGES)


class Counting(AbstractMemory):
    """Scripted: 1 or -1 for the bit of the parity world over so many steps of an episode, then 0."""

    steps: Int[Array, ""]
    out_size: int = eqx.field(static=True, default=1)

    def init(self):
        return jnp.zeros((), int), jnp.zeros((), int)

    def step(self, state, x, start):
        count, bit = jax.tree.map(lambda part: jnp.where(start, 0, part), state)
        bit = bit ^ x.observation
        return (count + 1, bit), jnp.where(count < self.steps, 2.0 * bit - 1, 0.0)[None]

    unroll = reference = example = None  # pyright: ignore  (an agent that acts needs none of them)


def test_in_long_episodes_who_counts_over_those_of_training_only_guesses_the_rest():
    @jax.vmap
    def policies(steps):
        memory = Counting(steps)  # pyright: ignore[reportCallIssue]
        policy = ActorCritic(memory, Discrete(2), 1, key=jax.random.key(0))
        sure = jnp.full((1, 1), 9.0), jnp.array([[-99.0], [99.0]])
        return eqx.tree_at(lambda p: (p.actor.hidden.weight, p.actor.out.weight), policy, sure)

    counting = jnp.array([0, parity_rl.LENGTH, parity_rl.LONG])
    guesses, short, long = parity_rl.in_long_episodes(
        policies(counting), jax.random.split(jax.random.key(1), len(counting))
    )
    guessed = 5 * (2 * parity_rl.COPIES * parity_rl.LONG) ** -0.5  # standard errors of a guess, worth 1 or -1
    np.testing.assert_allclose([guesses, short, long], [0, parity_rl.FAILS, 1], atol=guessed)
    assert long == 1

"""The reproductions about state spaces: their parts against independent computations, their targets against
rows that break them."""

import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linmem.evidence import digits, forecasting, ptd, s4_kernel, stable_ssm
from linmem.evidence.lines import write_lines
from linmem.evidence.rows import kept
from linmem.memories import GRU, S4, learned_layers
from linmem.tasks.train import SequenceModel

KEY = jax.random.key(0)


def test_an_output_settles_at_the_transfer_function():
    """A cosine comes out multiplied by |G(i w)| once the start has decayed."""
    hippo, c, systems = ptd.systems(8)
    w, step = 2.0, 0.002
    signal = np.cos(w * step * np.arange(12000))
    for system, _ in systems.values():
        late = ptd.diagonal_output(system, signal, step)[-4000:]
        gain = abs(ptd.diagonal_transfer(system, np.array([w]))[0])
        np.testing.assert_allclose(np.abs(late).max(), gain, rtol=0.02)
    late = ptd.output(hippo, c, signal, step)[-4000:]
    np.testing.assert_allclose(np.abs(late).max(), abs(ptd.transfer(hippo, c, np.array([w]))[0]), rtol=0.02)


def test_the_condition_of_eigenvectors_is_one_if_orthonormal_and_grows_as_they_align():
    basis = ptd.legs_normal(8, jax.random.key(0))
    np.testing.assert_allclose(ptd.condition(basis), 1.0, rtol=1e-9)
    cosine = 0.8  # between two real eigenvectors, of any length
    back = np.array([[1.0, 3 * cosine], [0.0, 3 * np.sqrt(1 - cosine**2)]])
    aligned = basis._replace(eigenvalues=np.array([-1.0, -2.0]) + 0j, back=back)
    np.testing.assert_allclose(ptd.condition(aligned), np.sqrt((1 + cosine) / (1 - cosine)))


def test_ptd_targets_are_missed_if_ptd_deviates_as_s4d_does():
    rows, _ = ptd.measure(16)
    rows = [row | {"n": n} for n in ptd.SIZES for row in rows]
    for row in rows:
        if "PTD" in row["system"]:
            row.update(deviation=3.0, noisy=0.3)
    missed = [target.name for target in ptd.targets_of(rows) if not target.holds]
    assert any("stays within" in name for name in missed)
    assert any("Fourier mode" in name for name in missed)


def test_the_powers_that_judge_s4_are_its_answer_to_an_impulse():
    layer = S4(2, 6, key=KEY)
    impulse = np.zeros((9, 2))
    impulse[0] = 1.0
    expected = layer.reference(impulse, np.arange(9) == 0) - np.asarray(layer.d) * impulse
    found = [s4_kernel.kernel_by_powers(system, 9) for system in s4_kernel.dense(layer)]
    np.testing.assert_allclose(np.stack(found, axis=1), expected, rtol=1e-9, atol=1e-12)


def test_s4_targets_hold_if_kernels_agree_and_only_legs_converges():
    rows = [{"part": "precision", "cauchy": 2e-6}]
    rows += [{"part": "speed", "length": n, "cauchy": 1.0, "powers": 2.0} for n in (1, 2)]
    rows += [
        {"part": "diagonal", "hippo": name, "state": n, "error": 0.004 / n if name == "legs" else 1.0}
        for name in s4_kernel.HIPPO
        for n in (8, 16)
    ]
    assert all(target.holds for target in s4_kernel.targets_of(rows))


def test_s4_targets_are_missed_if_kernels_differ_or_legs_does_not_converge():
    rows = [{"part": "precision", "cauchy": 2e-5}]
    rows += [{"part": "speed", "length": n, "cauchy": 2.0, "powers": 1.0} for n in (1, 2)]
    rows += [
        {"part": "diagonal", "hippo": name, "state": n, "error": 0.1}
        for name in s4_kernel.HIPPO
        for n in (8, 16)
    ]
    assert not any(target.holds for target in s4_kernel.targets_of(rows))


def test_logarithmic_axes_are_labelled_with_plain_numbers(tmp_path):
    """In an SVG file the words stand in comments beside their outlines."""
    lines = {"a": ([16, 1024], [0.001, 10.0])}
    drawn = write_lines(tmp_path / "figure.svg", lines, "size", "seconds").read_text()
    assert "math" not in drawn
    for label in ("16", "1024", "0.01", "1"):
        assert f"<!-- {label} -->" in drawn


def test_stable_ssm_targets_need_a_rate_where_direct_fails_and_the_other_converges():
    def rows(direct):
        return [
            {"map": name, "rate": rate, "final": [direct if name == "direct" else 0.01] * 3}
            for name in stable_ssm.DECAYS
            for rate in stable_ssm.RATES
        ]

    assert all(target.holds for target in stable_ssm.targets_of(rows(np.inf)))
    assert not any(target.holds for target in stable_ssm.targets_of(rows(0.01)))


def test_stable_ssm_needs_every_seed_to_converge_and_none_of_the_direct_map():
    rows = [
        {"map": name, "rate": rate, "final": [0.01, np.nan if name == "direct" else 0.01]}
        for name in stable_ssm.DECAYS
        for rate in stable_ssm.RATES
    ]
    assert not any(target.holds for target in stable_ssm.targets_of(rows))
    rows = [row | {"final": [np.nan, 0.5] if row["map"] == "direct" else [0.01, 0.5]} for row in rows]
    assert not any(target.holds for target in stable_ssm.targets_of(rows))


def test_every_map_begins_with_the_same_memory_but_the_one_begun_unstable():
    kernels = {name: stable_ssm.begun(name, KEY).kernel(40) for name in stable_ssm.MAPS}
    for name in stable_ssm.DECAYS:
        np.testing.assert_allclose(kernels[name], kernels["exp"], rtol=1e-3, atol=1e-4)
    growing = stable_ssm.begun(stable_ssm.GROWING, KEY).channels.system().transition
    assert float(jnp.abs(growing).min()) > 1


def test_the_memory_of_a_mixture_is_what_its_channels_answer_to_an_impulse():
    model = stable_ssm.begun("exp", KEY)
    impulse = jnp.zeros((30, stable_ssm.CHANNELS)).at[0].set(1.0)
    _, ys = model.channels.unroll(model.channels.init(), impulse, jnp.arange(30) == 0)
    np.testing.assert_allclose(eqx.filter_jit(model.kernel)(30), ys @ model.mix, atol=1e-4)


# --- real data ----------------------------------------------------------------------------------------------


def test_a_picture_is_read_row_by_row_and_larger_without_losing_anything():
    picture = np.arange(64.0).reshape(1, 8, 8)
    assert digits.sequences(picture, 1)[0, :, 0].tolist() == list(range(64))
    larger = digits.sequences(picture, 4)[0, :, 0]
    assert larger[:8].tolist() == [0, 0, 0, 0, 1, 1, 1, 1] and larger[32:36].tolist() == [0, 0, 0, 0]
    np.testing.assert_array_equal(larger.reshape(32, 32)[::4, ::4], picture[0])


def test_the_digits_are_all_there_and_none_is_both_learned_and_tested():
    train, test = digits.data(64)
    assert (len(train.labels), len(test.labels)) == (1200, 597)
    assert np.bincount(test.labels).min() > 40 and train.inputs.shape[1:] == (64, 1)
    seen = {np.asarray(x).tobytes() for x in train.inputs}
    assert not any(np.asarray(x).tobytes() in seen for x in test.inputs)


def test_a_digit_is_asked_for_once_at_the_last_step():
    _, test = digits.data(64)
    batch = test.batch(jnp.array([3, 5]))
    assert np.asarray(batch.mask).sum(axis=1).tolist() == [1, 1] and np.asarray(batch.mask)[:, -1].all()
    assert batch.targets[:, -1].tolist() == test.labels[jnp.array([3, 5])].tolist()
    assert np.asarray(batch.starts)[:, 0].all() and np.asarray(batch.starts).sum() == 2


@pytest.mark.parametrize("name", [*digits.STATE_SPACES, *digits.OTHERS])
def test_every_layer_of_the_digits_answers_with_ten_classes(name):
    layer, residual = digits.layer_of(name, 64)

    def answer(key):
        model = SequenceModel.make(eqx.nn.Linear, 1, 10, 8, layer, 1, key=key, residual=residual)
        return model(jnp.zeros((64, 1)), jnp.arange(64) == 0)

    assert jax.eval_shape(answer, KEY).shape == (64, 10)


def test_the_digits_name_every_registered_state_space():
    """Those of the papers on state spaces; a layer registered later must be put on one side or the other."""
    selective = set(
        "mamba mamba_negative longhorn s7 sd_ssm fixed_point_rnn mamba2 gla mlstm deltanet gated_deltanet "
        "deltaproduct rwkv7 slice_diagonal slice_block slice_low_rank slice_sparse slice_hadamard".split()
    )
    assert set(learned_layers()) - selective == {*digits.STATE_SPACES, "gru"}


def test_digits_targets_are_missed_by_a_layer_that_guesses_and_a_blind_one_that_knows():
    def rows(family, gru, none):
        names = [(name, family) for name in digits.STATE_SPACES] + [("gru", gru), ("none", none)]
        return [
            {"layer": name, "length": length, "accuracy": [value]}
            for name, value in names
            for length in (64, 1024)
        ]

    assert all(target.holds for target in digits.targets_of(rows(0.95, 0.92, 0.12)))
    missed = [target.name for target in digits.targets_of(rows(0.85, 0.92, 0.5)) if not target.holds]
    assert len(missed) == len(digits.STATE_SPACES) + 2 + 1


def test_a_row_is_made_once_and_one_cut_short_leaves_none(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"found": len(made)}

    def cut_short():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept(tmp_path, {"layer": "a/b", "seed": 0}, cut_short)
    assert kept(tmp_path, {"layer": "a/b", "seed": 0}, None) is None
    assert [kept(tmp_path, {"layer": "a/b", "seed": 0}, make) for _ in range(2)] == [{"found": 1}] * 2
    assert kept(tmp_path, {"layer": "a/b", "seed": 1}, make) == {"found": 2}


@pytest.mark.parametrize(
    ("module", "load"),
    [("sklearn.datasets", digits.pictures), ("statsmodels.datasets", forecasting.series)],
)
def test_a_missing_package_is_named_with_how_to_get_it(module, load, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"not installed: pip install 'linmem\[data\]'"):
        load()


def test_what_is_forecast_was_never_learned_from_nor_chosen_by():
    values = np.arange(2284.0)
    learned, chosen, reported = forecasting.windows(values)
    assert learned.max() == forecasting.CHOOSE - 1
    assert (chosen[:, forecasting.PAST :].min(), chosen.max()) == (forecasting.CHOOSE, forecasting.TEST - 1)
    assert (reported[:, forecasting.PAST :].min(), reported.max()) == (forecasting.TEST, 2283)


def test_the_series_is_whole_and_of_the_known_years():
    values = forecasting.series()
    assert len(values) == 2284 and np.isfinite(values).all()
    assert 310 < values[:52].mean() < 320 and 368 < values[-52:].mean() < 374


def test_forecasts_without_training_are_exact_on_the_series_they_stand_for():
    weeks = np.arange(forecasting.PAST + forecasting.AHEAD)
    wave = np.sin(2 * np.pi * weeks / forecasting.YEAR)[None]
    rising = wave + (weeks // forecasting.YEAR)[None]
    past = slice(forecasting.PAST)
    for forecaster, series in ((forecasting.seasonal, wave), (forecasting.seasonal_drift, rising)):
        ahead = forecaster(series[:, past])
        np.testing.assert_allclose(ahead, series[:, forecasting.PAST :], atol=1e-12)
    assert (forecasting.naive(wave[:, past]) == wave[0, forecasting.PAST - 1]).all()


def test_an_autoregression_continues_the_wave_that_solves_it():
    weeks = np.arange(400)
    wave = 5 + 2 * np.sin(0.3 * weeks)
    forecast = forecasting.autoregression(wave[:200], 2)
    start = 100
    past = wave[None, start : start + forecasting.PAST]
    after = wave[start + forecasting.PAST :][: forecasting.AHEAD]
    np.testing.assert_allclose(forecast(past)[0], after, atol=1e-6)


def test_a_closed_loop_feeds_back_what_it_predicted():
    """Read as if they had been seen, its guesses are what the network expects at every step."""
    network = forecasting.Network(lambda n, key: GRU(n, n, key=key), key=KEY)
    past = jax.random.normal(KEY, (7,))
    ahead = forecasting.closed_loop(network, past)[:5]
    _, following = network.read(jnp.concatenate([past, ahead]))
    np.testing.assert_allclose(following[6:11], ahead, atol=1e-5)


def test_forecasting_targets_are_missed_if_the_companion_errs_more():
    def rows(own):
        names = ("naive", "seasonal naive", "S4", "S5", "GRU")
        return [{"model": name, "error": 1.0} for name in names] + [{"model": forecasting.OWN, "error": own}]

    assert all(target.holds for target in forecasting.targets_of(rows(0.9)))
    assert not any(target.holds for target in forecasting.targets_of(rows(1.1)))

"""Rates without eps: the counts are exact, and wrong memories are found out."""

import json
from itertools import product

import equinox as eqx
import numpy as np
import pytest

from linmem import Inputs
from linmem.evidence import delta
from linmem.evidence.delta import (
    BANK,
    BEST,
    DECODERS,
    LOF,
    RATES,
    SCHEDULE,
    SINGLE,
    TUNED,
    measure,
    targets_of,
)
from linmem.evidence.two_state import two_state_model
from linmem.memories import SelfTuningFilter

E = np.array([[0.9, 0.1], [0.1, 0.9]])


pytestmark = pytest.mark.usefixtures("optimised")


@pytest.fixture(scope="module")
def measured():
    return list(measure(4000, seed=3, inverse_eps=(40.0, 200.0)))


def joint_with_last_state(eps, observations, initial):
    p = np.array(initial)
    for y in observations:
        p = ((1 - eps) * p[::-1] + eps * p) * E[:, y]
    return p


def adaptive_logits(rate, observations):
    w = np.zeros(2)
    for y in observations:
        w = (1 - rate) * w[::-1] + rate * np.log(E[y])
    return w


def test_after_a_few_steps_the_error_rates_are_those_of_an_enumeration_of_all_histories():
    eps, steps, trajectories = 1 / 7, 5, 40_000
    (got,) = measure(trajectories, seed=0, inverse_eps=(7.0,), steps=steps)
    exact = dict.fromkeys(set(DECODERS) - {BANK}, 0.0)
    tuned = SelfTuningFilter(two_state_model(eps))
    for y in product((0, 1), repeat=steps):
        truth = joint_with_last_state(eps, y, [1.0, 0.0])
        xs = Inputs(np.array(y), np.zeros(steps, int), np.zeros(steps))
        held = {name: adaptive_logits(rate, y) for name, rate in zip(SINGLE, RATES, strict=True)}
        held |= {
            SCHEDULE: adaptive_logits(0.7 / np.log(7), y),
            LOF: joint_with_last_state(eps, y, [0.5, 0.5]),
            TUNED: tuned.reference(xs, np.zeros(steps, bool))[-1],
        }
        for name, values in held.items():
            exact[name] += truth[1 - np.argmax(values)]
    for name, rate in exact.items():
        assert abs(got.point.error(name).mean - rate) < 4.5 * (rate * (1 - rate) / trajectories) ** 0.5, name


def test_every_target_holds_for_the_right_memories(measured):
    assert [target.name for target in targets_of(measured) if not target.holds] == []


def test_the_best_single_rate_is_the_one_with_the_fewest_errors(measured):
    for each in measured:
        assert each.point.errors(each.best) == min(each.point.errors(name) for name in SINGLE)


def test_the_read_out_is_fitted_to_other_trajectories_than_it_is_measured_on(monkeypatch):
    fitted, followed = [], []
    fit, follow = delta.fit_readout, delta._follow
    monkeypatch.setattr(delta, "fit_readout", lambda x, y: fitted.append(x) or fit(x, y))
    monkeypatch.setattr(delta, "_follow", lambda *args: followed.append(follow(*args)) or followed[-1])
    list(measure(delta.FITTED_TRAJECTORIES, 0, inverse_eps=(40.0,), steps=60))
    last = np.asarray(followed[0].bank)
    half = delta.FITTED_TRAJECTORIES // 2
    assert fitted[0].shape == (half * delta.SNAPSHOTS, last.shape[1])
    # Logits of 60 readings name a trajectory's readings, so those of equal trajectories are equal.
    same = (fitted[0][-half:] == last[:half]).all(axis=1)
    assert same.mean() < 0.05


def missed_with(monkeypatch):
    return {t.name for t in targets_of(list(measure(4000, 3, inverse_eps=(40.0,)))) if not t.holds}


def test_a_read_out_that_takes_the_slowest_rate_only_is_found_out(monkeypatch):
    class Slowest:
        def __call__(self, logits):
            return logits[..., :2]

    monkeypatch.setattr(delta, "learned_readout", lambda model, key, steps: Slowest())
    assert missed_with(monkeypatch) == {f"{BANK} errs no more than the {BEST}, at every point"}


def test_a_self_tuning_filter_that_reads_the_observations_the_wrong_way_is_found_out(monkeypatch):
    def flipped(model, eps):
        d = Decoders(model, eps)
        where = lambda d: d.tuned.bank.log_emission  # noqa: E731
        return eqx.tree_at(where, d, where(d)[::-1])

    Decoders = delta.Decoders
    monkeypatch.setattr(delta, "Decoders", flipped)
    assert f"{TUNED} errs no more than {SCHEDULE}, at every point" in missed_with(monkeypatch)


def test_no_trajectories_are_refused():
    with pytest.raises(ValueError, match="trajectories is 0"):
        next(measure(0, 0))


def test_the_command_writes_page_figure_and_rows(tmp_path, monkeypatch, measured, capsys):
    monkeypatch.setattr(delta, "measure", lambda trajectories, seed: iter(measured))
    code = delta.main(4000, out=tmp_path, json=tmp_path / "rows.json")
    content = json.loads((tmp_path / "rows.json").read_text())
    assert code == 0
    cells = [(row["inverse_eps"], row["decoder"]) for row in content["rows"]]
    assert cells == list(product((40.0, 200.0), (*DECODERS, BEST)))
    assert (tmp_path / "delta.svg").stat().st_size > 1000
    assert "self-tuning / schedule: error 0." in capsys.readouterr().out.replace("\n", " ")

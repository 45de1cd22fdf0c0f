"""Eight states under four actions: the model, exact error rates, and wrong filters found out."""

import json
from itertools import product

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from linmem import analyse
from linmem.evidence import action_controlled
from linmem.evidence.action_controlled import (
    DECODERS,
    EPS_SQUARED,
    LOF,
    NO_MEMORY,
    VALID,
    WRONG,
    Decoders,
    certificate,
    eight_state_model,
    first_order,
    measure,
    targets_of,
)

MAPS = (lambda s: s + 1, lambda s: s - 1, lambda s: -s, lambda s: 3 * s)


pytestmark = pytest.mark.usefixtures("optimised")


@pytest.fixture(scope="module")
def points():
    return list(measure(2000, seed=3, inverse_eps=(30.0, 250.0)))


def test_the_moves_are_four_affine_maps_that_slip_anywhere_else():
    model = eight_state_model(0.07)
    for action, f in enumerate(MAPS):
        for state in range(8):
            expected = np.full(8, 0.01)
            expected[f(state) % 8] = 0.93
            np.testing.assert_allclose(model.transition[action, state], expected)


def test_an_observation_flips_each_bit_at_its_own_rate():
    E = eight_state_model(0.07).emission[0]
    assert E[0b101, 0b101] == pytest.approx(0.9 * 0.85 * 0.8)
    assert E[0b101, 0b001] == pytest.approx(0.1 * 0.85 * 0.8)
    assert E[0b101, 0b110] == pytest.approx(0.9 * 0.15 * 0.2)


def test_the_exponent_is_that_of_the_least_certain_bit_and_the_rate_is_below_it():
    # States that differ in one bit: the other bits' factors of sum_o p^(1-u) q^u are 1.
    g = lambda u: -np.log(0.8 ** (1 - u) * 0.2**u + 0.2 ** (1 - u) * 0.8**u) / u  # noqa: E731
    expected = integrate.quad(g, 0, 1)[0]
    found = certificate(eight_state_model(1 / 100))
    assert found.theorem == "5.9" and found.period == 1
    assert found.xi == pytest.approx(expected, rel=1e-8)
    assert 0 < found.rate < found.xi
    assert found.delta == pytest.approx(found.rate / np.log(100))
    assert analyse(eight_state_model(1 / 100)).recommended.delta == found.delta


def test_the_first_order_estimates_are_detection_times_by_bits():
    # A slip turns some bits; a bit that is read wrongly at rate f tells of it by (1-2f) log((1-f)/f) a step,
    # the same both ways, so ALF notices at (1 - delta)^t = 1/2.
    told = [0.8 * np.log(9), 0.7 * np.log(17 / 3), 0.6 * np.log(4)]
    sums = [np.dot(told, turned) for turned in product((0, 1), repeat=3)]
    adaptive, exact = first_order(eight_state_model(1 / 100))
    assert exact == pytest.approx(np.mean([1 / KL for KL in sums if KL > 0]))
    assert adaptive == pytest.approx(np.log(2) / certificate(eight_state_model(1 / 100)).rate)


def test_after_two_steps_every_error_rate_is_that_of_an_enumeration_of_all_histories():
    eps, trajectories = 1 / 7, 40_000
    model = eight_state_model(eps)
    T, E = model.transition, model.emission[0]
    delta = certificate(model).delta
    exact = dict.fromkeys(DECODERS, 0.0)
    pairs = list(product(range(4), repeat=2))
    sources = [[next(s for s in range(8) if f(s) % 8 == i) for i in range(8)] for f in MAPS]
    for actions, y in product(pairs, product(range(8), repeat=2)):
        truth, exact_belief = np.eye(8)[0], np.ones(8) / 8
        for a, o in zip(actions, y, strict=True):
            truth, exact_belief = truth @ T[a] * E[:, o], exact_belief @ T[a] * E[:, o]

        def adaptive(rate, told, y=y):
            w = np.zeros(8)
            for a, o in zip(told, y, strict=True):
                w = (1 - rate) * w[sources[a]] + rate * np.log(E[:, o])
            return w

        held = {
            VALID: [adaptive(delta, actions)],
            EPS_SQUARED: [adaptive(eps**2, actions)],
            NO_MEMORY: [adaptive(1.0, actions)],
            WRONG: [adaptive(delta, told) for told in pairs],
            LOF: [exact_belief],
        }
        for name, logits in held.items():
            exact[name] += np.mean([truth.sum() - truth[np.argmax(each)] for each in logits]) / 16
    (point,) = measure(trajectories, seed=0, inverse_eps=(7.0,), steps=2)
    for name, rate in exact.items():
        assert abs(point.error(name).mean - rate) < 4.5 * (rate * (1 - rate) / trajectories) ** 0.5, name


def missed(points):
    return [target.name for target in targets_of(points) if not target.holds]


def test_every_target_holds_for_the_right_filters(points):
    assert missed(points) == []


def missed_with(monkeypatch, change):
    monkeypatch.setattr(action_controlled, "Decoders", lambda model, eps: change(Decoders(model, eps)))
    return missed(list(measure(2000, 3, inverse_eps=(30.0, 250.0))))


def test_a_filter_that_takes_one_action_for_another_is_found_out(monkeypatch):
    names = missed_with(
        monkeypatch,
        lambda d: eqx.tree_at(lambda d: d.adaptive.source, d, jnp.roll(d.adaptive.source, 1, axis=1)),
    )
    assert f"{VALID} errs no more than {NO_MEMORY}, at every point" in names
    assert f"the error of {VALID} falls with eps" in names
    assert any(name.startswith(f"error of {VALID} / error of {LOF}") for name in names)
    assert f"{VALID} errs less than kappa eps log(1/eps), where that is below 1" in names


def test_a_bayes_filter_that_takes_one_action_for_another_is_found_out(monkeypatch):
    names = missed_with(
        monkeypatch,
        lambda d: eqx.tree_at(lambda d: d.exact.log_transition, d, d.exact.log_transition[::-1]),
    )
    assert f"{LOF} errs no more than {VALID}, at every point" in names


def test_no_trajectories_are_refused():
    with pytest.raises(ValueError, match="trajectories is 0"):
        next(measure(0, 0))


def test_the_command_writes_page_figure_and_rows(tmp_path, monkeypatch, points, capsys):
    monkeypatch.setattr(action_controlled, "measure", lambda trajectories, seed: iter(points))
    code = action_controlled.main(2000, out=tmp_path, json=tmp_path / "rows.json")
    content = json.loads((tmp_path / "rows.json").read_text())
    assert code == 0
    cells = [(row["inverse_eps"], row["decoder"]) for row in content["rows"]]
    assert cells == list(product((30.0, 250.0), DECODERS))
    assert (tmp_path / "action-controlled.svg").stat().st_size > 1000
    assert "delta = 0.0765" in capsys.readouterr().out.replace("\n", " ")

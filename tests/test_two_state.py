"""Experiment 6.1: the decoders are the paper's, the error rates exact, and a wrong filter is found out."""

import json
from itertools import product

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linmem.evidence import two_state
from linmem.evidence.error_rates import Point
from linmem.evidence.two_state import (
    DECODERS,
    LOF,
    PUBLISHED,
    RATES,
    Decoders,
    measure,
    targets_of,
    two_state_model,
    z_against_published,
)

E = np.array([[0.9, 0.1], [0.1, 0.9]])
LOG_RATE, SQRT_RATE = "ALF 0.7/log(1/eps)", "ALF sqrt(eps)"


def transition(eps):
    return np.array([[eps, 1 - eps], [1 - eps, eps]])


def joint_with_last_state(eps, observations, initial):
    """P(y_1..y_k, s_k), summed over all paths s_0..s_k one by one: the chain moves, then is observed."""
    T = transition(eps)
    total = np.zeros(2)
    for path in product((0, 1), repeat=len(observations) + 1):
        probability = initial[path[0]]
        for before, after, seen in zip(path[:-1], path[1:], observations, strict=True):
            probability *= T[after, before] * E[seen, after]
        total[path[-1]] += probability
    return total


def adaptive_logits(delta, observations):
    """Eq. 28 with P the swap, as a float64 loop: the logits after every step."""
    P, w, out = np.array([[0, 1], [1, 0]]), np.zeros(2), []
    for y in observations:
        w = (1 - delta) * P @ w + delta * np.log(E[y])
        out.append(w)
    return np.array(out)


def decode(eps, observations):
    """The library's logits (steps, 6, b, 2) along observations (steps, b)."""
    decoders = Decoders(two_state_model(eps), eps)

    def step(logits, seen):
        logits = decoders.step(logits, seen)
        return logits, logits

    none_seen = jnp.zeros((6, observations.shape[1], 2))
    return np.asarray(jax.lax.scan(step, none_seen, jnp.asarray(observations))[1])


def softmax(l):
    p = np.exp(l - l.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def long_run_error(eps, decoder, points=4001):
    """P(wrong) in the long run, without sampling.

    Relabelled at every swap, the chain stays where it is but for slips (probability eps), and the difference
    of the logits, in favour of the true state, has one map for a right and one for a wrong observation. The
    error as a function of this difference is followed back in time on a grid.
    """
    c = np.log(9)
    if decoder == LOF:
        reach = np.log((1 - eps) / eps) + c
        x = np.linspace(-reach, reach, points)
        p = 1 / (1 + np.exp(-x))
        moved = np.log(((1 - eps) * p + eps * (1 - p)) / ((1 - eps) * (1 - p) + eps * p))
        right, wrong = moved + c, moved - c
    else:
        delta = RATES[decoder](eps)
        x = np.linspace(-c, c, points)
        right, wrong = (1 - delta) * x + delta * c, (1 - delta) * x - delta * c
    error = (x < 0) + 0.5 * (x == 0)
    for _ in range(1000):
        seen = 0.9 * np.interp(right, x, error) + 0.1 * np.interp(wrong, x, error)
        error = (1 - eps) * seen + eps * seen[::-1]  # a slip turns the difference against the new true state
    return error[points // 2]


pytestmark = pytest.mark.usefixtures("optimised")


@pytest.fixture(scope="module")
def points():
    return list(measure(trajectories=20_000, seed=3, inverse_eps=(30.0, 250.0)))


# --- the decoders -------------------------------------------------------------------------------------------


def test_the_exact_filter_equals_bayes_by_enumeration_of_paths_for_every_short_observation_sequence():
    eps, steps = 1 / 30, 6
    sequences = np.array(list(product((0, 1), repeat=steps)))
    belief = softmax(decode(eps, sequences.T)[-1, -1])
    joint = np.array([joint_with_last_state(eps, y, [0.5, 0.5]) for y in sequences])
    np.testing.assert_allclose(belief, joint / joint.sum(1, keepdims=True), rtol=1e-4)


@pytest.mark.parametrize("decoder", RATES)
def test_the_adaptive_filter_equals_a_float64_loop_of_the_papers_equation(decoder):
    eps = 1 / 30
    observations = np.random.default_rng(1).integers(0, 2, (1000, 3))
    logits = decode(eps, observations)[:, DECODERS.index(decoder)]
    for b in range(3):
        expected = adaptive_logits(RATES[decoder](eps), observations[:, b])
        np.testing.assert_allclose(logits[:, b], expected, rtol=1e-4, atol=1e-7)


# --- the experiment -----------------------------------------------------------------------------------------


def test_after_a_few_steps_every_error_rate_is_that_of_an_enumeration_of_all_histories():
    eps, steps, trajectories = 1 / 7, 5, 200_000
    (point,) = measure(trajectories, seed=0, inverse_eps=(7.0,), steps=steps)
    exact = dict.fromkeys(DECODERS, 0.0)
    for y in product((0, 1), repeat=steps):
        truth = joint_with_last_state(eps, y, [1.0, 0.0])
        logits = {name: adaptive_logits(rate(eps), y)[-1] for name, rate in RATES.items()}
        logits[LOF] = joint_with_last_state(eps, y, [0.5, 0.5])
        for name, values in logits.items():
            exact[name] += truth[1 - np.argmax(values)]
    for name, rate in exact.items():
        assert abs(point.error(name).mean - rate) < 4.5 * (rate * (1 - rate) / trajectories) ** 0.5, name


def test_the_closed_form_of_a_constant_guess_holds_after_an_odd_number_of_moves_too():
    # One move takes the chain from state 0 to state 1 with probability 6/7.
    (point,) = measure(10_000, seed=0, inverse_eps=(7.0,), steps=1)
    assert point.error("ALF 0").mean == pytest.approx(6 / 7, abs=4.5 * (6 / 49 / 10_000) ** 0.5)
    assert [t.holds for t in targets_of([point]) if t.name.startswith("ALF 0 errs as")] == [True]


@pytest.mark.parametrize("decoder", [LOG_RATE, SQRT_RATE, LOF])
def test_at_step_1000_the_error_is_that_of_an_integration_without_sampling(points, decoder):
    for point in points:
        rate = long_run_error(1 / point.inverse_eps, decoder)
        assert abs(point.error(decoder).mean - rate) < 4.5 * (rate * (1 - rate) / point.trajectories) ** 0.5


def test_without_forgetting_half_of_the_guesses_are_wrong_and_with_nothing_else_one_in_ten(points):
    for point in points:
        assert point.error("ALF 0").mean == pytest.approx(0.5, abs=4.5 * (0.25 / 20_000) ** 0.5)
        assert point.error("ALF 1").mean == pytest.approx(0.1, abs=4.5 * (0.09 / 20_000) ** 0.5)


def test_the_same_seed_counts_the_same_and_another_seed_does_not():
    def counted(seed):
        (point,) = measure(500, seed, inverse_eps=(30.0,), steps=50)
        return point.both_wrong

    np.testing.assert_array_equal(counted(0), counted(0))
    assert (counted(0) != counted(1)).any()


def test_each_point_has_randomness_of_its_own():
    one, other = measure(500, 0, inverse_eps=(30.0, 30.0), steps=50)
    assert (one.both_wrong != other.both_wrong).any()


def test_no_trajectories_are_refused():
    with pytest.raises(ValueError, match="trajectories is 0"):
        next(measure(0, 0))


# --- the targets --------------------------------------------------------------------------------------------


def missed(points, published=PUBLISHED):
    return [target.name for target in targets_of(points, published) if not target.holds]


def test_every_target_holds_for_the_right_filters(points):
    assert len(targets_of(points)) == 12 + 6 + 2
    assert missed(points) == []


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("shift", [0.02, -0.02])
def test_a_published_cell_that_is_shifted_is_missed_alone(points, decoder, shift):
    low, high = PUBLISHED[30.0][decoder]
    shifted = {**PUBLISHED, 30.0: {**PUBLISHED[30.0], decoder: (low + shift, high + shift)}}
    assert missed(points, shifted) == [f"{decoder} at 1/eps = 30"]


def missed_with(monkeypatch, change):
    monkeypatch.setattr(two_state, "Decoders", lambda model, eps: change(Decoders(model, eps)))
    return missed(list(measure(20_000, 3, inverse_eps=(250.0,))))


def test_filters_that_do_not_swap_their_logits_are_found_out(monkeypatch):
    names = missed_with(
        monkeypatch, lambda d: eqx.tree_at(lambda d: d.adaptive.source, d, d.adaptive.source[..., ::-1])
    )
    assert {f"{LOG_RATE} at 1/eps = 250", f"{SQRT_RATE} at 1/eps = 250"} <= set(names)


def test_an_exact_filter_that_expects_no_order_is_found_out_by_erring_more_than_the_others(monkeypatch):
    names = missed_with(
        monkeypatch,
        lambda d: eqx.tree_at(lambda d: d.exact.log_transition, d, jnp.full((1, 2, 2), jnp.log(0.5))),
    )
    assert names == [
        f"{LOF} at 1/eps = 250",
        f"{LOF} errs no more than {LOG_RATE}, at every point",
        f"{LOF} errs no more than {SQRT_RATE}, at every point",
    ]


def test_a_filter_that_reads_the_observations_the_wrong_way_is_found_out_by_the_closed_form(monkeypatch):
    flipped = lambda d: eqx.tree_at(  # noqa: E731
        lambda d: d.adaptive.log_emission, d, d.adaptive.log_emission[..., ::-1]
    )
    assert "ALF 1 errs as one observation does, .1, at every point" in missed_with(monkeypatch, flipped)


def test_z_counts_standard_errors_of_both_samples():
    # 80,000 at rate 1/2: Wilson's interval is 1/2 -+ 1.96 sqrt(.25 / n) to 5 digits. As many of our own, one
    # hundredth away, give the textbook z of two samples.
    half = 1.959964 * (0.25 / 80_000) ** 0.5
    z = z_against_published(40_800, 80_000, (0.5 - half, 0.5 + half))
    assert z == pytest.approx(0.01 / (2 * 0.25 / 80_000) ** 0.5, rel=1e-4)


def test_excess_counts_only_trajectories_where_one_of_the_two_errs():
    both = np.zeros((6, 6), int)
    both[0, 0], both[5, 5], both[0, 5], both[5, 0] = 30, 16, 14, 14
    point = Point(30.0, 100, 1000, DECODERS, both)
    assert point.excess(DECODERS[0], DECODERS[5]) == pytest.approx((16 - 2) / 18**0.5)


# --- what is written ----------------------------------------------------------------------------------------


def test_the_command_writes_page_figure_and_rows_and_exits_1_on_a_miss(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(two_state, "INVERSE_EPS", (30.0, 250.0))
    few = lambda trajectories, seed: measure(trajectories, seed, (30.0, 250.0), steps=20)  # noqa: E731
    monkeypatch.setattr(two_state, "measure", few)
    code = two_state.main(2000, out=tmp_path / "new" / "folder", json=tmp_path / "rows.json")
    content = json.loads((tmp_path / "rows.json").read_text())
    # After 20 steps the chain is still in state 0 with probability .93, so a constant guess errs rarely.
    assert code == 1
    misses = [target["name"] for target in content["targets"] if not target["holds"]]
    assert "ALF 0 at 1/eps = 250" in misses
    cells = [(row["inverse_eps"], row["decoder"]) for row in content["rows"]]
    assert cells == list(product((30.0, 250.0), DECODERS))
    assert (tmp_path / "new" / "folder" / "two-state.svg").stat().st_size > 1000
    page = tmp_path / "new" / "folder" / "two-state.html"
    assert "within |z| &lt; 2.87" in page.read_text()
    assert str(page) in capsys.readouterr().out.replace("\n", "")

"""Certificates agree with the paper's formulas, looped over literally, and exist for every valid model."""

import itertools
import json
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from scipy.integrate import quad

from linmem.certificates import analyse
from linmem.worlds.ringworld import RingWorld
from linmem.worlds.tables import HMM, POMDP

NOISY = [[0.9, 0.1], [0.1, 0.9]]


def hmm(transition, emission):
    return HMM(transition, emission, np.full(len(transition), 1 / len(transition)))


def pomdp(transition, emission, **options):
    n = len(transition[0])
    return POMDP(transition, emission, np.zeros(n), np.full(n, 1 / n), 0.9, **options)


def two_states(eps, emission=NOISY):
    return hmm([[eps, 1 - eps], [1 - eps, eps]], emission)


def random_rows(rng, *shape, sharpness=1.0):
    weights = np.exp(sharpness * rng.normal(size=shape))
    return weights / weights.sum(axis=-1, keepdims=True)


def near(successor, eps, rng):
    """A transition that follows the map, but for a random mass of at most eps (eps itself in state 0)."""
    n = len(successor)
    mass = eps * np.r_[1, rng.random(n - 1)]
    elsewhere = random_rows(rng, n, n)
    elsewhere[np.arange(n), successor] = 0
    elsewhere /= elsewhere.sum(axis=1, keepdims=True)
    return (1 - mass)[:, None] * np.eye(n)[successor] + mass[:, None] * elsewhere


def assumption(found, name):
    return next(each for each in found.assumptions if each.name == name)


# The paper's formulas, literally.


def log_moment(p, q, t):
    """Lambda(t)."""
    return np.log(np.sum(p * (p / q) ** t))


def integral_by_quad(p, q, period):
    return quad(lambda t: log_moment(p, q, t) / t, 0, -1 / period, epsabs=0, epsrel=1e-13, limit=500)[0]


def integral_by_tanh_sinh(p, q, period, step=1 / 32, reach=3.1):
    s = np.arange(-reach, reach, step)
    t = -(np.tanh(np.pi / 2 * np.sinh(s)) + 1) / (2 * period)
    weight = np.pi / 2 * np.cosh(s) / np.cosh(np.pi / 2 * np.sinh(s)) ** 2 / (2 * period)
    return -step * sum(w * log_moment(p, q, x) / x for w, x in zip(weight, t, strict=True))


def paper_constants(successor, states, emission, period, integral=integral_by_quad):
    """xi and the infimum of alpha for the pairs of ``states``, followed for ``period`` steps."""
    bound = max(abs(math.log(emission[s, o])) for s in states for o in range(emission.shape[1]))
    xis, alphas = [], []
    for i, j in itertools.permutations(states, 2):
        total, divergence = 0.0, 0.0
        for _ in range(period):
            p, q = emission[i], emission[j]
            if not np.array_equal(p, q):
                total += integral(p, q, period)
                divergence += np.sum(p * np.log(p / q))
            i, j = successor[i], successor[j]
        xis.append(-total / period)
        if total:
            alphas.append(math.log(divergence / period + 2 * bound) - math.log(-total / 2))
    return min(xis), max(alphas)


# The backbone.


@pytest.mark.parametrize(
    ("transition", "kind"),
    [
        ([[0, 1, 0], [0, 0, 1], [1, 0, 0]], "permutation"),
        ([[0, 1, 0], [0, 0, 1], [0, 1, 0]], "many-to-one"),
        ([[0, 0.9, 0.1], [0, 0, 1], [0, 1, 0]], "nearly deterministic"),
        ([[0, 0.5, 0.5], [0, 0, 1], [0, 1, 0]], "neither"),
        ([[0, 0.4, 0.6], [0, 0, 1], [0, 0.3, 0.7]], "nearly deterministic"),
    ],
)
def test_the_kind_of_a_transition_is_told(transition, kind):
    assert analyse(hmm(transition, np.full((3, 2), 0.5))).kind == kind


def test_the_two_state_model_has_the_backbone_it_is_written_with():
    backbone = analyse(two_states(0.03)).transitions[0].backbone
    assert (backbone.eps, backbone.q_min, backbone.period) == (0.03, -1, 2)
    np.testing.assert_array_equal(backbone.matrix, [[0, 1], [1, 0]])
    np.testing.assert_allclose(backbone.perturbation, [[1, -1], [-1, 1]])


@pytest.mark.parametrize("eps", [0.3, 1e-3, 1e-12, 1e-300])
def test_a_transition_is_its_backbone_plus_eps_times_a_perturbation_whose_rows_sum_to_zero(eps):
    rng = np.random.default_rng(0)
    transition = near(rng.integers(7, size=7), eps, rng)
    backbone = analyse(hmm(transition, random_rows(rng, 7, 3))).transitions[0].backbone
    assert backbone.eps == pytest.approx(eps, rel=1e-12, abs=0)
    np.testing.assert_allclose(backbone.matrix + backbone.eps * backbone.perturbation, transition, atol=1e-15)
    np.testing.assert_allclose(backbone.perturbation.sum(axis=1), 0, atol=1e-15)
    assert backbone.perturbation.min() == pytest.approx(backbone.q_min) == -1


def test_cycles_and_period_agree_with_following_every_state():
    rng = np.random.default_rng(1)
    for n in range(1, 12):
        successor = rng.integers(n, size=n)
        backbone = analyse(hmm(np.eye(n)[successor], np.ones((n, 1)))).transitions[0].backbone
        walks = [[state] for state in range(n)]
        for walk in walks:
            for _ in range(n):
                walk.append(successor[walk[-1]])
        returning = [state for state, walk in enumerate(walks) if state in walk[1:]]
        assert list(backbone.recurrent) == returning
        assert sorted(backbone.transient) == sorted(set(range(n)) - set(returning))
        for cycle in backbone.cycles:
            assert [successor[state] for state in cycle] == [*cycle[1:], cycle[0]]
        power, period = successor.copy(), 1
        while any(power[state] != state for state in returning):
            power, period = successor[power], period + 1
        assert backbone.period == period
        np.testing.assert_array_equal(np.array(returning)[backbone.permutation], successor[returning])


def test_rows_that_miss_one_by_the_rounding_of_float32_are_still_a_permutation():
    almost_one = float(np.nextafter(np.float32(1), np.float32(0)))
    assert analyse(hmm([[0, almost_one], [almost_one, 0]], NOISY)).kind == "permutation"


# The assumptions.


def test_assumption_5_6_agrees_with_comparing_whole_trajectories_and_names_the_pair():
    rng = np.random.default_rng(2)
    outcomes = set()
    for _ in range(60):
        n = int(rng.integers(2, 9))
        successor = rng.permutation(n) if rng.random() < 0.7 else rng.integers(n, size=n)
        emission = np.array([[0.9, 0.1], [0.4, 0.6]])[rng.integers(2, size=n)]
        found = analyse(hmm(np.eye(n)[successor], emission))
        backbone = found.transitions[0].backbone

        def trajectory(state, successor=successor, emission=emission, period=backbone.period):
            rows = []
            for _ in range(period):
                rows.append(tuple(emission[state]))
                state = successor[state]
            return rows

        alike = [
            pair
            for pair in itertools.combinations(backbone.recurrent, 2)
            if trajectory(pair[0]) == trajectory(pair[1])
        ]
        separated = assumption(found, "5.6")
        assert separated.holds == (not alike)
        if alike:
            assert (separated.witness["state"], separated.witness["other_state"]) == alike[0]
            assert f"states {alike[0][0]} and {alike[0][1]}" in separated.sentence
        outcomes.add(separated.holds)
    assert outcomes == {True, False}


def test_assumption_5_3_names_the_zero_emission_of_a_recurrent_state():
    emission = [[0.5, 0.3, 0.2], [0.5, 0.5, 0], [0.2, 0.3, 0.5]]
    found = assumption(analyse(hmm(np.eye(3)[[1, 0, 0]], emission)), "5.3")
    assert not found.holds and found.witness == {"state": 1, "observation": 2}


def test_a_zero_emission_of_a_transient_state_breaks_5_8_but_not_5_3():
    found = analyse(hmm(np.eye(3)[[1, 0, 0]], [[0.5, 0.5], [0.2, 0.8], [1, 0]]))
    assert assumption(found, "5.3").holds
    assert assumption(found, "5.8").witness == {"state": 2, "observation": 1}
    assert found.xi is not None and found.xi > 0


def test_assumption_5_8_names_two_states_with_one_emission_and_the_action_that_makes_it_so():
    told_apart, alike = [[0.2, 0.8], [0.3, 0.7], [0.4, 0.6]], [[0.2, 0.8], [0.4, 0.6], [0.4, 0.6]]
    model = pomdp([np.eye(3)] * 2, [told_apart, alike], initial_emission=told_apart)
    found = assumption(analyse(model), "5.8")
    assert not found.holds and found.witness == {"action": 1, "state": 1, "other_state": 2}


def test_emissions_that_differ_by_rounding_do_not_tell_states_apart():
    found = analyse(two_states(0.1, [[0.3, 0.7], [0.1 + 0.2, 0.7]]))
    assert found.xi == 0 and not assumption(found, "5.6").holds


def test_emissions_whose_rows_differ_only_in_their_sum_do_not_tell_states_apart():
    row = np.array([0.3, 0.7])
    assert analyse(two_states(0.1, [row, row * (1 + 5e-6)])).xi == 0


def test_an_emission_below_the_smallest_normal_float_counts_as_zero():
    found = analyse(two_states(0.1, [[1, 1e-310], [0.5, 0.5]]))
    assert assumption(found, "5.3").witness == {"state": 0, "observation": 1}


# The exponent.


def test_the_two_state_model_has_the_published_exponent():
    for eps in (1 / 30, 1 / 250, 1e-300):
        assert analyse(two_states(eps)).xi == pytest.approx(0.7206014018371381, abs=1e-12)


def test_identical_emissions_have_exponent_zero_and_the_pair_as_witness():
    found = analyse(two_states(0.1, [[0.5, 0.5], [0.5, 0.5]]))
    assert found.xi == 0
    assert found.certificates[0].pair == assumption(found, "5.6").witness == {"state": 0, "other_state": 1}
    assert found.recommended.filter == "belief" and found.recommended.delta is None


@pytest.mark.parametrize("integral", [integral_by_quad, integral_by_tanh_sinh])
@pytest.mark.parametrize(
    "successor", [[1, 2, 0, 4, 3, 0], [0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 0], [1, 2, 3, 0, 5, 4]]
)
def test_exponent_and_alpha_agree_with_the_papers_sums_over_a_whole_period(successor, integral):
    rng = np.random.default_rng(3)
    emission = random_rows(rng, 6, 3)
    emission[4] = emission[0]  # told apart by their successors, or not at all
    emission[5] = 0.998, 0.001, 0.001  # the largest logit, transient in the first model
    found = analyse(hmm(near(successor, 0.05, rng), emission))
    backbone, certificate = found.transitions[0].backbone, found.certificates[0]
    xi, alpha = paper_constants(successor, backbone.recurrent, emission, backbone.period, integral)
    assert certificate.xi == pytest.approx(xi, rel=1e-10, abs=0)
    if xi > 0:
        assert certificate.alpha == pytest.approx(alpha, rel=1e-10)
    else:
        assert certificate.alpha is None
    worst = [certificate.pair["state"], certificate.pair["other_state"]]
    pair_xi = sum(
        -integral(emission[i], emission[j], backbone.period)
        for i, j in zip(*(walk(successor, state, backbone.period) for state in worst), strict=True)
        if not np.array_equal(emission[i], emission[j])
    )
    assert pair_xi / backbone.period == pytest.approx(xi, rel=1e-10, abs=0)


def walk(successor, state, length):
    for _ in range(length):
        yield state
        state = successor[state]


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_with_several_actions_the_exponent_is_over_all_pairs_of_emissions_and_one_step(order):
    rng = np.random.default_rng(4)
    emissions = random_rows(rng, 2, 4, 3)[order]
    turns = [near(np.roll(np.arange(4), step), 0.04, rng) for step in (1, 2)]
    found = analyse(pomdp(turns, emissions, initial_emission=emissions[0]))
    (certificate,) = found.certificates
    expected = [paper_constants(np.arange(4), range(4), emission, 1) for emission in emissions]
    assert certificate.theorem == "5.9" and certificate.period == 1
    assert found.xi == pytest.approx(min(xi for xi, _ in expected), rel=1e-10)
    assert certificate.pair["action"] == np.argmin([xi for xi, _ in expected])
    # W is over both actions, while the formula above saw one at a time.
    bound = -np.log(emissions.min())
    assert certificate.logit_bound == pytest.approx(bound)
    assert certificate.alpha >= max(alpha for _, alpha in expected) * (1 - 1e-12)


@pytest.mark.parametrize("rare", [0.4, 1e-3, 1e-12, 1e-300])
def test_the_quadrature_holds_for_emissions_that_are_almost_disjoint(rare):
    # Emissions (1 - rare, rare) and (rare, 1 - rare), followed in logarithms; the integrand bends at 1/2.
    found = analyse(hmm([[0.99, 0.01], [0.01, 0.99]], [[1 - rare, rare], [rare, 1 - rare]]))
    low, high = math.log(rare), math.log1p(-rare)

    def g(a):
        return -np.logaddexp((1 - a) * high + a * low, (1 - a) * low + a * high) / a

    halves = [quad(g, *ends, epsabs=0, epsrel=1e-13, limit=500)[0] for ends in ((0, 0.5), (0.5, 1))]
    assert found.xi == pytest.approx(sum(halves), rel=1e-11)


@pytest.mark.parametrize("gap", [1e-5, 1e-7, 1e-8])
def test_the_quadrature_holds_for_emissions_that_are_almost_equal(gap):
    # To leading order z = 1 - a (1 - a) v / 2, v = sum (q - p)^2 / p, so g = (1 - a) v / 2 and xi = v / 4.
    p, q = np.array([0.3, 0.7]), np.array([0.3 + gap, 0.7 - gap])
    found = analyse(hmm([[0.99, 0.01], [0.01, 0.99]], [p, q]))
    assert found.xi == pytest.approx(np.sum((q - p) ** 2 / p) / 4, rel=1e-7 + 10 * gap, abs=0)


def test_a_period_of_millions_needs_only_the_joint_cycle_of_each_pair():
    lengths = (2, 3, 5, 7, 11, 13, 17, 19, 23)
    cycles, start = [], 0
    for length in lengths:
        cycles.append(list(range(start, start + length)))
        start += length
    successor = np.zeros(start, int)
    for cycle in cycles:
        successor[cycle] = np.roll(cycle, -1)
    rng = np.random.default_rng(5)
    emission = random_rows(rng, start, 3)
    found = analyse(hmm(near(successor, 0.01, rng), emission))
    period = math.prod(lengths)
    assert found.certificates[0].period == period == 223092870

    kl = np.sum(emission[:, None] * np.log(emission[:, None] / emission), axis=2)
    cycle_of = {state: cycle for cycle in cycles for state in cycle}

    def divergence(i, j):
        """Mean KL over the joint cycle of i and j."""
        joint = math.lcm(len(cycle_of[i]), len(cycle_of[j]))
        return kl[list(walk(successor, i, joint)), list(walk(successor, j, joint))].mean()

    # The limit of integration, 1/M, is so short that the integrand is KL all along it.
    least = min(divergence(i, j) for i, j in itertools.permutations(range(start), 2))
    assert found.xi == pytest.approx(least / period, rel=1e-6, abs=0)


# Rate, bound and recommendation.


def test_rate_and_bound_follow_from_xi_and_alpha_by_the_papers_formulas():
    eps = 1 / 250
    certificate = analyse(two_states(eps)).certificates[0]
    assert certificate.theorem == "5.7"
    assert 0 < certificate.rate < certificate.xi
    # The paper's own lambda for this model is 0.7, to its one digit.
    assert round(certificate.rate, 1) == 0.7
    assert certificate.delta == pytest.approx(certificate.rate / math.log(250))
    assert certificate.kappa == pytest.approx(certificate.alpha / certificate.rate)
    assert certificate.bound == pytest.approx(certificate.kappa * eps * math.log(250))
    assert not certificate.vacuous


def test_with_one_recurrent_state_the_certificate_promises_nothing():
    found = analyse(hmm([[0.9, 0.1], [0.9, 0.1]], [[0.9, 0.1], [0.1, 0.9]]))
    assert found.certificates[0].bound == 0 and found.certificates[0].vacuous
    assert found.recommended.filter == "belief" and "one state is recurrent" in found.recommended.reason
    assert "transient states are left out" in str(found)


def test_a_bound_of_one_or_more_is_called_vacuous():
    found = analyse(two_states(0.2, [[0.6, 0.4], [0.4, 0.6]]))
    assert found.certificates[0].bound > 1 and found.certificates[0].vacuous
    assert "vacuous" in str(found) and "says nothing" in found.recommended.reason


def test_the_rate_never_exceeds_one_half_however_sharp_the_emissions():
    found = analyse(two_states(0.1, [[1 - 1e-9, 1e-9], [1e-9, 1 - 1e-9]]))
    assert found.recommended.delta == 0.5
    for certificate in found.certificates:
        assert certificate.rate == pytest.approx(0.5 * math.log(10))
        assert certificate.rate < certificate.xi


TURN, STAY, MERGE = np.eye(3)[[1, 2, 0]], np.eye(3), np.eye(3)[[1, 1, 2]]
SLIPPING = 0.9 * TURN + 0.1 * STAY
SLIPPING_MERGE = 0.9 * MERGE + 0.1 * TURN
TOLD_APART = [[0.7, 0.3], [0.5, 0.5], [0.2, 0.8]]
ALIKE = [[0.5, 0.5], [0.5, 0.5], [0.2, 0.8]]
WITH_ZERO = [[1.0, 0.0], [0.5, 0.5], [0.2, 0.8]]


@pytest.mark.parametrize(
    ("transitions", "emission", "expected"),
    [
        ([TURN], TOLD_APART, "exact linear"),
        ([TURN], WITH_ZERO, "exact linear"),
        ([TURN, STAY], ALIKE, "exact linear"),
        ([MERGE], TOLD_APART, "initial-state"),
        ([TURN, MERGE], WITH_ZERO, "initial-state"),
        ([SLIPPING], TOLD_APART, "adaptive linear"),
        ([SLIPPING], ALIKE, "adaptive linear"),  # their successors tell them apart
        ([SLIPPING], WITH_ZERO, "belief"),
        ([SLIPPING_MERGE], TOLD_APART, "adaptive linear"),
        ([SLIPPING, STAY], TOLD_APART, "adaptive linear"),
        ([SLIPPING, STAY], ALIKE, "belief"),
        ([SLIPPING, STAY], WITH_ZERO, "belief"),
        ([SLIPPING, MERGE], TOLD_APART, "belief"),
        ([np.full((3, 3), 1 / 3)], TOLD_APART, "belief"),
        ([STAY, np.full((3, 3), 1 / 3)], TOLD_APART, "belief"),
    ],
)
def test_the_filter_is_the_one_whose_theorem_covers_the_model(transitions, emission, expected):
    found = analyse(pomdp(transitions, emission)).recommended
    assert found.filter == expected
    assert (found.delta is not None) == (expected == "adaptive linear")


def test_a_pomdp_with_one_action_is_analysed_as_an_hmm():
    one_action = analyse(pomdp([SLIPPING], TOLD_APART)).as_dict()
    assert one_action == analyse(hmm(SLIPPING, TOLD_APART)).as_dict()


def decoding_error(successor, transition, emission, deltas, trajectories=2000, steps=300):
    """Share of steps, after a burn-in, at which the argmax of the adaptive linear filter errs."""
    rng = np.random.default_rng(6)
    n, inverse = len(successor), np.argsort(successor)

    def draw(rows):
        return (rng.random(len(rows))[:, None] > rows.cumsum(axis=1)[:, :-1]).sum(axis=1)

    state = rng.integers(n, size=trajectories)
    logits, errors = np.zeros((len(deltas), trajectories, n)), []
    delta = np.asarray(deltas)[:, None, None]
    for _ in range(steps):
        state = draw(transition[state])
        seen = np.log(emission)[:, draw(emission[state])].T
        logits = (1 - delta) * logits[:, :, inverse] + delta * seen
        errors.append((logits.argmax(axis=2) != state).mean(axis=1))
    return np.mean(errors[steps // 2 :], axis=0)


@pytest.mark.parametrize("eps", [1 / 30, 1 / 250])
def test_on_the_two_state_model_the_recommended_rate_errs_less_than_the_papers_and_within_the_bound(eps):
    model = two_states(eps)
    found = analyse(model)
    deltas = [found.recommended.delta, 0.7 / math.log(1 / eps), 1.2 * found.recommended.delta]
    ours, papers, larger = decoding_error(np.array([1, 0]), model.transition, model.emission, deltas)
    assert larger < ours < papers < found.certificates[0].bound


def test_on_a_ring_a_rate_above_the_certified_one_errs_less():
    rng = np.random.default_rng(7)
    successor, emission = np.roll(np.arange(8), 1), random_rows(rng, 8, 6)
    model = hmm(near(successor, 0.02, rng), emission)
    delta = analyse(model).recommended.delta
    certified, larger = decoding_error(successor, model.transition, emission, [delta, 2 * delta], 500)
    assert larger < certified


# The report.


def test_the_report_reads_as_aligned_lines_that_state_the_findings():
    lines = analyse(two_states(1 / 30)).lines()
    assert all((line[:16].strip() and line[16] == " ") or line.startswith(" " * 17) for line in lines)
    text = "\n".join(lines)
    for part in ("eps = 0.03333", "period 2", "xi = 0.720601", "Assumption 5.6", "adaptive linear, delta ="):
        assert part in text


def test_the_dictionary_is_strict_json_even_where_the_exponent_is_infinite():
    found = analyse(hmm([[1.0]], [[0.5, 0.5]]))
    assert found.xi == math.inf
    for each in (found, analyse(RingWorld().tables()), analyse(two_states(0.1))):
        assert json.loads(json.dumps(each.as_dict(), allow_nan=False)) == each.as_dict()


def test_anything_but_an_hmm_or_pomdp_is_refused_by_name():
    # TypeCheckError: what the checked signature raises first when the tests run with it.
    with pytest.raises((TypeError, TypeCheckError), match=r"HMM.*POMDP"):
        analyse(np.eye(2))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("nearly", [0.0, -1.0, 0.6, math.nan])
def test_a_threshold_outside_its_range_is_refused(nearly):
    with pytest.raises(ValueError, match="nearly"):
        analyse(two_states(0.1), nearly=nearly)


# Every valid model.


def rows(draw, *shape, zeros):
    weight = st.floats(0.01, 1) if not zeros else st.one_of(st.just(0.0), st.floats(1e-300, 1))
    table = np.array(draw(st.lists(weight, min_size=math.prod(shape), max_size=math.prod(shape))))
    table = table.reshape(shape)
    table[table.sum(axis=-1) == 0] = 1
    table /= table.max(axis=-1, keepdims=True)  # else a sum of tiny weights is inexact
    return table / table.sum(axis=-1, keepdims=True)


@st.composite
def models(draw, zeros):
    n, k, m = (draw(st.integers(1, top)) for top in (5, 3, 3))
    transitions = []
    for _ in range(m):
        kind = draw(st.sampled_from(["permutation", "map", "near", "any"]))
        successor = draw(st.permutations(range(n)))
        if kind == "map":
            successor = draw(st.lists(st.integers(0, n - 1), min_size=n, max_size=n))
        eps = {"near": draw(st.sampled_from([0.3, 0.01, 1e-20, 1e-300, 5e-324])), "any": 1.0}.get(kind, 0.0)
        noise = rows(draw, n, n, zeros=zeros)
        transitions.append((1 - eps) * np.eye(n)[list(successor)] + eps * noise)
    emission = rows(draw, n, k, zeros=zeros)
    if m == 1 and draw(st.booleans()):
        return hmm(transitions[0], emission)
    return pomdp(transitions, emission)


@settings(max_examples=80, deadline=None)
@given(st.booleans().flatmap(models))
def test_every_valid_model_gets_a_defined_analysis(model):
    with np.errstate(all="raise", under="ignore"):
        found = analyse(model)
    json.dumps(found.as_dict(), allow_nan=False)
    assert "nan" not in str(found)
    for transition, table in zip(
        found.transitions, np.reshape(model.transition, (-1, model.n_states, model.n_states)), strict=True
    ):
        if transition.backbone is None:
            assert transition.kind == "neither" and transition.eps >= 0.5
            continue
        backbone = transition.backbone
        rebuilt = backbone.matrix + backbone.eps * backbone.perturbation
        np.testing.assert_allclose(rebuilt, table, atol=1e-12)
        assert {backbone.successor[state] for state in backbone.recurrent} == set(backbone.recurrent)
        assert (backbone.eps == 0) == (transition.kind in ("permutation", "many-to-one"))
    asked = {"5.7": "5.6", "5.9": "5.8"}
    for certificate in found.certificates:
        assert (certificate.xi > 0) == assumption(found, asked[certificate.theorem]).holds
        assert certificate.delta is None or 0 < certificate.delta <= 0.5
    if found.recommended.filter == "adaptive linear":
        assert found.recommended.delta in [each.delta for each in found.certificates]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_pooling_two_observations_never_raises_the_exponent(data):
    emission = rows(data.draw, 4, 3, zeros=False)
    successor = data.draw(st.permutations(range(4)))
    transition = 0.9 * np.eye(4)[list(successor)] + 0.1 / 4
    pooled = np.stack([emission[:, 0], emission[:, 1] + emission[:, 2]], axis=1)
    assert analyse(hmm(transition, pooled)).xi <= analyse(hmm(transition, emission)).xi * (1 + 1e-9) + 1e-15


def test_two_hundred_states_take_seconds():
    rng = np.random.default_rng(8)
    model = hmm(near(rng.permutation(200), 0.01, rng), random_rows(rng, 200, 20, sharpness=3))
    began = time.perf_counter()
    found = analyse(model)
    assert time.perf_counter() - began < 30
    assert 0 < found.xi < math.inf

"""Intervals agree with scipy and with arithmetic done by hand, and say so when the data cannot give any."""

import numpy as np
import pytest
from scipy import stats

from linmem.measures.statistics import (
    Interval,
    bootstrap_mean,
    difference,
    interquartile_mean,
    performance_profile,
    recovered_fraction,
    wilson_interval,
)


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_interval_equals_scipys_for_every_count(confidence):
    trials = 17
    low, high = wilson_interval(np.arange(trials + 1), trials, confidence)
    for successes in range(trials + 1):
        expected = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
        np.testing.assert_allclose((low[successes], high[successes]), expected, atol=1e-14)


def test_wilson_interval_broadcasts_and_stays_within_zero_and_one():
    low, high = wilson_interval([[0], [3]], [3, 50, 7])
    assert low.shape == high.shape == (2, 3)
    assert (low >= 0).all() and (high <= 1).all()
    assert (low[0] == 0).all() and high[1, 0] == 1


@pytest.mark.parametrize(("successes", "trials"), [(4, 3), (-1, 3), (0, 0), (np.nan, 3)])
def test_wilson_interval_refuses_impossible_counts(successes, trials):
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(successes, trials)


def test_bootstrap_mean_of_two_values_spans_exactly_these_values():
    # The resamples of {0, 1} have means 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4: both tails exceed 2.5%.
    assert bootstrap_mean([0.0, 1.0]) == Interval(0.5, 0.0, 1.0)


def test_bootstrap_mean_approaches_the_normal_interval_for_many_values():
    values = np.random.default_rng(0).normal(3, 2, size=400)
    expected = stats.norm.interval(0.95, values.mean(), values.std() / 20)
    mean, *ends = bootstrap_mean(values)
    assert mean == pytest.approx(values.mean())
    np.testing.assert_allclose(ends, expected, atol=0.02)


def test_bootstrap_mean_is_the_same_on_every_call():
    assert bootstrap_mean([1.0, 2.0, 5.0, 7.0]) == bootstrap_mean([1.0, 2.0, 5.0, 7.0])


def test_one_value_has_a_mean_but_no_interval():
    mean, low, high = bootstrap_mean([0.3])
    assert mean == 0.3 and np.isnan(low) and np.isnan(high)


def test_equal_values_have_an_interval_of_no_width():
    mean, low, high = bootstrap_mean([0.1, 0.1, 0.1])
    assert low == mean == high == pytest.approx(0.1)


def test_a_diverged_seed_is_not_averaged_away():
    assert np.isnan(bootstrap_mean([0.3, np.nan, 0.4])).all()


def test_bootstrap_mean_refuses_anything_but_one_value_per_seed():
    with pytest.raises(ValueError, match=r"shape \(0,\)"):
        bootstrap_mean([])
    with pytest.raises(ValueError, match=r"shape \(1, 2\)"):
        bootstrap_mean([[1.0, 2.0]])


def test_recovered_fraction_is_the_share_of_the_gain():
    fraction, low, high = recovered_fraction([0.4, 0.4], [0.6, 0.6, 0.6], [-0.2, -0.2])
    assert fraction == low == high == pytest.approx(0.75)


def test_recovered_fraction_varies_with_all_three_samples():
    rng = np.random.default_rng(1)
    samples = [rng.normal(mean, 0.05, size=40) for mean in (0.4, 0.6, 0.0)]
    interval = recovered_fraction(*samples)
    # First-order propagation of the three independent standard errors through J, J*, J0 -> (J-J0)/(J*-J0).
    j, best, floor = (s.mean() for s in samples)
    variances = np.array([s.var() / 40 for s in samples])
    slopes = np.array([1, -(j - floor) / (best - floor), (j - best) / (best - floor)]) / (best - floor)
    half = 1.96 * np.sqrt(slopes**2 @ variances)
    assert interval.mean == pytest.approx((j - floor) / (best - floor))
    np.testing.assert_allclose(interval[1:], (interval.mean - half, interval.mean + half), atol=0.01)


def test_recovered_fraction_of_a_gain_that_may_be_zero_can_be_anything():
    interval = recovered_fraction([0.1, 0.2, 0.15], [0.0, 0.5, 0.2], [0.1, 0.3, -0.1])
    assert np.isfinite(interval.mean) and (interval.low, interval.high) == (-np.inf, np.inf)


def test_recovered_fraction_is_undefined_without_a_gain():
    assert np.isnan(recovered_fraction([0.1, 0.2], [0.0, 0.1], [0.3, 0.4])).all()


def test_recovered_fraction_of_single_seeds_has_no_interval():
    fraction, low, high = recovered_fraction([0.5], [1.0], [0.0])
    assert fraction == 0.5 and np.isnan(low) and np.isnan(high)


def test_the_interval_of_a_difference_is_welchs():
    a, b = np.array([1.0, 2.0, 4.0, 3.5]), np.array([0.5, 0.7, 0.2])
    va, vb = a.var(ddof=1) / 4, b.var(ddof=1) / 3
    freedom = (va + vb) ** 2 / (va**2 / 3 + vb**2 / 2)
    half = stats.t.ppf(0.975, freedom) * (va + vb) ** 0.5
    gap = a.mean() - b.mean()
    np.testing.assert_allclose(difference(a, b), (gap, gap - half, gap + half))


def test_one_value_gives_a_difference_without_ends():
    mean, low, high = difference([1.0], [0.5, 0.6])
    assert mean == pytest.approx(0.45) and np.isnan([low, high]).all()


def test_the_interquartile_mean_is_the_mean_of_the_middle_half_of_all_worlds_scores():
    worlds = [[0.0, 5.0, 1.0, 7.0], [2.0, 30.0, 3.0, -9.0]]
    assert interquartile_mean(worlds).mean == pytest.approx((1 + 2 + 3 + 5) / 4)


def test_the_stratified_bootstrap_draws_seeds_within_worlds_and_never_across():
    # Seeds of a world are equal but for one world: whatever is drawn within worlds keeps the others.
    interval = interquartile_mean([[0.0, 0.0], [1.0, 1.0], [0.4, 0.6], [9.0, 9.0]])
    # Sorted, the middle four of eight are 0.4, 0.6, 1, 1, or with a resample 0.4, 0.4 or 0.6, 0.6.
    np.testing.assert_allclose(interval, (0.75, 0.7, 0.8))
    across = np.array([0, 0, 1, 1, 0.4, 0.6, 9, 9])
    assert bootstrap_mean(across).high > 3  # drawing across worlds would be wide


def test_an_interquartile_mean_of_single_seeds_has_no_interval():
    mean, low, high = interquartile_mean([[0.1], [0.2]])
    assert mean == pytest.approx(0.15) and np.isnan([low, high]).all()


def test_a_profile_of_unknown_scores_is_unknown_and_of_one_seed_has_no_ends():
    assert all(np.isnan(part).all() for part in performance_profile([[np.nan, 0.2], [0.9, 0.9]], [0.5]))
    profile, low, high = performance_profile([[0.1], [0.2, 0.9]], [0.15])
    assert profile == 0.5 and np.isnan(low) and np.isnan(high)


def test_a_performance_profile_is_the_share_of_runs_above_each_threshold():
    profile, low, high = performance_profile([[0.1, 0.3], [0.2, 0.9, 0.9, 0.9]], [0.0, 0.15, 0.25, 0.95])
    np.testing.assert_allclose(profile, [1, (0.5 + 1) / 2, (0.5 + 0.75) / 2, 0])
    assert (low <= profile).all() and (profile <= high).all()
    assert low[0] == high[0] == 1 and low[1] < high[1]
    assert (np.diff(profile) <= 0).all()

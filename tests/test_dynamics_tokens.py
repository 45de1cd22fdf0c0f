"""The token dynamics are those of the selective recurrence, and outcomes are what closed forms say."""

import numpy as np
import pytest

from linmem.evidence.dynamics_tokens import outcome, velocity


def test_the_velocity_is_the_double_sum():
    rng = np.random.default_rng(0)
    x, mu, a, s = rng.normal(size=4), -0.7, 0.4, 1.3
    delta = np.log1p(np.exp(s * x))
    for l, got in enumerate(velocity(x, mu, a, s)):
        total = sum(x[j] ** 2 * delta[j] * np.exp(-a * delta[j + 1 : l + 1].sum()) for j in range(l + 1))
        assert got == pytest.approx(mu * x[l] * total)


def test_one_token_moves_like_a_cube():
    """With s = 0, dx/dt = mu log(2) x^3: to zero for mu < 0, to infinity in finite time for mu > 0."""
    assert outcome(np.array([0.5]), -1.0, 1.0, 0.0) == "vanish"
    assert outcome(np.array([0.5]), 1.0, 1.0, 0.0) == "diverge"


def test_slow_divergence_is_divergence():
    """A positive token with s < 0 grows like log t only."""
    assert outcome(np.array([0.5]), 1.0, 1.0, -2.0) == "diverge"


def test_without_a_readout_nothing_moves():
    assert outcome(np.array([0.5, -1.0]), 0.0, 1.0, 1.0) == "neither"

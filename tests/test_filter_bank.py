"""The bank is its filters side by side; the self-tuning filter weighs them by Bayes' rule."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linmem import POMDP, AdaptiveLinearFilter, Inputs
from linmem.memories import FilterBank, SelfTuningFilter

RATES = (0.05, 0.2, 0.6, 1.0)


def ring(eps, rng=None, states=5, observations=4):
    """Two actions that turn a ring either way, except with probability eps."""
    rng = np.random.default_rng(0) if rng is None else rng
    turns = np.stack([np.roll(np.eye(states), 1, axis=1), np.roll(np.eye(states), -1, axis=1)])
    transition = (1 - eps) * turns + eps / (states - 1) * (1 - turns)
    emission = rng.dirichlet(np.ones(observations), states)
    return POMDP(transition, emission, np.zeros(states), np.ones(states) / states, 0.9)


def run_of(model, steps, seed=0):
    actions = jax.random.randint(jax.random.key(seed), (steps,), 0, model.n_actions)
    observations = model.simulate(jax.random.key(seed + 1), actions).observations[1:]
    return Inputs(observations, actions, jnp.zeros(steps))


def forecasts(model, rates, xs):
    """q_t^r, the probability that forgetting at each rate gives to each observation, in float64: the belief
    is moved, raised to the power 1 - delta, and met with the observation."""
    moves, out = model.transition.argmax(axis=2), []
    p = np.ones((len(rates), model.n_states)) / model.n_states
    for o, a in zip(np.asarray(xs.observation), np.asarray(xs.action), strict=True):
        moved = np.zeros_like(p)
        moved[:, moves[a]] = p
        moved = moved ** (1 - np.array(rates)[:, None])
        moved /= moved.sum(axis=1, keepdims=True)
        joint = moved * model.emission[a, :, o]
        out.append(joint.sum(axis=1))
        p = joint / joint.sum(axis=1, keepdims=True)
    return np.stack(out)


def test_the_bank_is_the_adaptive_filters_side_by_side(float64):
    model = ring(0.1)
    xs, starts = run_of(model, 60), jnp.arange(60) % 25 == 0
    bank = FilterBank(model, RATES)
    together = eqx.filter_jit(bank.unroll)(bank.init(), xs, starts)[1].reshape(60, len(RATES), 5)
    for r, rate in enumerate(RATES):
        alone = AdaptiveLinearFilter(model, rate)
        np.testing.assert_allclose(together[:, r], alone.unroll(alone.init(), xs, starts)[1], rtol=1e-12)


def test_the_rates_are_weighed_by_the_product_of_their_forecasts(float64):
    model, steps = ring(0.05), 300
    xs, memory = run_of(model, steps), SelfTuningFilter(model, RATES)
    (_, log_weights), _ = eqx.filter_jit(memory.unroll)(memory.init(), xs, jnp.zeros(steps, bool))
    total = np.log(forecasts(model, RATES, xs)).sum(axis=0)
    np.testing.assert_allclose(log_weights, total - total.max(), atol=1e-9)


def test_the_weighted_forecast_loses_at_most_log_r_to_the_best_rate_in_hindsight(float64):
    model, steps = ring(0.05), 300
    xs, memory = run_of(model, steps, seed=5), SelfTuningFilter(model, RATES)
    step = eqx.filter_jit(memory.step)
    state, weights = memory.init(), []
    for t in range(steps):
        weights.append(jax.nn.softmax(state[1]))  # before the observation
        state, _ = step(state, jax.tree.map(lambda leaf: leaf[t], xs), jnp.asarray(False))  # noqa: B023
    q = forecasts(model, RATES, xs)
    loss, losses = -np.log((np.stack(weights) * q).sum(axis=1)).sum(), -np.log(q).sum(axis=0)
    assert losses.min() - 1e-9 <= loss + np.log(len(RATES))
    assert loss <= losses.min() + np.log(len(RATES)) + 1e-9
    assert loss < losses.mean() - 10  # and what a fixed average of the losses pays is far more


def test_the_rate_that_it_finds_falls_with_eps():
    found = []
    for eps in (0.3, 0.03, 0.003):
        model = ring(eps)
        memory = SelfTuningFilter(model)
        xs = run_of(model, 3000, seed=9)
        found.append(
            float(memory.delta(eqx.filter_jit(memory.unroll)(memory.init(), xs, jnp.zeros(3000, bool))[0]))
        )
    assert found[0] > 1.3 * found[1] > 1.3 * 1.3 * found[2]


def test_rates_that_are_none_or_out_of_range_are_refused_by_place():
    for cls in (FilterBank, SelfTuningFilter):
        with pytest.raises(ValueError, match=r"rates\[1\] is 0; a bank's forgetting rates lie in \(0, 1\]"):
            cls(ring(0.1), (0.5, 0.0))
        with pytest.raises(ValueError, match=r"rates\[0\] is nan"):
            cls(ring(0.1), (float("nan"),))
        with pytest.raises(ValueError, match="rates is empty"):
            cls(ring(0.1), ())

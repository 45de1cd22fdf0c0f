"""The supervised trainer: masks, starts, padding and seeds mean what they say, and it learns."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linmem.memories import GRU
from linmem.tasks import parity
from linmem.tasks.train import (
    Batch,
    Fit,
    SequenceModel,
    TaskBatches,
    accuracy,
    advance,
    cross_entropy,
    init,
    mean_loss,
    squared_error,
)

SIZE, LENGTH = 6, 9


def gru(size, key):
    return GRU(size, size, key=key)


def model(key=0, depth=2):
    return SequenceModel.make(eqx.nn.Embedding, 2, 2, SIZE, gru, depth, key=jax.random.key(key))


def batch(key=0, count=5, length=LENGTH):
    return TaskBatches(parity(), count, length)(jax.random.key(key))


loss_and_gradient = eqx.filter_jit(eqx.filter_value_and_grad(mean_loss))


def spoiled(batch):
    """Other inputs and targets in the second half."""
    half = jnp.arange(LENGTH) < LENGTH // 2
    return batch._replace(
        inputs=jnp.where(half, batch.inputs, 1 - batch.inputs),
        targets=jnp.where(half, batch.targets, 1 - batch.targets),
        mask=batch.mask & half,
    )


def test_padding_changes_neither_loss_nor_gradient():
    cut = batch()._replace(mask=spoiled(batch()).mask)
    one, other = (loss_and_gradient(model(), cross_entropy, b) for b in (cut, spoiled(batch())))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_a_start_makes_two_sequences_of_one():
    two = batch(count=2)
    inputs, targets = two.inputs.reshape(1, -1), two.targets.reshape(1, -1)
    packed = Batch(inputs, targets, jnp.ones_like(inputs, bool), two.starts.reshape(1, -1))
    losses = [loss_and_gradient(model(), cross_entropy, b)[0] for b in (packed, two)]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_the_loss_is_the_mean_negative_log_probability_of_the_scored_targets():
    b = spoiled(batch())
    logits = np.asarray(jax.vmap(model())(b.inputs, b.starts), np.float64)
    log_prob = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    picked = np.take_along_axis(log_prob, np.asarray(b.targets)[..., None], -1)[..., 0]
    expected = -picked[np.asarray(b.mask)].mean()
    np.testing.assert_allclose(loss_and_gradient(model(), cross_entropy, b)[0], expected, rtol=1e-5)


def test_one_long_batch_answers_for_shorter_lengths():
    b = batch()
    right, scored = accuracy(model(), b)
    cut = jax.tree.map(lambda x: x[:, :4], b)
    short_right, short_scored = accuracy(model(), cut)
    np.testing.assert_array_equal(right[:4], short_right)
    np.testing.assert_array_equal(scored[:4], short_scored)
    guess = np.argmax(jax.vmap(model())(b.inputs, b.starts), -1)
    np.testing.assert_array_equal(right, (guess == b.targets).sum(0))


def test_seeds_side_by_side_are_seeds_one_by_one():
    fit, draw = Fit(), TaskBatches(parity(), 5, LENGTH)
    models = [model(k) for k in range(2)]
    keys = jax.random.split(jax.random.key(0), 2)

    def run(m, key):
        return advance(fit, cross_entropy, draw, init(fit, m), key, 3)[1]

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
    together = eqx.filter_jit(eqx.filter_vmap(run))(stacked, keys)
    alone = [eqx.filter_jit(run)(m, key) for m, key in zip(models, keys, strict=True)]
    np.testing.assert_allclose(together, jnp.stack(alone), rtol=1e-4)


def test_parity_of_short_sequences_is_learned():
    fit, draw = Fit(step_size=1e-2), TaskBatches(parity(), 32, 5, 3)
    learn = eqx.filter_jit(lambda state, key: advance(fit, cross_entropy, draw, state, key, 400))
    state, losses = learn(init(fit, model(depth=1)), jax.random.key(1))
    assert losses[0] > 0.5 and losses[-20:].mean() < 0.05
    right, scored = accuracy(state.model, batch(1, 100, 5))
    assert right.sum() / scored.sum() > 0.98


def test_without_a_warm_up_the_first_step_learns():
    fit, draw, m = Fit(warmup=0), TaskBatches(parity(), 5, LENGTH), model()
    state, _ = eqx.filter_jit(advance)(fit, cross_entropy, draw, init(fit, m), jax.random.key(0), 1)
    assert not np.array_equal(state.model.head.weight, m.head.weight)


def test_annealed_steps_fall_to_nothing():
    fit, draw = Fit(warmup=0, anneal=2), TaskBatches(parity(), 5, LENGTH)
    learn = eqx.filter_jit(lambda state, key: advance(fit, cross_entropy, draw, state, key, 2)[0])
    begun = init(fit, model())
    after = learn(begun, jax.random.key(0))
    weights = [state.model.head.weight for state in (begun, after, learn(after, jax.random.key(1)))]
    assert not np.array_equal(weights[0], weights[1])
    np.testing.assert_array_equal(weights[1], weights[2])


def test_a_batch_with_nothing_to_score_costs_nothing_and_teaches_nothing():
    b = batch(1, 3, 4)._replace(mask=jnp.zeros((3, 4), bool))
    value, gradient = eqx.filter_value_and_grad(mean_loss)(model(), cross_entropy, b)
    assert value == 0 and all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


class LastValue(eqx.Module):
    """Forecasting: the target at each step is the input before it."""

    def __call__(self, key):
        x = jax.random.uniform(key, (16, LENGTH, 1), minval=-1.0)
        starts = jnp.zeros((16, LENGTH), bool).at[:, 0].set(True)
        return Batch(x, jnp.roll(x, 1, axis=1), ~starts, starts)


def test_real_valued_sequences_are_forecast():
    fit = Fit(step_size=1e-2)
    model = SequenceModel.make(eqx.nn.Linear, 1, 1, SIZE, gru, 1, key=jax.random.key(0))
    learn = eqx.filter_jit(lambda state, key: advance(fit, squared_error, LastValue(), state, key, 400))
    _, losses = learn(init(fit, model), jax.random.key(1))
    assert losses[0] > 0.2 and losses[-20:].mean() == pytest.approx(0, abs=0.03)

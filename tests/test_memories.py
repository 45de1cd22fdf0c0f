"""Every memory keeps every promise."""

import importlib
import pkgutil

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import linmem.memories as memories
from linmem.core import checkpointed
from linmem.memories import CONFORMING, MEMORIES, learned_layers
from linmem.memories.base import AbstractMemory, unroll_batch
from linmem.memories.ffm import FFM
from linmem.memories.gla import GLA
from linmem.memories.gru import GRU
from linmem.memories.promises import PROMISES, STEPS, float32_stays_near_float64
from linmem.memories.s5 import S5
from linmem.memories.stack import Residual
from linmem.worlds import RingWorld


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("cls", CONFORMING, ids=lambda cls: cls.__name__)
def test_every_memory_keeps_every_promise(cls, promise, monkeypatch):
    if promise is float32_stays_near_float64:
        # Other promises run the same functions with their types checked; 10,000 times costs half the time.
        monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    promise(cls)


@pytest.mark.parametrize("name", [*learned_layers(), "trace", "window", "window_trace"])
def test_every_memory_that_reads_features_can_be_given_the_last_reward(name):
    def size(option):
        make = MEMORIES[name + option].make
        made = eqx.filter_eval_shape(lambda key: make(RingWorld(), 8, key), jax.random.key(0))
        return made.features.size

    assert size("@reward=True") == size("@reward=False") + 1 == size("") + 1


def test_every_concrete_memory_of_the_package_is_in_the_conformance_list():
    found = set()
    for module in pkgutil.iter_modules(memories.__path__):
        for value in vars(importlib.import_module(f"linmem.memories.{module.name}")).values():
            if (
                isinstance(value, type)
                and issubclass(value, AbstractMemory)
                and value.__module__.endswith(module.name)
            ):
                if not value.__name__.startswith(("Abstract", "_")):
                    found.add(value)
    assert found == set(CONFORMING)


@pytest.mark.parametrize("cls", [GRU, FFM, S5], ids=lambda cls: cls.__name__)
def test_a_batch_in_blocks_gives_the_features_and_gradients_of_its_sequences(cls, monkeypatch):
    memory, xs = cls.example(jax.random.key(7), STEPS)
    xs = jnp.stack([xs, 2 * xs], axis=1)
    begin = memory.init() + jnp.cos(jnp.arange(2 * memory.init().size)).reshape(2, -1)
    last_start = 5
    starts = jnp.stack([jnp.isin(jnp.arange(STEPS), jnp.array(at)) for at in ([4, 5], [2, 5])], axis=1)

    def results(unroll, xs, states, since=0):
        """Features from step ``since`` on, and gradients of what they say."""

        def loss(memory, states, xs):
            last, ys = unroll(memory, xs, starts, states)
            ys = ys[since:]
            return jnp.sum(jnp.sin(jnp.arange(ys.size)).reshape(ys.shape) * ys), (last, ys)

        (by_memory, by_states, by_xs), out = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(
            memory, states, xs
        )
        return out, by_xs[since:], by_states, by_memory

    def one_by_one(memory, xs, starts, states):
        alone = [memory.unroll(states[b], xs[:, b], starts[:, b]) for b in range(2)]
        return jnp.stack([last for last, _ in alone]), jnp.stack([ys for _, ys in alone], axis=1)

    monkeypatch.setattr(checkpointed, "BLOCK", 4 * 2 * memory.out_size)  # three blocks of 4 steps, and a step
    monkeypatch.setattr(checkpointed, "MANY", 1)
    blocks, whole = results(unroll_batch, xs, begin), results(one_by_one, xs, begin)
    for a, b in zip(jax.tree.leaves(blocks), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    clean = results(unroll_batch, xs, begin, last_start)
    poisoned = results(unroll_batch, xs.at[:last_start].set(jnp.nan), begin * jnp.nan, last_start)
    for a, b in zip(jax.tree.leaves(poisoned[:2]), jax.tree.leaves(clean[:2]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_wrapper_is_cut_into_blocks_if_what_it_holds_is():
    for memory in (GRU(6, 6, key=jax.random.key(0)), GLA(6, heads=2, key=jax.random.key(0))):
        assert Residual(memory, key=jax.random.key(0)).without_blocks is memory.without_blocks


def test_a_large_batch_keeps_a_few_blocks_only():
    memory, steps, batch = FFM(32, 64, 16, 4, key=jax.random.key(0)), 4096, 16

    def kept(unroll):
        loss = lambda memory, xs: jnp.sum(unroll(memory, xs, jnp.zeros((steps, batch), bool))[1] ** 2)  # noqa: E731
        compiled = jax.jit(jax.grad(loss)).lower(memory, jnp.zeros((steps, batch, 32))).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    def vmapped(memory, xs, starts):
        return jax.vmap(memory.unroll, (None, 1, 1), (0, 1))(memory.init(), xs, starts)

    assert kept(unroll_batch) < 0.25 * kept(vmapped)

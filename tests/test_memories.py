"""Every memory keeps every promise."""

import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linmem.memories as memories
from linmem.core import checkpointed
from linmem.memories import CONFORMING
from linmem.memories.base import AbstractMemory
from linmem.memories.ffm import FFM
from linmem.memories.gru import GRU
from linmem.memories.promises import PROMISES, STEPS
from linmem.memories.s5 import S5


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("cls", CONFORMING, ids=lambda cls: cls.__name__)
def test_every_memory_keeps_every_promise(cls, promise):
    promise(cls)


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
def test_a_long_sequence_in_blocks_gives_the_features_and_gradients_of_one(cls, monkeypatch):
    memory, xs = cls.example(jax.random.key(7), STEPS)
    begin, last_start = memory.init() + jnp.cos(jnp.arange(memory.init().size)), 5
    starts = jnp.isin(jnp.arange(STEPS), jnp.array([4, last_start]))

    def results(xs, initial, since=0):
        """Features from step ``since`` on, of two sequences side by side, and gradients of what they say."""

        def loss(memory, initial, xs):
            unroll = jax.vmap(memory.unroll, in_axes=(None, 0, None))
            last, ys = unroll(initial, jnp.stack([xs, 2 * xs]), starts)
            ys = ys[:, since:]
            return jnp.sum(jnp.sin(jnp.arange(ys.size)).reshape(ys.shape) * ys), (last, ys)

        gradient = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))
        (by_memory, by_initial, by_xs), out = gradient(memory, initial, xs)
        return out, by_xs[since:], by_initial, by_memory

    whole = results(xs, begin)
    monkeypatch.setattr(checkpointed, "BLOCK", 4)  # three blocks and a step; the last start lies inside one
    monkeypatch.setattr(checkpointed, "LONG", STEPS)
    for a, b in zip(jax.tree.leaves(results(xs, begin)), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    clean = results(xs, begin, last_start)
    poisoned = results(xs.at[:last_start].set(jnp.nan), begin * jnp.nan, last_start)
    for a, b in zip(jax.tree.leaves(poisoned[:2]), jax.tree.leaves(clean[:2]), strict=True):
        np.testing.assert_array_equal(a, b)

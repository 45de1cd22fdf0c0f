"""What ``test_devices.py`` has done in a process of its own, on four simulated devices: prints JSON."""

import json
import os

os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4"}

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from linmem.agents import PPOConfig, ppo
from linmem.core.algebra import (
    BlockDiagonal,
    Dense,
    Diagonal,
    Element,
    LogSumExp,
    MaxPlus,
    Ordinary,
    Permutation,
    Permuted,
    Switch,
    Switched,
)
from linmem.core.scan import scan
from linmem.core.sharded_scan import sharded_scan
from linmem.experiments.cache import enable_compilation_cache
from linmem.experiments.devices import Devices, choose
from linmem.memories import MEMORIES
from linmem.worlds import WORLDS

enable_compilation_cache()
STEPS, BATCH, SIZE = 12, 2, 3


def elements():
    """(name, algebra, elements, initial state); the belief filter's inputs are only the beliefs at starts."""
    keys = iter(jax.random.split(jax.random.key(0), 20))
    normal = lambda *shape: jax.random.normal(next(keys), shape)  # noqa: E731
    b, h = normal(STEPS, BATCH, SIZE), normal(BATCH, SIZE)
    time = (STEPS, BATCH)
    yield "diagonal", Diagonal(), Element(normal(*time, SIZE), b), h
    yield "constant", Diagonal(), Element(normal(1, 1, SIZE), b), h
    yield "complex", Diagonal(), Element(jnp.exp(1j * normal(*time, SIZE)), b + 0j), h + 0j
    yield "dense", Dense(), Element(normal(*time, SIZE, SIZE), b), h
    blocks = Element(normal(*time, 2, SIZE, SIZE), normal(*time, 2, SIZE))
    yield "blocks", BlockDiagonal(), blocks, normal(BATCH, 2, SIZE)
    source = jnp.argsort(normal(*time, SIZE), axis=-1)
    yield "permutation", Permutation(), Element(Permuted(source, normal(*time, SIZE)), b), h
    settling = Permutation(Ordinary(shifted=True))
    yield "shifted", settling, Element(Permuted(source, jnp.ones((*time, SIZE))), b), h
    yield "log-sum-exp", Dense(LogSumExp()), Element(normal(*time, SIZE, SIZE), b), h
    yield "max-plus", Diagonal(MaxPlus()), Element(normal(*time, SIZE), b), h
    at_starts = jnp.where(starts()[..., None], b, -jnp.inf)
    filtering = Dense(LogSumExp(projective=True))
    yield "belief", filtering, Element(normal(*time, SIZE, SIZE), at_starts), h
    picked = Switch(
        normal(1, 1, 4, SIZE, SIZE), jnp.arange(STEPS * BATCH).reshape(time) % 4, normal(*time, SIZE)
    )
    yield "picked", Switched(Dense()), Element(picked, b), h


def starts():
    return jnp.zeros((STEPS, BATCH), bool).at[jnp.array([1, 7, 8, 9]), jnp.array([0, 1, 1, 0])].set(True)


def scans() -> dict[str, float]:
    """The largest difference, relative to the largest entry, between one device and four: in states, and in
    the gradient of a loss of all of them."""
    jax.config.update("jax_enable_x64", True)
    mesh = Mesh(np.array(jax.devices()), ("time",))
    found = {}
    for name, *case in elements():
        for label, flags in {"": starts(), ", no starts": None}.items():
            if flags is not None or name == "diagonal":
                found[name + label] = _spread(mesh, *case, flags)
    jax.config.update("jax_enable_x64", False)
    return found


def _spread(mesh, algebra, element, initial, flags) -> float:
    learned, rest = eqx.partition((element, initial), eqx.is_inexact_array)

    def results(run):
        def loss(learned):
            last, states = run(algebra, *eqx.combine(learned, rest), flags)
            weights = jnp.cos(jnp.arange(states.size)).reshape(states.shape)
            return jnp.real(jnp.sum(weights * states) + jnp.sum(last**2)), (last, states)

        return jax.jit(jax.grad(loss, has_aux=True))(learned)

    one, four = results(scan), results(lambda *case: sharded_scan(*case, mesh))
    assert four[1][1].sharding.shard_shape(four[1][1].shape)[0] == STEPS // 4
    return max(map(_gap, jax.tree.leaves(one), jax.tree.leaves(four)))


def _gap(a, b) -> float:
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape
    finite = np.isfinite(a)
    assert np.array_equal(np.where(finite, 0, a), np.where(finite, 0, b), equal_nan=True)
    return float(np.abs(a - b)[finite].max(initial=0) / max(1.0, np.abs(a[finite]).max(initial=0)))


def training() -> dict[str, float]:
    """Two updates on one device and on four: the largest relative difference of a metric and of a parameter;
    and how many of the actors one device holds."""
    config = PPOConfig(
        actors=16,
        unroll=6,
        epochs=2,
        minibatches=2,
        memory_size=4,
        normalise_rewards=True,
        separate_critic=True,
    )
    world, make = WORLDS["ringworld@episode_length=5"].make(), MEMORIES["s5"].make
    state = ppo.seeds_init(config, world, make, 2, jax.random.split(jax.random.key(0), 2))
    devices = choose(4, config)
    assert isinstance(devices, Devices)
    alone, metrics = ppo.compile_train(config, world, 2, 2, state)(state)
    placed = devices.place(state)
    together, same = ppo.compile_train(config, world, 2, 2, state, devices.mesh)(placed)
    begun = together.actors.start
    return {
        "metrics": max(map(_gap, metrics, same)),
        "parameters": max(
            map(_gap, jax.tree.leaves(alone.policy), jax.tree.leaves(devices.local(together.policy)))
        ),
        "moved": max(map(_gap, jax.tree.leaves(state.policy), jax.tree.leaves(alone.policy))),
        "actors": begun.sharding.shard_shape(begun.shape)[1],
    }


if __name__ == "__main__":
    print(json.dumps({"scans": scans(), "training": training()}))

"""The same layers in other libraries, for `linmem bench layers`: memax (Equinox), memorax (Flax) and mambapy
(PyTorch).

Each is built at the sizes that our registered layer of that name has, and reads a batch (B, T, size), those
of JAX with start flags (B, T), as ours does. A library that cannot be imported is left out, with the reason.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp


class Peer(NamedTuple):
    """``apply(weights, xs, starts)`` gives features (B, T, size)."""

    weights: Any
    apply: Callable[[Any, jax.Array, jax.Array], jax.Array]


Make = Callable[[int], Peer]
"""A peer from its size, made only when asked for."""


def peers() -> tuple[dict[str, dict[str, Make]], list[str]]:
    """Makers by the name of our layer, then by library; and why a library is missing."""
    found: dict[str, dict[str, Make]] = {}
    missing = []
    for library, load in (("memax", _memax), ("memorax", _memorax)):
        try:
            layers = load()
        except Exception as error:  # an old release may break on import in any way
            missing.append(f"{library} is left out: {type(error).__name__}: {error}")
            continue
        for name, make in layers.items():
            found.setdefault(name, {})[library] = make
    return found, missing


def _memax() -> dict[str, Make]:
    from memax.equinox.semigroups.ffm import FFM  # pyright: ignore[reportMissingImports]
    from memax.equinox.semigroups.lru import LRU  # pyright: ignore[reportMissingImports]
    from memax.equinox.set_actions.gru import GRU  # pyright: ignore[reportMissingImports]

    key = jax.random.key(0)
    return {
        "lru": lambda size: _memax_peer(LRU(size, size, key)),
        "ffm": lambda size: _memax_peer(FFM(size, 32, 4, key)),
        "gru": lambda size: _memax_peer(GRU(size, key)),
        "deltanet": lambda size: memax_deltanet(size, size // 2),  # as many numbers as our 4 heads hold
    }


def memax_deltanet(size: int, state: int) -> Peer:
    """memax's DeltaNet: one head with a state of (state, state). Raises ImportError where memax is absent."""
    from memax.equinox.semigroups.delta import DeltaNet  # pyright: ignore[reportMissingImports]

    return _memax_peer(DeltaNet(size, state, jax.random.key(0)))


def _memax_peer(layer) -> Peer:
    weights, rest = eqx.partition(layer, eqx.is_inexact_array)

    def apply(weights, xs, starts):
        layer = eqx.combine(weights, rest)
        return jax.vmap(lambda xs, starts: layer(layer.initialize_carry(), (xs, starts))[1])(xs, starts)

    return Peer(weights, apply)


def _memorax() -> dict[str, Make]:
    from flax import linen as nn  # pyright: ignore[reportMissingImports]
    from memorax.networks.sequence_models import (  # pyright: ignore[reportMissingImports]
        RNN,
        FFMCell,
        LRUCell,
        Memoroid,
        S5Cell,
    )

    def peer(model, size):
        weights = model.init(jax.random.key(0), jnp.zeros((1, 2, size)), jnp.zeros((1, 2)))
        return Peer(weights, lambda weights, xs, starts: model.apply(weights, xs, starts.astype(float))[1])

    return {
        "lru": lambda size: peer(Memoroid(cell=LRUCell(features=size, hidden_dim=size)), size),
        "s5": lambda size: peer(Memoroid(cell=S5Cell(features=size, state_size=size // 2)), size),
        "ffm": lambda size: peer(Memoroid(cell=FFMCell(features=size, memory_size=32, context_size=4)), size),
        "gru": lambda size: peer(RNN(cell=nn.GRUCell(features=size)), size),
    }


def mambapy(size: int, batch: int, steps: int) -> Callable[[], None]:
    """A program: mambapy's Mamba block on the CPU, forward and backward in weights and inputs."""
    import torch  # pyright: ignore[reportMissingImports]
    from mambapy.mamba import MambaBlock, MambaConfig  # pyright: ignore[reportMissingImports]

    block = MambaBlock(MambaConfig(d_model=size, n_layers=1))
    xs = torch.randn(batch, steps, size, requires_grad=True)
    g = torch.cos(xs.detach())

    def program():
        block.zero_grad()
        xs.grad = None
        torch.sum(block(xs) * g).backward()

    return program

"""Memory traces: exponential averages of the inputs at several rates.

    z_t = lambda z_{t-1} + (1 - lambda) x_t            for each lambda

| paper  | here   | shape        | meaning                            |
|--------|--------|--------------|------------------------------------|
| lambda | decays | (r,)         | forgetting factors, fixed          |
| z      | h      | (r, in)      | one trace per factor               |

Source: O. Eberhard, M. Muehlebach, C. Vernade, "Partially Observable Reinforcement Learning with Memory
Traces", 2025, arXiv:2503.15200, eq. 1 (one lambda; several side by side are named there as an option).
Departures: z_{-1} = 0 at a start.
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..core.algebra import AbstractAlgebra, Diagonal, Element
from .base import ONCE, PER_STEP, AbstractLinearMemory


class Trace(AbstractLinearMemory):
    """Features (r * in_size,): the traces of an input (in_size,) for r decays in [0, 1)."""

    algebra: ClassVar[AbstractAlgebra] = Diagonal()

    in_size: int = eqx.field(static=True)
    decays: tuple[float, ...] = eqx.field(static=True, default=(0.0, 0.5, 0.8, 0.9, 0.95))

    def __check_init__(self):
        if bad := [decay for decay in self.decays if not 0 <= decay < 1]:
            raise ValueError(
                f"decay {bad[0]} is out of range; the forgetting factors of a trace lie in [0, 1)"
            )

    @property
    def out_size(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return len(self.decays) * self.in_size

    def init(self):
        return jnp.zeros(self.out_size)

    def encode(self, x, start):
        decay = jnp.repeat(jnp.asarray(self.decays, x.dtype), self.in_size)
        return Element(decay, (1 - decay) * jnp.tile(x, len(self.decays)))

    def time_axes(self):
        return Element(ONCE, PER_STEP)

    def decode(self, h, x):
        return h

    @classmethod
    def example(cls, key, steps):
        xs = jax.random.normal(key, (steps, 3))
        return cls(3, (0.0, 0.9)), xs  # pyright: ignore[reportArgumentType]

    def reference(self, xs, starts):
        z, out = np.zeros((len(self.decays), self.in_size)), []
        for x, start in zip(np.asarray(xs, np.float64), starts, strict=True):
            z = np.zeros_like(z) if start else z
            z = np.stack([lam * z_l + (1 - lam) * x for lam, z_l in zip(self.decays, z, strict=True)])
            out.append(z.ravel())
        return np.stack(out)

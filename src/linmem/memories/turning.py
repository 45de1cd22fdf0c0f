"""Sums that decay and turn: what FFM and learned traces share.

    S_t = gamma * S_{t-1} + v_t 1^T,   gamma = exp(-|alpha|) exp(-i omega)^T     entry by entry
    z_t = M [Re S_t, Im S_t] + b

Each of m traces v_t is summed up by c states, which decay alike and turn each at a frequency of its own. A
layer states what enters, and what becomes of z. On a CPU a compiled loop (``core/native/traces.py``) reads a
trace once for all its states.
"""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..core.algebra import AbstractAlgebra, Diagonal, Element
from ..core.native import library
from ..core.native.traces import recur
from ..core.projection import linear, project
from .base import ONCE, PER_STEP, AbstractLinearMemory


class AbstractTurning(AbstractLinearMemory):
    """The state (m c,) is complex."""

    algebra: ClassVar[AbstractAlgebra] = Diagonal()

    decay: eqx.AbstractVar[Float[Array, " m"]]
    frequency: eqx.AbstractVar[Float[Array, " c"]]
    mix: eqx.AbstractVar[eqx.nn.Linear]

    @abc.abstractmethod
    def entering(self, x: Float[Array, "*steps in"]) -> Float[Array, "*steps m"]:
        """v_t"""

    @abc.abstractmethod
    def leaving(
        self, z: Float[Array, "*steps out"], x: Float[Array, "*steps in"]
    ) -> Float[Array, "*steps out"]:
        """The features."""

    def init(self):
        size = self.decay.size * self.frequency.size
        return jnp.zeros(size, jnp.result_type(self.decay, jnp.complex64))

    def _gamma(self):
        shape = (self.decay.size, self.frequency.size)
        rate = jax.lax.complex(
            jnp.broadcast_to(-jnp.abs(self.decay)[:, None], shape), jnp.broadcast_to(-self.frequency, shape)
        )
        return jnp.exp(rate).ravel()

    def encode(self, x, start):
        entering = jnp.repeat(self.entering(x), self.frequency.size)
        return Element(self._gamma(), jax.lax.complex(entering, jnp.zeros_like(entering)))

    def time_axes(self):
        return Element(ONCE, PER_STEP)

    def decode(self, h, x):
        of_real, of_imag = jnp.split(self.mix.weight.T, 2)  # apart: joined rows would be copied
        assert self.mix.bias is not None
        return self.leaving(project(h.real, of_real) + project(h.imag, of_imag) + self.mix.bias, x)

    def decode_all(self, states, xs):
        return self.decode(states, xs)

    def unroll(self, state, xs, starts):
        many = jax.tree.map(lambda x: x[:, None], (xs, starts))
        states, features = self.unroll_many(state[None], *many)
        return states[0], features[:, 0]

    def unroll_many(self, states, xs, starts):
        entering, initial = self.entering(xs), _parts(states)
        if len(xs) == 0 or not library.serves(self.decay, self.frequency, entering, initial):
            return self._unroll(states, xs, starts)
        states = recur(_parts(self._gamma()), entering, starts, initial)
        z = linear(self.mix, states.reshape(*starts.shape, -1))
        return jax.lax.complex(states[-1, :, 0], states[-1, :, 1]), self.leaving(z, xs)


def _parts(h):
    """Real and imaginary parts, on an axis before the last."""
    return jnp.stack([h.real, h.imag], -2)

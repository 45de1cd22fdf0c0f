"""Diagonal state spaces with a state of their own for each channel: what S4D and DSS share.

    z_k = Abar * z_{k-1} + Bbar u_k,    y_k = 2 Re(sum_n C_n z_k,n) + D u_k            each channel by itself

A layer states ``system``; its two forms follow. As a recurrence (``step``, ``unroll``) it keeps every promise
about starts. As a convolution (``kernel``, ``convolve``) it takes one sequence from a zero state, without
starts inside.
"""

import abc
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from ..core.algebra import AbstractAlgebra, Diagonal, Element
from ..core.checkpointed import checkpointed_scan
from . import diagonal
from .base import ONCE, PER_STEP, AbstractLinearMemory
from .convolution import convolve


class System(NamedTuple):
    """Abar, Bbar and C of one step."""

    transition: Complex[Array, "h p"]
    input: Complex[Array, "h p"]
    output: Complex[Array, "h p"]


class AbstractChannels(AbstractLinearMemory):
    """Features (h,) for inputs (h,). The state (h * p,) is complex."""

    algebra: ClassVar[AbstractAlgebra] = Diagonal()

    d: eqx.AbstractVar[Float[Array, " h"]]

    @abc.abstractmethod
    def system(self) -> System:
        """The discretised system."""

    def init(self):
        transition = self.system().transition
        return jnp.zeros(transition.size, transition.dtype)

    def encode(self, x, start):
        return _element(self.system(), x)

    def time_axes(self):
        return Element(ONCE, PER_STEP)

    def decode(self, h, x):
        return self._features(self.system(), h, x)

    def unroll(self, state, xs, starts):
        system = self.system()

        def body(h, timed):
            x, start = timed
            h = self.algebra.act(_element(system, x), jnp.where(start, 0.0, h))
            return h, self._features(system, h, x)

        return checkpointed_scan(body, state, (xs, starts))

    def _features(self, system, h, x):
        output = system.output
        z = h.reshape(output.shape)
        return 2 * jnp.sum(output.real * z.real - output.imag * z.imag, axis=1) + self.d * x

    def kernel(self, length: int) -> Float[Array, "length h"]:
        """The response to an impulse, without the feedthrough D."""
        transition, into, output = self.system()
        return diagonal.kernel(transition, into * output, length)

    def convolve(self, xs: Float[Array, "T h"]) -> Float[Array, "T h"]:
        """The features of a sequence from a zero state without starts inside."""
        return convolve(self.kernel(len(xs)), xs) + self.d * xs


def _element(system: System, x) -> Element:
    return Element(system.transition.ravel(), (system.input * x[:, None]).ravel())

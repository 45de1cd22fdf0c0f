"""Selective dense state space (SD-SSM): each step mixes its transition from a dictionary of dense matrices.

    A(u_t) = N_p(sum_k softmax(S u_t + s)_k A_k),   N_p divides each column by its p-norm
    x_t = A(u_t) x_{t-1} + B u_t
    y_t = C LayerNorm(x_t)

| paper | here            | shape       | meaning                                  |
|-------|-----------------|-------------|------------------------------------------|
| A_k   | dictionary      | (K, n, n)   | [matrix, row, column]                    |
| S, s  | select, bias    | (in, K), (K)| selection                                |
| B     | b               | (in, n)     | input matrix, transposed                 |
| C     | norm, out       | (n, out)    | readout                                  |
| p     | exponent        | number      | 1.2; near 1 columns can be basis vectors |

Source: A. Terzic, M. Hersche, G. Camposampiero, T. Hofmann, A. Sebastian, A. Rahimi, "On the Expressiveness
and Length Generalization of Selective State-Space Models on Regular Languages", 2024, arXiv:2412.19350, and
the authors' code (IBM/selective-dense-state-space-model, models/SDSSM.py: normalisation of columns, initial
law).
Departures: none in the recurrence; the readout has no bias. The transition of a step is made inside the
loop over time, so that T matrices are never stored.
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..core.checkpointed import scan_states
from ..core.native import library
from ..core.native.dictionary import recur
from ..core.projection import project
from .base import AbstractMemory
from .gates import projection

_SMALLEST = 1e-12  # added to entries, so that the p-norm has a derivative at zero


class SDSSM(AbstractMemory):
    """Features (size,) for inputs (size,), from a state of ``state_size`` and ``matrices`` transitions."""

    without_blocks: ClassVar[bool] = True
    dictionary: Float[Array, "k n n"]
    select: Float[Array, "in k"]
    bias: Float[Array, " k"]
    b: Float[Array, "in n"]
    norm: eqx.nn.LayerNorm
    out: Float[Array, "n out"]
    exponent: float = eqx.field(static=True)
    out_size: int = eqx.field(static=True)

    def __init__(
        self, size: int, state_size: int, matrices: int = 6, *, exponent: float = 1.2, key: PRNGKeyArray
    ):
        if exponent < 1:
            raise ValueError(f"exponent is {exponent}; a p-norm needs at least 1")
        a_key, select_key, b_key, out_key = jax.random.split(key, 4)
        bound = (3 / state_size) ** 0.5  # Xavier's uniform law
        shape = (matrices, state_size, state_size)
        self.dictionary = jax.random.uniform(a_key, shape, minval=-bound, maxval=bound)
        self.select, self.bias = projection(select_key, size, matrices), jnp.zeros(matrices)
        self.b, self.out = projection(b_key, size, state_size), projection(out_key, state_size, size)
        self.norm = eqx.nn.LayerNorm(state_size)
        self.exponent, self.out_size = exponent, size

    def init(self):
        return jnp.zeros(self.b.shape[1])

    def _enter(self, u):
        return jax.nn.softmax(project(u, self.select) + self.bias), project(u, self.b)

    def _advance(self, x, weights, entering, start):
        x = jnp.where(start, 0.0, x)
        k, n, _ = self.dictionary.shape
        mixed = project(weights, self.dictionary.reshape(k, n * n)).reshape(n, n)
        # by logarithms, which XLA vectorises on a CPU: a power of a float is a call for every entry there
        powers = jnp.sum(jnp.exp(self.exponent * jnp.log(jnp.abs(mixed) + _SMALLEST)), axis=0)
        return mixed @ (x * jnp.exp(-jnp.log(powers) / self.exponent)) + entering

    def _decode(self, x):
        return project(self.norm(x), self.out)

    def step(self, state, x, start):
        state = self._advance(state, *self._enter(x), start)
        return state, self._decode(state)

    def unroll(self, state, xs, starts):
        weights, entering = jax.vmap(self._enter)(xs)
        if len(starts) and library.serves(self.dictionary, weights, entering, state):
            states = recur(self.exponent, _SMALLEST, self.dictionary, weights, entering, starts, state)
            return states[-1], jax.vmap(self._decode)(states)
        advance = lambda x, timed: self._advance(x, *timed)  # noqa: E731
        state, states = scan_states(advance, state, (weights, entering, starts))
        return state, jax.vmap(self._decode)(states)

    @classmethod
    def example(cls, key, steps):
        return cls(3, 5, 4, key=key), jax.random.normal(key, (steps, 3))

    def reference(self, xs, starts):
        f = lambda a: np.asarray(a, np.float64)  # noqa: E731
        x, out = np.zeros(self.b.shape[1]), []
        for u, start in zip(f(xs), starts, strict=True):
            x = np.zeros_like(x) if start else x
            logits = u @ f(self.select) + f(self.bias)
            weights = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
            A = np.sum([w * A_k for w, A_k in zip(weights, f(self.dictionary), strict=True)], axis=0)
            A = A / np.array(
                [(np.abs(column) ** self.exponent).sum() ** (1 / self.exponent) for column in A.T]
            )
            x = A @ x + u @ f(self.b)
            normed = (x - x.mean()) / np.sqrt(x.var() + self.norm.eps)
            out.append((normed * f(self.norm.weight) + f(self.norm.bias)) @ f(self.out))
        return np.stack(out)

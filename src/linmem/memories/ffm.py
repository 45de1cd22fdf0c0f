"""Fast and Forgetful Memory: decaying, rotating sums of the inputs, with gates around them.

    v_t = l_1(x_t) * sigmoid(l_2(x_t))                                       what enters
    S_t = gamma * S_{t-1} + v_t 1^T,   gamma = exp(-|alpha|) exp(-i omega)^T   aggregation, entry by entry
    z_t = l_3([Re S_t, Im S_t])
    g_t = sigmoid(l_4(x_t))
    y_t = LN(z_t) * g_t + l_5(x_t) * (1 - g_t)                               what leaves

| paper    | here           | shape           | meaning                                                  |
|----------|----------------|-----------------|----------------------------------------------------------|
| alpha    | decay          | (m,)            | how fast each trace is forgotten                         |
| omega    | frequency      | (c,)            | how fast each context turns                              |
| S        | h              | (m c,) complex  | memory, traces by contexts, flattened                    |
| l_1, l_2 | enter, in_gate | (m, in) each    | input and its gate                                       |
| l_3      | mix            | (out, 2 m c)    | readout                                                  |
| l_4, l_5 | out_gate, skip | (out, in) each  | gate between memory and input, and the way past memory   |

Source: S. Morad, R. Kortvelesy, S. Liwicki, A. Prorok, "Reinforcement Learning with Fast and Forgetful
Memory", 2023, arXiv:2310.04128, section 4; initial values as in the authors' code: |alpha| evenly spaced on
[1e-6, e], periods of the contexts evenly spaced on [1, 1024] steps.
Departures: a start erases S before x_t enters, at every step that needs it (the paper resets between
episodes). The aggregation is this recurrence in both modes, so that acting decays as learning does; the paper
multiplies by powers of gamma, in blocks and double precision, to the same end. The norm stands inside the
gate, as in the paper (in one version of the authors' code it stands outside).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..core.projection import linear
from .turning import AbstractTurning

EPS = 1e-5  # of the norm


class FFM(AbstractTurning):
    """Features (out_size,) for inputs (in_size,), from ``traces`` x ``contexts`` complex states."""

    decay: Float[Array, " m"]
    frequency: Float[Array, " c"]
    enter: eqx.nn.Linear
    in_gate: eqx.nn.Linear
    mix: eqx.nn.Linear
    out_gate: eqx.nn.Linear
    skip: eqx.nn.Linear
    out_size: int = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        out_size: int,
        traces: int,
        contexts: int,
        periods: tuple[float, ...] | None = None,
        *,
        key: PRNGKeyArray,
    ):
        """periods: steps in which each context begins to turn once; None: the authors'. Those hardly turn
        within a dozen steps, so that what lies a few steps back is told apart by decays alone."""
        if periods is not None and (len(periods) != contexts or not all(p > 0 for p in periods)):
            raise ValueError(f"periods {periods}; need {contexts} positive numbers of steps, one a context")
        keys = jax.random.split(key, 5)
        self.decay = jnp.linspace(np.e, 1e-6, traces)
        self.frequency = (
            2 * jnp.pi / (jnp.linspace(1, 1024, contexts) if periods is None else jnp.array(periods))
        )
        self.enter = eqx.nn.Linear(in_size, traces, key=keys[0])
        self.in_gate = eqx.nn.Linear(in_size, traces, key=keys[1])
        self.mix = eqx.nn.Linear(2 * traces * contexts, out_size, key=keys[2])
        self.out_gate = eqx.nn.Linear(in_size, out_size, key=keys[3])
        self.skip = eqx.nn.Linear(in_size, out_size, key=keys[4])
        self.out_size = out_size

    def entering(self, x):
        return linear(self.enter, x) * jax.nn.sigmoid(linear(self.in_gate, x))

    def leaving(self, z, x):
        gate = jax.nn.sigmoid(linear(self.out_gate, x))
        return jax.nn.standardize(z, epsilon=EPS) * gate + linear(self.skip, x) * (1 - gate)

    @classmethod
    def example(cls, key, steps):
        return cls(3, 5, 4, 2, key=key), jax.random.normal(key, (steps, 3))

    def reference(self, xs, starts):
        f = lambda a: np.asarray(a, np.float64)  # noqa: E731
        l_1, l_2, l_3, l_4, l_5 = (
            lambda v, l=l: f(l.weight) @ v + f(l.bias)
            for l in (self.enter, self.in_gate, self.mix, self.out_gate, self.skip)
        )
        sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
        gamma = np.exp(-np.abs(f(self.decay)))[:, None] * np.exp(-1j * f(self.frequency))[None, :]
        S, out = np.zeros_like(gamma), []
        for x, start in zip(f(xs), starts, strict=True):
            S = np.zeros_like(S) if start else S
            v = l_1(x) * sigmoid(l_2(x))
            S = gamma * S + np.outer(v, np.ones(len(self.frequency)))
            z = l_3(np.concatenate([S.real.ravel(), S.imag.ravel()]))
            normed = (z - z.mean()) / np.sqrt(z.var() + EPS)
            g = sigmoid(l_4(x))
            out.append(normed * g + l_5(x) * (1 - g))
        return np.stack(out)

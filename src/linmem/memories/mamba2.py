"""Mamba-2: a state space with one input-dependent decay per head, computed as attention with a mask of
decays.

    [X_t, B_t, C_t] = silu(conv(x_t W_XBC)),    z_t = x_t W_z,    Delta_t = softplus(x_t W_Delta + b_Delta)
    a_t = exp(-Delta_t exp(A_log))
    h_t = a_t h_{t-1} + B_t (Delta_t X_t)^T     per head, (n, p)
    y_t = W_out norm(h_t^T C_t + D X_t) * silu(z_t)

| paper      | here                | shape               | meaning                                        |
|------------|---------------------|---------------------|------------------------------------------------|
| X, B, C    | v, k, q             | (heads, p), (n,) x2 | B and C are shared by the heads                |
| W_XBC      | w_mix               | (in, heads p + 2 n) |                                                |
| Delta      | step                | (heads,)            | step size                                      |
| A_log      | log_rate            | (heads,)            | begins as log of uniform [1, 16]               |
| D          | skip                | (heads,)            |                                                |
| z          | gate                | (heads, p)          |                                                |

Source: T. Dao, A. Gu, "Transformers are SSMs", 2024, arXiv:2405.21060, sections 6 and 7;
``negative_eigenvalues`` as in arXiv:2411.12537.
Departures: the norm is per head and comes before the gate; the convolution has no bias; no expansion by
default.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..core.chunked.scalar_decay import ScalarDecay, ScalarInputs
from ..core.projection import project
from .eigenvalue_range import log_decay
from .gates import HeadNorm, float64, np_silu, np_softplus, per_head, projection, step_sizes
from .matrix_memory import AbstractMatrixMemory
from .short_convolution import ShortConvolution


class Mamba2(AbstractMatrixMemory):
    """Features (size,) for inputs (size,). Each head's state is (key_size, value_size)."""

    w_mix: Float[Array, "in channels"]
    w_gate: Float[Array, "in values"]
    w_step: Float[Array, "in heads"]
    b_step: Float[Array, " heads"]
    log_rate: Float[Array, " heads"]
    skip: Float[Array, " heads"]
    w_out: Float[Array, "values out"]
    norm: HeadNorm
    convolution: ShortConvolution | None
    sizes: tuple[int, int, int] = eqx.field(static=True)
    negative_eigenvalues: bool = eqx.field(static=True)
    out_size: int = eqx.field(static=True)

    def __init__(
        self,
        size: int,
        heads: int = 4,
        key_size: int | None = None,
        value_size: int | None = None,
        width: int = 4,
        negative_eigenvalues: bool = False,
        *,
        key: PRNGKeyArray,
    ):
        n, p = key_size or per_head(size, heads), value_size or per_head(size, heads)
        keys = jax.random.split(key, 7)
        self.w_mix = projection(keys[0], size, heads * p + 2 * n)
        self.w_gate = projection(keys[1], size, heads * p)
        self.w_step = projection(keys[2], size, heads)
        self.b_step = step_sizes(keys[3], heads)
        self.log_rate = jnp.log(jax.random.uniform(keys[4], (heads,), minval=1.0, maxval=16.0))
        self.skip = jnp.ones(heads)
        self.w_out = projection(keys[5], heads * p, size)
        self.norm = HeadNorm(heads, p)
        self.convolution = ShortConvolution(heads * p + 2 * n, width, key=keys[6])
        self.sizes, self.negative_eigenvalues, self.out_size = (heads, n, p), negative_eigenvalues, size

    @property
    def kernel(self):
        return ScalarDecay()

    def head_axes(self):
        return ScalarInputs(q=None, k=None, v=0, decay=0)  # pyright: ignore[reportArgumentType]

    def mix(self, x):
        return project(x, self.w_mix)

    def encode(self, x, mixed):
        heads, n, p = self.sizes
        v, k, q = jnp.split(mixed, (heads * p, heads * p + n))
        v = v.reshape(heads, p)
        step = jax.nn.softplus(project(x, self.w_step) + self.b_step)
        decays = log_decay(-step * jnp.exp(self.log_rate), self.negative_eigenvalues)
        gate = project(x, self.w_gate).reshape(heads, p)
        return ScalarInputs(q, k, step[:, None] * v, decays), (v, gate)

    def decode(self, read, rest):
        v, gate = rest
        y = self.norm(read + self.skip[:, None] * v) * jax.nn.silu(gate)
        return project(y.ravel(), self.w_out)

    @classmethod
    def example(cls, key, steps):
        keys = jax.random.split(key)
        memory = cls(6, heads=2, key_size=5, value_size=3, negative_eigenvalues=True, key=keys[0])
        return memory, jax.random.normal(keys[1], (steps, 6))

    def reference(self, xs, starts):
        xs, (heads, n, p) = float64(xs), self.sizes
        assert self.convolution is not None
        mixed = self.convolution.reference(xs @ float64(self.w_mix), starts)
        A, D = -np.exp(float64(self.log_rate)), float64(self.skip)
        h, out = np.zeros((heads, n, p)), []
        for x, XBC, start in zip(xs, mixed, starts, strict=True):
            h = np.zeros_like(h) if start else h
            X, B, C = XBC[: heads * p].reshape(heads, p), XBC[heads * p : -n], XBC[-n:]
            Delta = np_softplus(x @ float64(self.w_step) + float64(self.b_step))
            z = (x @ float64(self.w_gate)).reshape(heads, p)
            y = np.zeros((heads, p))
            for i in range(heads):
                a = np.exp(Delta[i] * A[i])
                a = 2 * a - 1 if self.negative_eigenvalues else a
                h[i] = a * h[i] + np.outer(B, Delta[i] * X[i])
                y[i] = h[i].T @ C + D[i] * X[i]
            out.append((self.norm.reference(y) * np_silu(z)).ravel() @ float64(self.w_out))
        return np.stack(out)

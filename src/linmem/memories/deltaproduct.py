"""DeltaProduct: several delta rule writes a step, whose transition is a product of generalised Householders.

    q_t = unit(silu(conv(x_t W_q))),  k_{t,j} = unit(silu(conv(x_t W_{k,j}))),
    v_{t,j} = silu(conv(x_t W_{v,j})),
    beta_{t,j} = sigmoid(x_t w_{beta,j})                                              j = 1 ... n_h
    H_j = (I - beta_{t,j} k_{t,j} k_{t,j}^T) H_{j-1} + beta_{t,j} k_{t,j} v_{t,j}^T,
    H_0 = S_{t-1},   S_t = H_{n_h}
    y_t = norm(S_t^T q_t) W_O                                                         per head, (d_k, d_v)

| paper   | here        | shape                               | meaning                                |
|---------|-------------|-------------------------------------|----------------------------------------|
| n_h     | householders |                                    | writes a step; 1 is DeltaNet           |
| W       | w_mix       | (in, heads (d_k + n_h (d_k + d_v))) | W_q, all W_{k,j}, all W_{v,j} side by side |
| w_beta  | w_beta      | (in, heads n_h)                     |                                        |
| W_O     | w_out       | (heads d_v, out)                    |                                        |

Source: J. Siems, T. Carstensen, A. Zela, F. Hutter, M. Pontil, R. Grazzi, "DeltaProduct: Improving
State-Tracking in Linear RNNs via Householder Products", 2025, arXiv:2502.10297, section 3;
``negative_eigenvalues`` doubles beta, and is on by default as in the paper.
Departures: the variant without decay and without output gate (flash-linear-attention's
``gated_deltaproduct.py`` has both, as options); states are (d_k, d_v), the paper's are their transposes.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..core.chunked.delta import DeltaInputs, DeltaRule
from ..core.projection import project
from .eigenvalue_range import householder_scale
from .gates import HeadNorm, float64, np_sigmoid, np_unit, per_head, projection
from .matrix_memory import AbstractMatrixMemory
from .short_convolution import ShortConvolution


class DeltaProduct(AbstractMatrixMemory):
    """Features (size,) for inputs (size,). Each head's state is (key_size, value_size)."""

    w_mix: Float[Array, "in channels"]
    w_beta: Float[Array, "in writes"]
    w_out: Float[Array, "values out"]
    norm: HeadNorm
    convolution: ShortConvolution | None
    householders: int = eqx.field(static=True)
    sizes: tuple[int, int, int] = eqx.field(static=True)
    negative_eigenvalues: bool = eqx.field(static=True)
    out_size: int = eqx.field(static=True)

    def __init__(
        self,
        size: int,
        heads: int = 4,
        householders: int = 2,
        key_size: int | None = None,
        value_size: int | None = None,
        width: int = 4,
        negative_eigenvalues: bool = True,
        *,
        key: PRNGKeyArray,
    ):
        dk, dv = key_size or per_head(size, heads), value_size or per_head(size, heads)
        keys = jax.random.split(key, 4)
        channels = heads * (dk + householders * (dk + dv))
        self.w_mix = projection(keys[0], size, channels)
        self.w_beta = projection(keys[1], size, heads * householders)
        self.w_out = projection(keys[2], heads * dv, size)
        self.norm = HeadNorm(heads, dv)
        self.convolution = ShortConvolution(channels, width, key=keys[3])
        self.householders, self.sizes, self.out_size = householders, (heads, dk, dv), size
        self.negative_eigenvalues = negative_eigenvalues

    @property
    def kernel(self):
        return DeltaRule(scales=True)

    def mix(self, x):
        return project(x, self.w_mix)

    def encode(self, x, mixed):
        heads, dk, dv = self.sizes
        n = self.householders
        q, k, v = jnp.split(mixed, (heads * dk, heads * (1 + n) * dk))
        q, k, v = q.reshape(heads, dk), k.reshape(heads, n, dk), v.reshape(heads, n, dv)
        beta = householder_scale(jax.nn.sigmoid(project(x, self.w_beta)), self.negative_eigenvalues)
        return DeltaInputs(q, k, v, beta.reshape(heads, n), None), None

    def decode(self, read, rest):
        return project(self.norm(read).ravel(), self.w_out)

    @classmethod
    def example(cls, key, steps):
        keys = jax.random.split(key)
        memory = cls(6, heads=2, householders=4, key_size=5, value_size=3, key=keys[0])
        return memory, jax.random.normal(keys[1], (steps, 6))

    def reference(self, xs, starts):
        xs, (heads, dk, dv), n_h = float64(xs), self.sizes, self.householders
        assert self.convolution is not None
        mixed = self.convolution.reference(xs @ float64(self.w_mix), starts)
        S, out = np.zeros((heads, dk, dv)), []
        for x, qkv, start in zip(xs, mixed, starts, strict=True):
            S = np.zeros_like(S) if start else S
            q, k, v = np.split(qkv, [heads * dk, heads * (1 + n_h) * dk])
            q, k = np_unit(q.reshape(heads, dk)), np_unit(k.reshape(heads, n_h, dk))
            v = v.reshape(heads, n_h, dv)
            beta = np_sigmoid(x @ float64(self.w_beta)).reshape(heads, n_h)
            beta = 2 * beta if self.negative_eigenvalues else beta
            o = np.zeros((heads, dv))
            for i in range(heads):
                for j in range(n_h):
                    A = np.eye(dk) - beta[i, j] * np.outer(k[i, j], k[i, j])
                    S[i] = A @ S[i] + beta[i, j] * np.outer(k[i, j], v[i, j])
                o[i] = S[i].T @ q[i]
            out.append(self.norm.reference(o).ravel() @ float64(self.w_out))
        return np.stack(out)

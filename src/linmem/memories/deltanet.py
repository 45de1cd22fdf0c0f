"""DeltaNet: a matrix memory that, before it writes a value, removes what the key holds.

    q_t, k_t = unit(silu(conv(x_t W_q))), unit(silu(conv(x_t W_k))),   v_t = silu(conv(x_t W_v))
    beta_t = sigmoid(x_t w_beta)
    S_t = (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T,     o_t = S_t^T q_t      per head, (d_k, d_v)
    y_t = norm(o_t) W_O

| paper          | here    | shape                   | meaning                              |
|----------------|---------|-------------------------|--------------------------------------|
| W_Q, W_K, W_V  | w_mix   | (in, heads (2 d_k + d_v)) | side by side                       |
| W_beta         | w_beta  | (in, heads)             | how much of the old value is removed |
| W_O            | w_out   | (heads d_v, out)        |                                      |

Source: S. Yang, B. Wang, Y. Zhang, Y. Shen, Y. Kim, "Parallelizing Linear Transformers with the Delta Rule
over Sequence Length", 2024, arXiv:2406.06484, sections 2 and 3; ``negative_eigenvalues`` as in
arXiv:2411.12537.
Departures: states are (d_k, d_v), the paper's are their transposes. Queries are not divided by sqrt(d_k) as
in flash-linear-attention, which the norm undoes.
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


class DeltaNet(AbstractMatrixMemory):
    """Features (size,) for inputs (size,). Each head's state is (key_size, value_size)."""

    w_mix: Float[Array, "in channels"]
    w_beta: Float[Array, "in heads"]
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
        dk, dv = key_size or per_head(size, heads), value_size or per_head(size, heads)
        keys = jax.random.split(key, 4)
        channels = heads * (2 * dk + dv)
        self.w_mix, self.w_beta = projection(keys[0], size, channels), projection(keys[1], size, heads)
        self.w_out = projection(keys[2], heads * dv, size)
        self.norm = HeadNorm(heads, dv)
        self.convolution = ShortConvolution(channels, width, key=keys[3])
        self.sizes, self.negative_eigenvalues, self.out_size = (heads, dk, dv), negative_eigenvalues, size

    @property
    def kernel(self):
        return DeltaRule(scales=True)

    def mix(self, x):
        return project(x, self.w_mix)

    def encode(self, x, mixed):
        heads, dk, dv = self.sizes
        q, k, v = jnp.split(mixed, (heads * dk, 2 * heads * dk))
        q, k = q.reshape(heads, dk), k.reshape(heads, 1, dk)
        beta = householder_scale(jax.nn.sigmoid(project(x, self.w_beta)), self.negative_eigenvalues)
        return DeltaInputs(q, k, v.reshape(heads, 1, dv), beta[:, None], None), None

    def decode(self, read, rest):
        return project(self.norm(read).ravel(), self.w_out)

    @classmethod
    def example(cls, key, steps):
        keys = jax.random.split(key)
        memory = cls(6, heads=2, key_size=5, value_size=3, negative_eigenvalues=True, key=keys[0])
        return memory, jax.random.normal(keys[1], (steps, 6))

    def reference(self, xs, starts):
        xs, (heads, dk, dv) = float64(xs), self.sizes
        assert self.convolution is not None
        mixed = self.convolution.reference(xs @ float64(self.w_mix), starts)
        S, out = np.zeros((heads, dk, dv)), []
        for x, qkv, start in zip(xs, mixed, starts, strict=True):
            S = np.zeros_like(S) if start else S
            q, k, v = np.split(qkv, [heads * dk, 2 * heads * dk])
            q, k = np_unit(q.reshape(heads, dk)), np_unit(k.reshape(heads, dk))
            v = v.reshape(heads, dv)
            beta = np_sigmoid(x @ float64(self.w_beta)) * (2 if self.negative_eigenvalues else 1)
            o = np.zeros((heads, dv))
            for i in range(heads):
                S[i] = (np.eye(dk) - beta[i] * np.outer(k[i], k[i])) @ S[i] + beta[i] * np.outer(k[i], v[i])
                o[i] = S[i].T @ q[i]
            out.append(self.norm.reference(o).ravel() @ float64(self.w_out))
        return np.stack(out)

"""Gated DeltaNet: the delta rule with one input-dependent decay per head.

    q_t, k_t = unit(silu(conv(x_t W_q))), unit(silu(conv(x_t W_k))),   v_t = silu(conv(x_t W_v))
    beta_t = sigmoid(x_t w_beta),   alpha_t = exp(-exp(A_log) softplus(x_t w_alpha + b_alpha))
    S_t = (I - beta_t k_t k_t^T) alpha_t S_{t-1} + beta_t k_t v_t^T,     o_t = S_t^T q_t      per head
    y_t = (norm(o_t) * silu(x_t W_g)) W_O

| paper            | here                     | shape                     | meaning                    |
|------------------|--------------------------|---------------------------|----------------------------|
| W_q, W_k, W_v    | w_mix                    | (in, heads (2 d_k + d_v)) | side by side               |
| beta             | w_beta                   | (in, heads)               | writing strength           |
| alpha            | w_alpha, b_alpha, log_rate | (in, heads), (heads,) x2 | decay, begun as Mamba-2's |
| W_g              | w_gate                   | (in, heads d_v)           | output gate                |
| W_O              | w_out                    | (heads d_v, out)          |                            |

Source: S. Yang, J. Kautz, A. Hatamizadeh, "Gated Delta Networks: Improving Mamba2 with Delta Rule", 2024,
arXiv:2412.06464, sections 3.1 and 3.4; ``negative_eigenvalues`` as in arXiv:2411.12537 (it doubles beta;
alpha stays in [0, 1]).
Departures: states are (d_k, d_v), the paper's are their transposes. Queries are not divided by sqrt(d_k) as
in flash-linear-attention, which the norm undoes.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..core.chunked.decay import Decay
from ..core.chunked.delta import DeltaInputs, DeltaRule
from ..core.projection import project
from .eigenvalue_range import householder_scale
from .gates import (
    HeadNorm,
    float64,
    np_sigmoid,
    np_silu,
    np_softplus,
    np_unit,
    per_head,
    projection,
    step_sizes,
)
from .matrix_memory import AbstractMatrixMemory
from .short_convolution import ShortConvolution


class GatedDeltaNet(AbstractMatrixMemory):
    """Features (size,) for inputs (size,). Each head's state is (key_size, value_size)."""

    w_mix: Float[Array, "in channels"]
    w_beta: Float[Array, "in heads"]
    w_alpha: Float[Array, "in heads"]
    b_alpha: Float[Array, " heads"]
    log_rate: Float[Array, " heads"]
    w_gate: Float[Array, "in values"]
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
        keys = jax.random.split(key, 8)
        channels = heads * (2 * dk + dv)
        self.w_mix = projection(keys[0], size, channels)
        self.w_beta, self.w_alpha = (projection(k, size, heads) for k in keys[1:3])
        self.b_alpha = step_sizes(keys[3], heads)
        self.log_rate = jnp.log(jax.random.uniform(keys[4], (heads,), minval=1.0, maxval=16.0))
        self.w_gate, self.w_out = projection(keys[5], size, heads * dv), projection(keys[6], heads * dv, size)
        self.norm = HeadNorm(heads, dv)
        self.convolution = ShortConvolution(channels, width, key=keys[7])
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
        log_alpha = -jnp.exp(self.log_rate) * jax.nn.softplus(project(x, self.w_alpha) + self.b_alpha)
        gate = project(x, self.w_gate).reshape(heads, dv)
        return DeltaInputs(q, k, v.reshape(heads, 1, dv), beta[:, None], Decay(log_alpha)), gate

    def decode(self, read, rest):
        return project((self.norm(read) * jax.nn.silu(rest)).ravel(), self.w_out)

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
            v, I = v.reshape(heads, dv), np.eye(dk)
            beta = np_sigmoid(x @ float64(self.w_beta)) * (2 if self.negative_eigenvalues else 1)
            Delta = np_softplus(x @ float64(self.w_alpha) + float64(self.b_alpha))
            alpha = np.exp(-np.exp(float64(self.log_rate)) * Delta)
            g = np_silu(x @ float64(self.w_gate)).reshape(heads, dv)
            o = np.zeros((heads, dv))
            for i in range(heads):
                removed = alpha[i] * (I - beta[i] * np.outer(k[i], k[i])) @ S[i]
                S[i] = removed + beta[i] * np.outer(k[i], v[i])
                o[i] = S[i].T @ q[i]
            out.append((self.norm.reference(o) * g).ravel() @ float64(self.w_out))
        return np.stack(out)

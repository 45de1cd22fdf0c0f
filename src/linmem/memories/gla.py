"""Gated linear attention (GLA): a matrix memory whose rows decay at rates that depend on the input.

    q_t = x_t W_q / sqrt(d_k),   k_t = x_t W_k,   v_t = x_t W_v,   alpha_t = sigmoid(x_t W_1 W_2 + b)^(1/16)
    S_t = diag(alpha_t) S_{t-1} + k_t v_t^T,     o_t = S_t^T q_t                  per head, (d_k, d_v)
    y_t = (silu(x_t W_r + b_r) * norm(o_t)) W_O

| paper      | here                  | shape                      | meaning                               |
|------------|-----------------------|----------------------------|---------------------------------------|
| W_Q, W_K   | w_q, w_k              | (in, heads d_k)            |                                       |
| W_V, W_r   | w_v, w_gate, b_gate   | (in, heads d_v)            | values, output gate                   |
| W_1, W_2   | w_down, w_up, b_decay | (in, 16), (16, heads d_k)  | decays, by way of 16 numbers          |
| W_O        | w_out                 | (heads d_v, out)           |                                       |

Source: S. Yang, B. Wang, Y. Shen, R. Panda, Y. Kim, "Gated Linear Attention Transformers with
Hardware-Efficient Training", 2023, arXiv:2312.06635, section 4; ``negative_eigenvalues`` as in
arXiv:2411.12537.
Departures: root-mean-square norm instead of layer norm. A decay counts as at least exp(-5) (its sigmoid as
exp(-80)), with negative eigenvalues its magnitude as at least exp(-20): see core/chunked/vector_decay.py.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..core.chunked.vector_decay import VectorDecay, VectorInputs
from ..core.projection import project
from .eigenvalue_range import log_decay
from .gates import HeadNorm, float64, np_sigmoid, np_silu, per_head, projection
from .matrix_memory import AbstractMatrixMemory

_ROOT = 16
_RANK = 16


class GLA(AbstractMatrixMemory):
    """Features (size,) for inputs (size,). Each head's state is (key_size, value_size)."""

    w_q: Float[Array, "in keys"]
    w_k: Float[Array, "in keys"]
    w_v: Float[Array, "in values"]
    w_gate: Float[Array, "in values"]
    b_gate: Float[Array, " values"]
    w_down: Float[Array, "in rank"]
    w_up: Float[Array, "rank keys"]
    b_decay: Float[Array, " keys"]
    w_out: Float[Array, "values out"]
    norm: HeadNorm
    sizes: tuple[int, int, int] = eqx.field(static=True)
    negative_eigenvalues: bool = eqx.field(static=True)
    out_size: int = eqx.field(static=True)
    convolution: None = None

    def __init__(
        self,
        size: int,
        heads: int = 4,
        key_size: int | None = None,
        value_size: int | None = None,
        negative_eigenvalues: bool = False,
        *,
        key: PRNGKeyArray,
    ):
        dk, dv = key_size or per_head(size, heads), value_size or per_head(size, heads)
        keys = jax.random.split(key, 7)
        self.w_q, self.w_k = (projection(k, size, heads * dk) for k in keys[:2])
        self.w_v, self.w_gate = (projection(k, size, heads * dv) for k in keys[2:4])
        self.b_gate = jnp.zeros(heads * dv)
        self.w_down, self.w_up = projection(keys[4], size, _RANK), projection(keys[5], _RANK, heads * dk)
        self.b_decay = jnp.zeros(heads * dk)
        self.w_out = projection(keys[6], heads * dv, size)
        self.norm = HeadNorm(heads, dv)
        self.sizes, self.negative_eigenvalues, self.out_size = (heads, dk, dv), negative_eigenvalues, size

    @property
    def kernel(self):
        return VectorDecay() if self.negative_eigenvalues else VectorDecay(steepest=5.0)

    def mix(self, x):
        return jnp.zeros((*x.shape[:-1], 0))

    def encode(self, x, mixed):
        heads, dk, dv = self.sizes
        q, k = project(x, self.w_q).reshape(heads, dk) * dk**-0.5, project(x, self.w_k).reshape(heads, dk)
        v, gate = (
            project(x, self.w_v).reshape(heads, dv),
            (project(x, self.w_gate) + self.b_gate).reshape(heads, dv),
        )
        log = (
            jax.nn.log_sigmoid(project(project(x, self.w_down), self.w_up) + self.b_decay).reshape(heads, dk)
            / _ROOT
        )
        return VectorInputs(q, k, v, log_decay(log, self.negative_eigenvalues)), gate

    def decode(self, read, rest):
        return project((jax.nn.silu(rest) * self.norm(read)).ravel(), self.w_out)

    @classmethod
    def example(cls, key, steps):
        keys = jax.random.split(key)
        memory = cls(6, heads=2, key_size=5, value_size=3, negative_eigenvalues=True, key=keys[0])
        return memory, jax.random.normal(keys[1], (steps, 6))

    def reference(self, xs, starts):
        heads, dk, dv = self.sizes
        S, out = np.zeros((heads, dk, dv)), []
        for x, start in zip(float64(xs), starts, strict=True):
            S = np.zeros_like(S) if start else S
            q = (x @ float64(self.w_q)).reshape(heads, dk) / np.sqrt(dk)
            k, v = (x @ float64(self.w_k)).reshape(heads, dk), (x @ float64(self.w_v)).reshape(heads, dv)
            pre = x @ float64(self.w_down) @ float64(self.w_up) + float64(self.b_decay)
            alpha = (np_sigmoid(pre) ** (1 / _ROOT)).reshape(heads, dk)
            alpha = 2 * alpha - 1 if self.negative_eigenvalues else alpha
            r = np_silu(x @ float64(self.w_gate) + float64(self.b_gate)).reshape(heads, dv)
            o = np.zeros((heads, dv))
            for i in range(heads):
                S[i] = np.diag(alpha[i]) @ S[i] + np.outer(k[i], v[i])
                o[i] = S[i].T @ q[i]
            out.append((r * self.norm.reference(o)).ravel() @ float64(self.w_out))
        return np.stack(out)

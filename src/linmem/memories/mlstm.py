"""mLSTM: a matrix memory with an exponential input gate, a forget gate, a normaliser and an output gate.

    c_t = silu(conv(x_t)),   q_t = c_t W_q,   k_t = c_t W_k / sqrt(d_k),   v_t = x_t W_v
    i_t = exp(x_t w_i + b_i),   f_t = sigmoid(x_t w_f + b_f),   o_t = sigmoid(x_t W_o + b_o)
    C_t = f_t C_{t-1} + i_t k_t v_t^T,     n_t = f_t n_{t-1} + i_t k_t                 per head
    y_t = (o_t * norm(C_t^T q_t / max(|n_t . q_t|, 1))) W_out

| paper     | here                     | shape                      | meaning                        |
|-----------|--------------------------|----------------------------|--------------------------------|
| C, n, m   | matrix, normaliser, ...  | (d_k, d_v), (d_k,), ()     | state of a head                |
| w_i, w_f  | w_input, w_forget        | (in, heads)                | gates; b_f begins in [3, 6]    |
| W_o, b_o  | w_gate, b_gate           | (in, heads d_v)            | output gate                    |

Source: M. Beck et al., "xLSTM: Extended Long Short-Term Memory", 2024, arXiv:2405.04517, eqs. 19-27,
appendix A.3 (the stabiliser) and the block's convolution before queries and keys; the authors' code
(NX-AI/xlstm, mlstm/backends.py, cell.py) for the recurrence and the biases' initial laws;
``negative_eigenvalues`` as in arXiv:2411.12537.
Departures: the cell without the block's up-projection and skip; root-mean-square norm of each head instead
of the group norm; states are (d_k, d_v), the paper's are their transposes. As in the equations and other
than in the authors' code: gates read x_t (there q, k and v side by side, with weights that begin at 0), the
output gate is a sigmoid of x_t, and nothing is added to the denominator (there 1e-6).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..core.chunked.normalised import Normalised, NormalisedInputs
from ..core.projection import project
from .eigenvalue_range import log_decay
from .gates import HeadNorm, float64, np_sigmoid, per_head, projection
from .matrix_memory import AbstractMatrixMemory
from .short_convolution import ShortConvolution


class MLSTM(AbstractMatrixMemory):
    """Features (size,) for inputs (size,). Each head's state is (key_size, value_size), and key_size + 1
    numbers."""

    w_q: Float[Array, "in keys"]
    w_k: Float[Array, "in keys"]
    w_v: Float[Array, "in values"]
    w_input: Float[Array, "in heads"]
    b_input: Float[Array, " heads"]
    w_forget: Float[Array, "in heads"]
    b_forget: Float[Array, " heads"]
    w_gate: Float[Array, "in values"]
    b_gate: Float[Array, " values"]
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
        forget_bias: tuple[float, float] = (3.0, 6.0),
        *,
        key: PRNGKeyArray,
    ):
        """forget_bias: b_f of the first and the last head at the beginning, the others evenly between."""
        dk, dv = key_size or per_head(size, heads), value_size or per_head(size, heads)
        keys = jax.random.split(key, 9)
        self.w_q, self.w_k = (projection(k, size, heads * dk) for k in keys[:2])
        self.w_v, self.w_gate = (projection(k, size, heads * dv) for k in keys[2:4])
        self.w_input, self.w_forget = (projection(k, size, heads) for k in keys[4:6])
        self.b_input = 0.1 * jax.random.normal(keys[6], (heads,))
        self.b_forget, self.b_gate = jnp.linspace(*forget_bias, heads), jnp.zeros(heads * dv)
        self.w_out = projection(keys[7], heads * dv, size)
        self.norm = HeadNorm(heads, dv)
        self.convolution = ShortConvolution(size, width, key=keys[8])
        self.sizes, self.negative_eigenvalues, self.out_size = (heads, dk, dv), negative_eigenvalues, size

    @property
    def kernel(self):
        return Normalised()

    def mix(self, x):
        return x

    def encode(self, x, mixed):
        heads, dk, dv = self.sizes
        q, k = (project(mixed, w).reshape(heads, dk) for w in (self.w_q, self.w_k))
        v, gate = (
            project(x, self.w_v).reshape(heads, dv),
            (project(x, self.w_gate) + self.b_gate).reshape(heads, dv),
        )
        forget = log_decay(
            jax.nn.log_sigmoid(project(x, self.w_forget) + self.b_forget), self.negative_eigenvalues
        )
        return NormalisedInputs(q, dk**-0.5 * k, v, project(x, self.w_input) + self.b_input, forget), gate

    def decode(self, read, rest):
        return project((jax.nn.sigmoid(rest) * self.norm(read)).ravel(), self.w_out)

    @classmethod
    def example(cls, key, steps):
        keys = jax.random.split(key)
        memory = cls(6, heads=2, key_size=5, value_size=3, negative_eigenvalues=True, key=keys[0])
        return memory, jax.random.normal(keys[1], (steps, 6))

    def reference(self, xs, starts):
        heads, dk, dv = self.sizes
        xs = float64(xs)
        assert self.convolution is not None
        mixed = self.convolution.reference(xs, starts)
        C, n, out = np.zeros((heads, dk, dv)), np.zeros((heads, dk)), []
        for x, c, start in zip(xs, mixed, starts, strict=True):
            C, n = (np.zeros_like(C), np.zeros_like(n)) if start else (C, n)
            q, k = (c @ float64(self.w_q)).reshape(heads, dk), (c @ float64(self.w_k)).reshape(heads, dk)
            k, v = k / np.sqrt(dk), (x @ float64(self.w_v)).reshape(heads, dv)
            i = np.exp(x @ float64(self.w_input) + float64(self.b_input))
            f = np_sigmoid(x @ float64(self.w_forget) + float64(self.b_forget))
            f = 2 * f - 1 if self.negative_eigenvalues else f
            o = np_sigmoid(x @ float64(self.w_gate) + float64(self.b_gate)).reshape(heads, dv)
            h = np.zeros((heads, dv))
            for j in range(heads):
                C[j] = f[j] * C[j] + i[j] * np.outer(k[j], v[j])
                n[j] = f[j] * n[j] + i[j] * k[j]
                h[j] = C[j].T @ q[j] / max(abs(n[j] @ q[j]), 1)
            out.append((o * self.norm.reference(h)).ravel() @ float64(self.w_out))
        return np.stack(out)

"""RWKV-7: vector decay, and removal along a key of its own.

    x^m_t = x_t + mu_m * (x_{t-1} - x_t)                       token shift, for each m of r, w, k, v, a, g
    r_t = x^r_t W_r,   k_t = x^k_t W_k,   v_t = x^v_t W_v,   g_t = sigmoid(x^g_t G_1) G_2
    w_t = exp(-e^(-1/2) sigmoid(w_0 + tanh(x^w_t D_1) D_2)),   a_t = sigmoid(a_0 + x^a_t A_1 A_2)
    kappa_t = unit(k_t * xi),   ~k_t = k_t * (1 + (a_t - 1) * alpha)
    S_t = (diag(w_t) - (a_t * kappa_t) kappa_t^T) S_{t-1} + ~k_t v_t^T,     o_t = S_t^T r_t        per head
    y_t = (g_t * (norm(o_t) + (r_t . (rho * ~k_t)) v_t)) W_o

| paper          | here                         | shape                       | meaning                      |
|----------------|------------------------------|-----------------------------|------------------------------|
| mu             | convolution                  | (2, 6 in)                   | token shift: two taps        |
| W_r, W_k, W_v  | w_r, w_k, w_v                | (in, heads d)               |                              |
| D, A, G        | decay, rate, gate (down, up) | (in, rank), (rank, heads d) | low-rank maps                |
| w_0, a_0       | b_decay, b_rate              | (heads, d)                  |                              |
| xi, alpha, rho | xi, alpha, rho               | (heads, d)                  | removal, replacement, bonus  |

Source: B. Peng et al., "RWKV-7 'Goose' with Expressive Dynamic State Evolution", 2025, arXiv:2503.14456,
section 4, and the authors' code in NumPy (BlinkDL/RWKV-LM, RWKV-v7/rwkv_v7_numpy.py, ``time_mixing``), with
which the equations above agree line by line.
Departures: the time mixing alone, of a first layer (no residual of the first layer's values, no channel
mixing); both taps of the token shift are free, they begin with sum 1; root-mean-square norm instead of the
group norm; mu, w_0, a_0, xi, alpha and rho begin at plain values instead of the paper's by-channel
schedules; states are (d_k, d_v).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..core.chunked.decay import Decay
from ..core.chunked.vector_delta import VectorDelta, VectorDeltaInputs
from ..core.projection import project
from ..core.unit import unit
from .gates import HeadNorm, float64, np_sigmoid, np_unit, per_head, projection
from .matrix_memory import AbstractMatrixMemory
from .short_convolution import ShortConvolution

_STEEPEST = float(np.exp(-0.5))


class LowRank(eqx.Module):
    """x -> activation(x @ down) @ up, without the activation here."""

    down: Float[Array, "in rank"]
    up: Float[Array, "rank out"]

    def __init__(self, size: int, rank: int, out: int, *, key: PRNGKeyArray):
        keys = jax.random.split(key)
        self.down, self.up = projection(keys[0], size, rank), projection(keys[1], rank, out)


class RWKV7(AbstractMatrixMemory):
    """Features (size,) for inputs (size,). Each head's state is (size / heads, size / heads)."""

    w_r: Float[Array, "in channels"]
    w_k: Float[Array, "in channels"]
    w_v: Float[Array, "in channels"]
    w_out: Float[Array, "channels out"]
    decay: LowRank
    rate: LowRank
    gate: LowRank
    b_decay: Float[Array, "heads d"]
    b_rate: Float[Array, "heads d"]
    xi: Float[Array, "heads d"]
    alpha: Float[Array, "heads d"]
    rho: Float[Array, "heads d"]
    norm: HeadNorm
    convolution: ShortConvolution | None
    sizes: tuple[int, int, int] = eqx.field(static=True)
    out_size: int = eqx.field(static=True)

    def __init__(
        self, size: int, heads: int = 4, head_size: int | None = None, rank: int = 16, *, key: PRNGKeyArray
    ):
        d = head_size or per_head(size, heads)
        keys = jax.random.split(key, 10)
        self.w_r, self.w_k, self.w_v = (projection(k, size, heads * d) for k in keys[:3])
        self.w_out = projection(keys[3], heads * d, size)
        self.decay, self.rate, self.gate = (LowRank(size, rank, heads * d, key=k) for k in keys[4:7])
        # sigmoid of these: decays between exp(-0.6) and exp(-0.004), slow and fast channels in every head
        self.b_decay = jnp.broadcast_to(jnp.linspace(-5.0, 3.0, d), (heads, d))
        self.b_rate, self.alpha, self.xi = jnp.zeros((heads, d)), jnp.ones((heads, d)), jnp.ones((heads, d))
        self.rho = 0.1 * jax.random.normal(keys[7], (heads, d))
        self.norm = HeadNorm(heads, d)
        before = jax.random.uniform(keys[8], (6 * size,))
        shift = ShortConvolution(6 * size, 2, silu=False, key=keys[9])
        self.convolution = eqx.tree_at(lambda c: c.weight, shift, jnp.stack([1 - before, before]))
        self.sizes, self.out_size = (heads, d, d), size

    @property
    def kernel(self):
        return VectorDelta(_STEEPEST)

    def mix(self, x):
        return jnp.tile(x, 6)

    def encode(self, x, mixed):
        heads, d, _ = self.sizes
        x_r, x_w, x_k, x_v, x_a, x_g = jnp.split(mixed, 6)
        r, k, v = (
            row.reshape(heads, d)
            for row in (project(x_r, self.w_r), project(x_k, self.w_k), project(x_v, self.w_v))
        )
        slope = project(jnp.tanh(project(x_w, self.decay.down)), self.decay.up).reshape(heads, d)
        log_w = -_STEEPEST * jax.nn.sigmoid(self.b_decay + slope)
        a = jax.nn.sigmoid(
            self.b_rate + project(project(x_a, self.rate.down), self.rate.up).reshape(heads, d)
        )
        g = project(jax.nn.sigmoid(project(x_g, self.gate.down)), self.gate.up).reshape(heads, d)
        kappa = unit(k * self.xi)
        replaced = k * (1 + (a - 1) * self.alpha)
        bonus = jnp.sum(r * self.rho * replaced, axis=-1, keepdims=True) * v
        return VectorDeltaInputs(r, replaced, v, kappa, -a * kappa, Decay(log_w)), (g, bonus)

    def decode(self, read, rest):
        g, bonus = rest
        return project((g * (self.norm(read) + bonus)).ravel(), self.w_out)

    @classmethod
    def example(cls, key, steps):
        keys = jax.random.split(key)
        return cls(6, heads=2, head_size=5, rank=4, key=keys[0]), jax.random.normal(keys[1], (steps, 6))

    def reference(self, xs, starts):
        heads, d, _ = self.sizes
        xs = float64(xs)
        assert self.convolution is not None
        shifted = self.convolution.reference(np.tile(xs, (1, 6)), starts)
        names = ("xi", "alpha", "rho", "b_decay", "b_rate", "w_r", "w_k", "w_v", "w_out")
        xi, alpha, rho, w_0, a_0, W_r, W_k, W_v, W_o = (float64(getattr(self, name)) for name in names)
        D, A, G = ((float64(m.down), float64(m.up)) for m in (self.decay, self.rate, self.gate))
        S, out = np.zeros((heads, d, d)), []
        for row, start in zip(shifted, starts, strict=True):
            S = np.zeros_like(S) if start else S
            x_r, x_w, x_k, x_v, x_a, x_g = np.split(row, 6)
            r, k, v = ((x @ W).reshape(heads, d) for x, W in ((x_r, W_r), (x_k, W_k), (x_v, W_v)))
            w = np.exp(-np.exp(-0.5) * np_sigmoid(w_0 + (np.tanh(x_w @ D[0]) @ D[1]).reshape(heads, d)))
            a = np_sigmoid(a_0 + (x_a @ A[0] @ A[1]).reshape(heads, d))
            g = (np_sigmoid(x_g @ G[0]) @ G[1]).reshape(heads, d)
            kappa, k_new = np_unit(k * xi), k * (1 + (a - 1) * alpha)
            o, bonus = np.zeros((heads, d)), np.zeros((heads, d))
            for i in range(heads):
                transition = np.diag(w[i]) - np.outer(a[i] * kappa[i], kappa[i])
                S[i] = transition @ S[i] + np.outer(k_new[i], v[i])
                o[i] = S[i].T @ r[i]
                bonus[i] = (r[i] @ (rho[i] * k_new[i])) * v[i]
            out.append((g * (self.norm.reference(o) + bonus)).ravel() @ W_o)
        return np.stack(out)

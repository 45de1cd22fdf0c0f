"""Spectral transform unit: fixed filters, the top eigenvectors of a Hankel matrix; only how their outputs are
mixed is learned.

    Z[i, j] = 2 / ((i + j)^3 - (i + j)),  i, j = 1..L;   Z phi_k = sigma_k phi_k,  k = 1..K, largest first
    U+_{t,k} = sum_{i=0}^{L-1} phi_k(i) u_{t-i},         U-_{t,k} = sum_{i=0}^{L-1} (-1)^i phi_k(i) u_{t-i}
    y_t = sum_{i=0}^{2} M_i u_{t-i} + sum_k sigma_k^(1/4) (M+_k U+_{t,k} + M-_k U-_{t,k})

Z is the second moment of (1 - alpha) alpha^i over alpha in [0, 1], so a few filters span the responses of all
symmetric linear systems, those of long memory included; U- serves their negative eigenvalues.

| paper      | here    | shape           | meaning                                        |
|------------|---------|-----------------|------------------------------------------------|
| phi, sigma | filters | (2 K, L)        | sigma^(1/4) phi and its alternating twin; fixed |
| M+, M-     | mix     | (2 K, out, in)  | how filtered inputs are mixed; 0 in the beginning |
| M_i        | direct  | (3, out, in)    | how the last three inputs are                  |

Source: N. Agarwal, D. Suo, X. Chen, E. Hazan, "Spectral State Space Models", 2024, arXiv:2312.06837, eq. 3
and section 3; Z, sigma^(1/4) and U+ as in the authors' code (google-deepmind/spectral_ssm), U- as in that of
their "Flash STU", 2024, arXiv:2409.10489, whose form without feedback this is.
Departures: the paper adds y_{t-2} to y_t and reads U at t - 2; that is exact over one sequence of length L
and has poles at 1 and -1, on which errors add up for ever, so it is left out here, as in Flash STU. Filters
are as long as the paper's sequences; what lies more than L steps back is forgotten, so that the state is
finite: the last L - 1 inputs, those before a start set to 0.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .base import AbstractMemory
from .causal_filter import causal_filter


def hankel_filters(count: int, length: int) -> np.ndarray:
    """sigma_k^(1/4) phi_k(i), k = 1..count, and after them (-1)^i times the same: (2 count, length)."""
    if not 1 <= count <= length:
        raise ValueError(f"{count} filters of length {length}; there are between 1 and as many as steps")
    i = np.arange(1, length + 1)
    s = (i[:, None] + i[None]).astype(np.float64)
    sigma, phi = np.linalg.eigh(2 / (s**3 - s))
    sigma, phi = sigma[::-1][:count], phi[:, ::-1][:, :count]
    phi = phi * np.sign(phi[np.argmax(np.abs(phi), axis=0), np.arange(count)])  # eigh leaves the sign open
    # The smallest are below the rounding of the largest, and may come out negative.
    filters = (np.maximum(sigma, 0) ** 0.25 * phi).T
    return np.concatenate([filters, filters * (-1.0) ** np.arange(length)])


class STU(AbstractMemory):
    """Features (size,) for inputs (size,): ``count`` filters of ``length`` steps and their alternating twins.

    Acting costs count x length products a step; learning is a convolution by FFT, which starts cut.
    """

    filters: Float[Array, "k L"]
    mix: Float[Array, "k out in"]
    direct: Float[Array, "3 out in"]

    def __init__(self, size: int, count: int, length: int, *, key: PRNGKeyArray):
        if length < 3:
            raise ValueError(f"length is {length}; the last three inputs are read, so it is at least 3")
        self.filters = jnp.asarray(hankel_filters(count, length), float)
        self.mix = jnp.zeros((2 * count, size, size))
        self.direct = jax.random.normal(key, (3, size, size)) / (3 * size) ** 0.5

    @property
    def out_size(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.mix.shape[1]

    def init(self):
        """The last length - 1 inputs, oldest first."""
        return jnp.zeros((self.filters.shape[1] - 1, self.mix.shape[2]))

    def step(self, state, x, start):
        rows = jnp.concatenate([jnp.where(start, 0.0, state), x[None]])
        latest = rows[::-1]
        filtered = jax.lax.stop_gradient(self.filters) @ latest
        read = jnp.einsum("koi,ki->o", self.mix, filtered) + jnp.einsum("koi,ki->o", self.direct, latest[:3])
        return rows[1:], read

    def unroll(self, state, xs, starts):
        past, rows = len(state), jnp.concatenate([state, xs])
        starts = jnp.concatenate([jnp.zeros(past, bool), starts])
        ys = causal_filter(self.kernel(past + 1), rows, starts)[past:]
        episode = jnp.cumsum(starts)
        return jnp.where((episode == episode[-1])[:, None], rows, 0.0)[len(xs) :], ys

    def kernel(self, length: int) -> Float[Array, "length out in"]:
        """The impulse response: y_t = sum_i kernel[i] u_{t-i}."""
        return jnp.einsum("kl,koi->loi", self.taps(), self.weights())[:length]

    def taps(self) -> Float[Array, "filters length"]:
        """The fixed filters, then those that read u_t, u_{t-1}, u_{t-2} alone."""
        fixed = jax.lax.stop_gradient(self.filters)
        return jnp.concatenate([fixed, jnp.eye(3, fixed.shape[1])])

    def weights(self) -> Float[Array, "filters out in"]:
        return jnp.concatenate([self.mix, self.direct])

    @classmethod
    def example(cls, key, steps):
        keys = jax.random.split(key, 3)
        memory = cls(3, 2, 7, key=keys[0])
        memory = eqx.tree_at(lambda m: m.mix, memory, jax.random.normal(keys[1], memory.mix.shape))
        return memory, jax.random.normal(keys[2], (steps, 3))

    def reference(self, xs, starts):
        f = lambda a: np.asarray(a, np.float64)  # noqa: E731
        M, direct, u, filters = f(self.mix), f(self.direct), f(xs), f(self.filters)
        begin, out = 0, []
        for t, start in enumerate(starts):
            begin = t if start else begin
            now = u[max(begin, t + 1 - filters.shape[1]) : t + 1][::-1]  # u_t, u_{t-1}, ...
            U = filters[:, : len(now)] @ now
            out.append(np.einsum("koi,ki->o", M, U) + sum(D @ v for D, v in zip(direct, now, strict=False)))
        return np.stack(out)

"""S4: a diagonal-plus-low-rank state space for each channel.

    x'(t) = A x(t) + B u(t),   y(t) = C x(t) + D u(t),   A = Lambda - P P^*              continuous
    x_k = Abar x_{k-1} + Bbar u_k,                       K_l = C Abar^l Bbar             per step, by Tustin

A step costs O(N): with E = 2/Delta + Lambda, F = (2/Delta - Lambda)^-1, G = (I + P^* F P)^-1,

    v = E x_{k-1} - P P^* x_{k-1} + 2 B u_k,     x_k = F v - F P G P^* F v               (Woodbury)

The kernel costs O(N L): its generating function at the L-th roots of unity z,

    sum_{l<L} K_l z^l = Ct [2/Delta (1 - z) - (1 + z) A]^-1 2 B,     Ct = C (I - Abar^L),

needs, by Woodbury again, four Cauchy sums over n of v_n / (2/Delta (1 - z) - (1 + z) lambda_n), and an
inverse transform gives K. (The paper divides by 1 + z; as here, nothing is singular at z = -1.)

Everything comes in conjugate pairs; half of them is kept, and a product with a row of C or P^* is 2 Re(.).

| paper     | here           | shape       | meaning                                                        |
|-----------|----------------|-------------|------------------------------------------------------------------|
| Re Lambda | log_decay      | (p,)        | -exp(log_decay); p = N / 2                                     |
| Im Lambda | frequency      | (p,)        |                                                                |
| P         | low_rank       | (2, p, r)   | real and imaginary parts                                       |
| B         | b              | (2, p)      |                                                                |
| C         | c              | (2, h, p)   |                                                                |
| D         | d              | (h,)        | feedthrough                                                    |
| Delta     | log_step       | (h,)        | timescales, log-uniform in [0.001, 0.1] at the beginning       |
| K         | kernel(length) | (length, h) |                                                                |

Source: A. Gu, K. Goel, C. Ré, "Efficiently Modeling Long Sequences with Structured State Spaces", 2021,
arXiv:2111.00396, algorithm 1 and appendix C; A = Lambda - P P^* (stable whatever is learned) after K. Goel,
A. Gu, C. Donahue, C. Ré, "It's Raw!", 2022, arXiv:2202.09729.
Departures: C is the parameter, not Ct, so that the recurrence needs no length; the kernel pays N^3 log L for
Abar^L. Lambda, P and B are shared by the channels.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, PRNGKeyArray

from ..core.checkpointed import checkpointed_scan
from .base import AbstractMemory
from .convolution import convolve
from .diagonal import exp, log_uniform, parts, weights_of
from .hippo import Hippo, dplr, legs


class System(NamedTuple):
    """What a step needs, made once."""

    low_rank: Complex[Array, "p r"]  # P
    b: Complex[Array, " p"]
    forward: Complex[Array, "h p"]  # E
    backward: Complex[Array, "h p"]  # F
    bridge: Complex[Array, "h p r"]  # F P G


class S4(AbstractMemory):
    """Features (size,) for inputs (size,), from ``state_size`` real state dimensions (even) for each."""

    log_decay: Float[Array, " p"]
    frequency: Float[Array, " p"]
    low_rank: Float[Array, "2 p r"]
    b: Float[Array, "2 p"]
    c: Float[Array, "2 h p"]
    d: Float[Array, " h"]
    log_step: Float[Array, " h"]
    out_size: int = eqx.field(static=True)

    def __init__(
        self,
        size: int,
        state_size: int,
        *,
        key: PRNGKeyArray,
        init: Callable[[int], Hippo] = legs,
        steps: tuple[float, float] = (0.001, 0.1),
    ):
        """init: of ``hippo.HIPPO``. steps: ends of the timescales Delta."""
        c_key, d_key, step_key = jax.random.split(key, 3)
        eigenvalues, low_rank, b, _ = (jnp.asarray(x, jnp.complex64) for x in dplr(init(state_size)))
        self.log_decay, self.frequency = weights_of(eigenvalues, exp)
        self.low_rank, self.b = parts(low_rank), parts(b)
        self.c = jax.random.normal(c_key, (2, size, len(eigenvalues))) * np.sqrt(0.5)
        self.d = jax.random.normal(d_key, (size,))
        self.log_step = log_uniform(step_key, (size,), steps)
        self.out_size = size

    def _eigenvalues(self):
        return jax.lax.complex(exp.rate(self.log_decay), self.frequency)

    def system(self) -> System:
        eigenvalues, low_rank = self._eigenvalues(), jax.lax.complex(*self.low_rank)
        rate = 2 / jnp.exp(self.log_step)[:, None]
        backward = 1 / (rate - eigenvalues)
        spread = backward[..., None] * low_rank  # F P
        gram = _twice_real(low_rank.conj().T @ spread)
        bridge = spread @ _small_inverse(jnp.eye(gram.shape[-1]) + gram)
        return System(low_rank, jax.lax.complex(*self.b), rate + eigenvalues, backward, bridge)

    def init(self):
        return jnp.zeros(self.c.shape[1:], jnp.result_type(self.c, jnp.complex64))

    def step(self, state, x, start):
        return self._advance(self.system(), state, x, start)

    def unroll(self, state, xs, starts):
        system = self.system()
        return checkpointed_scan(lambda z, timed: self._advance(system, z, *timed), state, (xs, starts))

    def _advance(self, system, z, x, start):
        low_rank, b, forward, backward, bridge = system
        z = jnp.where(start, 0.0, z)
        v = forward * z - _twice_real(z @ low_rank.conj()) @ low_rank.T + 2 * b * x[:, None]
        v = backward * v
        z = v - jnp.sum(bridge * _twice_real(v @ low_rank.conj())[:, None], axis=-1)
        real, imag = self.c
        return z, 2 * jnp.sum(real * z.real - imag * z.imag, axis=1) + self.d * x

    def kernel(self, length: int) -> Float[Array, "length h"]:
        """The response to an impulse, without the feedthrough D, by Cauchy sums."""
        half = (self._eigenvalues(), jax.lax.complex(*self.low_rank), jax.lax.complex(*self.b))
        eigenvalues, low_rank, b = map(_pairs, half)

        def channel(args):
            c, step = args
            return cauchy_kernel(eigenvalues, low_rank, b, _pairs(c), step, length)

        # One channel after another: the Cauchy matrix of one has length / 2 rows of N.
        kernels = jax.lax.map(jax.checkpoint(channel), (jax.lax.complex(*self.c), jnp.exp(self.log_step)))
        return kernels.T

    def convolve(self, xs: Float[Array, "T h"]) -> Float[Array, "T h"]:
        """The features of a sequence from a zero state without starts inside."""
        return convolve(self.kernel(len(xs)), xs) + self.d * xs

    @classmethod
    def example(cls, key, steps):
        return cls(3, 10, key=key), jax.random.normal(key, (steps, 3))

    def reference(self, xs, starts):
        f = lambda a: np.asarray(a, np.float64)  # noqa: E731
        both = lambda z: np.concatenate([z, z.conj()])  # noqa: E731
        Lambda = both(-np.exp(f(self.log_decay)) + 1j * f(self.frequency))
        P, B = (both(f(z[0]) + 1j * f(z[1])) for z in (self.low_rank, self.b))
        A, one = np.diag(Lambda) - P @ P.conj().T, np.eye(len(Lambda))
        us, D, Delta, out = f(xs), f(self.d), np.exp(f(self.log_step)), np.zeros(xs.shape)
        for h in range(us.shape[1]):
            C = both(f(self.c[0, h]) + 1j * f(self.c[1, h]))
            ahead = np.linalg.inv(one - Delta[h] / 2 * A)
            Abar, Bbar = ahead @ (one + Delta[h] / 2 * A), ahead @ (Delta[h] * B)
            x = np.zeros(len(B), complex)
            for k, start in enumerate(starts):
                x = np.zeros_like(x) if start else x
                x = Abar @ x + Bbar * us[k, h]
                out[k, h] = (C @ x).real + D[h] * us[k, h]
        return out


# --- the kernel of one channel ------------------------------------------------------------------------------


def cauchy_kernel(
    eigenvalues: Complex[Array, " N"],
    low_rank: Complex[Array, "N r"],
    b: Complex[Array, " N"],
    c: Complex[Array, " N"],
    step: Float[Array, ""],
    length: int,
) -> Float[Array, " length"]:
    """K_l = c Abar^l Bbar for A = diag(eigenvalues) - low_rank low_rank^* (all pairs, not half) and Tustin's
    rule."""
    truncated = c - _times_power(c, _dense_transition(eigenvalues, low_rank, step), length)
    # z = exp(-i t); its half angle keeps 1 - z = 2 i sin(t/2) exp(-i t/2) exact where z is near 1.
    half = jnp.pi * jnp.arange(length // 2 + 1) / length
    turn = jnp.exp(-1j * half)
    left, right = 4j / step * jnp.sin(half), 2 * jnp.cos(half)  # of 2/step (1 - z) and of 1 + z, over turn
    cauchy = 2 / (left[:, None] - right[:, None] * eigenvalues)
    rows = jnp.concatenate([truncated[None], low_rank.conj().T])
    columns = jnp.concatenate([b[None], low_rank.T])
    sums = jnp.einsum("fn,ijn->fij", cauchy, rows[:, None] * columns)  # [[c b, c P], [P^* b, P^* P]]
    scale = right[:, None, None] / 2
    correction = _small_inverse(jnp.eye(low_rank.shape[1]) + scale * sums[:, 1:, 1:])
    value = sums[:, :1, :1] - scale * sums[:, :1, 1:] @ correction @ sums[:, 1:, :1]
    return jnp.fft.irfft(value[:, 0, 0] / turn, length)


def _dense_transition(eigenvalues, low_rank, step):
    one = jnp.eye(len(eigenvalues), dtype=eigenvalues.dtype)
    backward = 1 / (2 / step - eigenvalues)
    spread = backward[:, None] * low_rank
    inner = _small_inverse(jnp.eye(low_rank.shape[1]) + low_rank.conj().T @ spread)
    inverse = jnp.diag(backward) - spread @ inner @ (low_rank.conj().T * backward)
    return inverse @ (2 / step * one + jnp.diag(eigenvalues) - low_rank @ low_rank.conj().T)


def _times_power(row, matrix, power: int):
    """row @ matrix^power by repeated squaring."""
    while power:
        row = row @ matrix if power % 2 else row
        matrix, power = matrix @ matrix if power > 1 else matrix, power // 2
    return row


def _pairs(half: Any) -> Any:
    return jnp.concatenate([half, half.conj()])


def _twice_real(z):
    return 2 * jnp.real(z)


def _small_inverse(m: Array) -> Array:
    """Of 1 x 1 or 2 x 2 matrices on the last axes, by cofactors."""
    if m.shape[-1] == 1:
        return 1 / m
    (a, b), (c, d) = (m[..., 0, 0], m[..., 0, 1]), (m[..., 1, 0], m[..., 1, 1])
    cofactors = jnp.stack([jnp.stack([d, -b], -1), jnp.stack([-c, a], -1)], -2)
    return cofactors / (a * d - b * c)[..., None, None]

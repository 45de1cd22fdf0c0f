"""HiPPO: state spaces whose state holds the coefficients of the past in an orthogonal basis.

    x'(t) = A x(t) + B u(t),      x_n(t) = integral_0^inf p_n(s) u(t - s) omega(s) ds

| name | window omega(s)  | basis p_n(s)                                       | timescale |
|------|------------------|----------------------------------------------------|-----------|
| legs | e^-s             | Legendre in e^-s, sqrt(2n+1) L_n(2 e^-s - 1)       | 1         |
| legt | 1 on [0, 1]      | Legendre, sqrt(2n+1) L_n(1 - 2 s)                  | 1/2       |
| fout | 1 on [0, 1]      | 1, 0, sqrt2 cos(2 pi s), sqrt2 sin(2 pi s), ...    | 1/2       |

The timescale is the mean of omega: how far back, in units of time, the state looks. With a step Delta it
looks back timescale / Delta steps, which is the rule for choosing Delta (``step_range``).

Each A is a normal matrix minus one of low rank, A = N - P P^T with N + N^T = -2 c I, so N = V Lambda V^* with
unitary V: the form of S4. Keeping the half of Lambda with Im > 0, real signals need 2 Re(.) of what it gives.

Everything here is NumPy in float64, made once when a layer is built.

| paper  | here    | shape         | meaning                                             |
|--------|---------|---------------|-----------------------------------------------------|
| A, B   | a, b    | (n, n), (n,)  | the state space                                     |
| P      | p       | (n, r)        | A + P P^T is normal; r = 1 for legs, fout; 2 for legt |
| Lambda | eigenvalues | (n / 2,)  | of the normal part, those with Im > 0               |
| V      | vectors | (n, n / 2)    | orthonormal columns                                 |

Source: A. Gu, T. Dao, S. Ermon, A. Rudra, C. Ré, "HiPPO: Recurrent Memory with Optimal Polynomial
Projections", 2020, arXiv:2008.07669 (legs, legt); A. Gu, I. Johnson, A. Timalsina, A. Rudra, C. Ré, "How to
Train Your HiPPO", 2022, arXiv:2206.12037 (legs as a time-invariant system, fout, the timescale rule); A. Gu,
K. Goel, C. Ré, 2021, arXiv:2111.00396, theorem 1 (normal plus low rank).
Departures: fout keeps the zero function sin(0 s) as entry 1, so that sizes are even and frequencies come in
pairs.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy


class Hippo(NamedTuple):
    """A state space x' = a x + b u, the p that makes a + p p^T normal, and the timescale of its window."""

    a: np.ndarray
    b: np.ndarray
    p: np.ndarray
    timescale: float


def legs(size: int) -> Hippo:
    """HiPPO-LegS: A[n, k] = -sqrt((2n+1)(2k+1)) below the diagonal, -(n+1) on it; B[n] = sqrt(2n+1)."""
    n = np.arange(size)
    root = np.sqrt(2 * n + 1.0)
    a = -np.tril(np.outer(root, root), -1) - np.diag(n + 1.0)
    return Hippo(a, root, np.sqrt(n + 0.5)[:, None], 1.0)


def legt(size: int) -> Hippo:
    """HiPPO-LegT: A[n, k] = -sqrt((2n+1)(2k+1)) times 1 if k <= n, else (-1)^(n-k); B[n] = sqrt(2n+1)."""
    n = np.arange(size)
    root = np.sqrt(2 * n + 1.0)
    sign = np.where(n[None] <= n[:, None], 1.0, (-1.0) ** (n[:, None] - n[None]))
    even = n % 2 == 0
    return Hippo(-np.outer(root, root) * sign, root, np.stack([root * even, root * ~even], axis=1), 0.5)


def fout(size: int) -> Hippo:
    """HiPPO-FouT of an even ``size``: cosine and sine of frequency k at 2k and 2k + 1.

    The derivative turns each pair; the value that leaves the window, u(t - 1), is that of the series at its
    end, where a Fourier series takes the mean of both ends: u(t - 1) = 2 sum_k p_k(1) x_k - u(t).
    """
    check_even(size)
    speed = 2 * np.pi * np.arange(size // 2)
    end = np.where(np.arange(size) % 2 == 0, np.sqrt(2), 0.0)  # p_n(0) = p_n(1)
    end[0] = 1.0
    turn = np.zeros((size, size))
    cosine, sine = np.arange(0, size, 2), np.arange(1, size, 2)
    turn[cosine, sine], turn[sine, cosine] = -speed, speed
    return Hippo(turn - 2 * np.outer(end, end), 2 * end, np.sqrt(2) * end[:, None], 0.5)


HIPPO: dict[str, Callable[[int], Hippo]] = {"legs": legs, "legt": legt, "fout": fout}
"""State spaces by name; each takes its size."""


class DPLR(NamedTuple):
    """Half of a conjugate-symmetric system A = diag(eigenvalues) - p p^*, input b, in the basis ``vectors``:
    a real state x is 2 Re(vectors @ z)."""

    eigenvalues: np.ndarray
    p: np.ndarray
    b: np.ndarray
    vectors: np.ndarray


def dplr(hippo: Hippo) -> DPLR:
    """The system in the eigenbasis of its normal part. Its size must be even."""
    eigenvalues, vectors = normal_spectrum(hippo.a + hippo.p @ hippo.p.T)
    to = vectors.conj().T
    return DPLR(eigenvalues, to @ hippo.p, to @ hippo.b, vectors)


def normal_spectrum(normal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and orthonormal eigenvectors, one of each conjugate pair, of -c I plus a skew matrix.

    normal: (n, n), n even. Returns (eigenvalues (n / 2,) with Im >= 0 rising, vectors (n, n / 2)).
    """
    check_even(len(normal))
    frequency, vectors = np.linalg.eigh(-0.5j * (normal - normal.T))  # of the skew part: n real numbers
    rest = np.abs(frequency) < 1e-9 * max(1.0, np.abs(frequency).max())
    moving = (frequency > 0) & ~rest
    # Directions that do not turn have real eigenvectors; two of them make one pair.
    still = np.real(np.linalg.svd(vectors[:, rest] @ vectors[:, rest].conj().T)[0][:, : rest.sum()])
    paired = (still[:, ::2] + 1j * still[:, 1::2]) / np.sqrt(2)
    vectors = np.concatenate([paired, vectors[:, moving]], axis=1)
    turning = np.concatenate([np.zeros(paired.shape[1]), frequency[moving]])
    return np.mean(np.diag(normal)) + 1j * turning, vectors


def hippo_normal(size: int) -> tuple[np.ndarray, np.ndarray]:
    """``normal_spectrum`` of HiPPO-LegS: eigenvalues (size / 2,), all with real part -1/2, and vectors
    (size, size / 2). ``size`` must be even."""
    eigenvalues, _, _, vectors = dplr(legs(size))
    return eigenvalues, vectors


def step_range(timescale: float, shortest: float, longest: float) -> tuple[float, float]:
    """The rule for Delta: (smallest, largest) such that the state looks back between ``shortest`` and
    ``longest`` steps, timescale / Delta. Draw Delta log-uniformly between the two."""
    if not 0 < shortest <= longest:
        raise ValueError(f"dependencies from {shortest} to {longest} steps; need 0 < shortest <= longest")
    return timescale / longest, timescale / shortest


# --- discretisation of x' = A x + B u by a step Delta: x_k = Abar x_{k-1} + Bbar u_k -----------------------


def bilinear(a: np.ndarray, b: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Tustin's rule: Abar = (I - Delta/2 A)^-1 (I + Delta/2 A), Bbar = (I - Delta/2 A)^-1 Delta B.

    a: (n, n). b: (n,) or (n, m). Keeps stable systems stable.
    """
    return generalised_bilinear(a, b, step, 0.5)


def generalised_bilinear(
    a: np.ndarray, b: np.ndarray, step: float, alpha: float
) -> tuple[np.ndarray, np.ndarray]:
    """Euler's rule for alpha = 0, Tustin's for 1/2, backward Euler's for 1:
    Abar = (I - alpha Delta A)^-1 (I + (1 - alpha) Delta A), Bbar = (I - alpha Delta A)^-1 Delta B."""
    one = np.eye(len(a))
    ahead = one - alpha * step * a
    return np.linalg.solve(ahead, one + (1 - alpha) * step * a), np.linalg.solve(ahead, step * b)


def zoh(a: np.ndarray, b: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Zero-order hold, exact for inputs that are constant over each step: Abar = exp(Delta A),
    Bbar = integral_0^Delta exp(s A) ds B; ``a`` may be singular."""
    n, columns = len(a), b.reshape(len(a), -1)
    held = np.zeros((n + columns.shape[1],) * 2, np.result_type(a, b, float))
    held[:n, :n], held[:n, n:] = step * a, step * columns
    both = scipy.linalg.expm(held)  # of [[A, B], [0, 0]]: the input as part of the state
    return both[:n, :n], both[:n, n:].reshape(b.shape)


def check_even(size: int) -> None:
    """Raise if ``size`` real dimensions cannot be taken in conjugate pairs."""
    if size < 2 or size % 2:
        raise ValueError(f"size is {size}; conjugate pairs need an even number of at least 2")

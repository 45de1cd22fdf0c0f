"""The exponent xi and the constant alpha of Theorems 5.7 and 5.9.

For an ordered pair of states that meet the emission distributions p_n, q_n on their way, n = 1..M,

    Lambda_n(t) = log sum_o p_n[o] (p_n[o] / q_n[o])^t
    xi_pair     = -(1/M) sum_{n: p_n != q_n} integral_0^{-1/M} Lambda_n(t) / t dt,    xi = min over pairs
    alpha       > log((1/M) sum_n KL_n + 2 W) - log(-(1/2) sum_n integral_n)          for every pair

With t = -u/M the integral is -gain_n / M, gain_n = integral_0^1 g_n(u/M) du, where g_n(a) = -Lambda_n(-a) / a
falls from KL(p_n || q_n) at a = 0 to 0 at a = 1. So xi_pair = mean_n gain_n / M and
alpha > log((mean_n KL_n + 2 W) / (mean_n gain_n / 2)), which stays finite however long the period M is.

The means run over the orbits of pairs: the cycles of lengths a and b carry the pair of positions (x, y) to
(x+1, y+1), so the pairs with equal (x - y) mod gcd(a, b) form one orbit of length lcm(a, b). Nothing loops
over M.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from .assumptions import emission_classes

Pairs = Float[np.ndarray, "pairs k"]

NODES, WEIGHTS = np.polynomial.legendre.leggauss(16)
NODES, WEIGHTS = (NODES + 1) / 2, WEIGHTS / 2  # on [0, 1]

# An interval is halved until its rule and that of its halves agree so well. The halves are then better still.
TOLERANCE = 1e-12
NARROWEST = 2.0**-16  # the integrand has no detail finer than 1/708, the largest log-ratio of two floats

CHUNK = 2**21  # numbers held at once by the integrand


class Exponent(NamedTuple):
    """xi, the pair of states that attains it, and the infimum of the admissible alpha (inf where xi = 0).

    With fewer than two states there is no pair to confuse: xi is inf, alpha 0.
    """

    xi: float
    pair: tuple[int, int] | None
    alpha: float


def exponent(
    emission: Float[np.ndarray, "n k"], cycles: tuple[tuple[int, ...], ...], period: int, logit_bound: float
) -> Exponent:
    """The exponent over all ordered pairs of the states on the cycles; their emissions are positive.

    logit_bound: W of the paper, bounding the initial logits and |log emission|.
    """
    states = np.concatenate(cycles)
    if len(states) < 2:
        return Exponent(np.inf, None, 0.0)
    labels = emission_classes(emission[states])
    representatives = emission[states][np.unique(labels, return_index=True)[1]]
    gain, divergence = _tables(representatives, period)

    first, second = np.nonzero(~np.eye(len(states), dtype=bool))
    orbit = np.unique(_orbits(cycles)[first, second], return_inverse=True)[1].reshape(-1)

    def orbit_means(table):
        return np.bincount(orbit, table[labels[first], labels[second]]) / np.bincount(orbit)

    mean_gain, mean_divergence = orbit_means(gain), orbit_means(divergence)
    least = mean_gain.min()
    hardest = np.flatnonzero(mean_gain[orbit] == least)
    pairs = zip(states[first[hardest]].tolist(), states[second[hardest]].tolist(), strict=True)
    alpha = np.inf
    if least > 0:
        alpha = (np.log(mean_divergence + 2 * logit_bound) - np.log(mean_gain / 2)).max()
    return Exponent(
        xi=float(least * (1 / period)),
        pair=min(pairs),
        alpha=float(alpha),
    )


def _orbits(cycles: tuple[tuple[int, ...], ...]) -> Int[np.ndarray, "c c"]:
    """A number per ordered pair of positions in the concatenated cycles, the same along an orbit of pairs."""
    lengths = np.array([len(cycle) for cycle in cycles])
    cycle = np.repeat(np.arange(len(cycles)), lengths)
    place = np.concatenate([np.arange(length) for length in lengths])
    length = lengths[cycle]
    offset = (place[:, None] - place) % np.gcd(length[:, None], length)
    return (cycle[:, None] * len(cycles) + cycle) * len(cycle) + offset


def _tables(emission: Float[np.ndarray, "u k"], period: int) -> tuple[np.ndarray, np.ndarray]:
    """gain and KL between every two rows of ``emission``, which differ; 0 on the diagonal."""
    u, k = emission.shape
    gain, divergence = np.zeros((u, u)), np.zeros((u, u))
    first, second = np.nonzero(~np.eye(u, dtype=bool))
    size = max(1, CHUNK // (k * len(NODES)))
    for start in range(0, len(first), size):
        i, j = first[start : start + size], second[start : start + size]
        p, q = emission[i], emission[j]
        gain[i, j] = _gain(p, q, period)
        divergence[i, j] = (q - p - p * _log_ratio(p, q)).sum(axis=1)
    return gain, divergence


def _gain(p: Pairs, q: Pairs, period: int) -> Float[np.ndarray, " pairs"]:
    """integral_0^1 g(u / M) du for each pair, by bisection of all pairs at once."""
    gap, log_ratio = q - p, _log_ratio(p, q)
    rounding = 1e-15 * np.abs(gap).sum(axis=1)  # of the integrand, which no bisection removes
    step = max(1 / period, 1e-200)  # for longer periods the integrand is KL to every digit

    def rule(pair, left, width):
        a = step * (left[:, None] + width * NODES)
        return width * _integrand(p[pair], gap[pair], log_ratio[pair], a) @ WEIGHTS

    total = np.zeros(len(p))
    pair, left, width = np.arange(len(p)), np.zeros(len(p)), 1.0
    whole = scale = rule(pair, left, width)
    while len(pair):
        width /= 2
        halves = np.stack([rule(pair, left, width), rule(pair, left + width, width)])
        error = np.abs(whole - halves.sum(axis=0))
        done = (error <= TOLERANCE * scale[pair] + rounding[pair]) | (width <= NARROWEST)
        np.add.at(total, pair[done], halves.sum(axis=0)[done])
        pair, left = np.tile(pair[~done], 2), np.concatenate([left[~done], left[~done] + width])
        whole = halves[:, ~done].reshape(-1)
    return total


def _integrand(p: Pairs, gap: Pairs, log_ratio: Pairs, a: Float[np.ndarray, "pairs nodes"]) -> np.ndarray:
    """g(a) = -log(z) / a with z = sum_o p^(1-a) q^a, exact for close p and q and for small a.

    1 - z is a sum of terms (1-a) p + a q - p^(1-a) q^a, none of which is negative: they do not cancel.
    """
    power = a[..., None] * log_ratio[:, None]
    deficit = (a[..., None] * gap[:, None] - p[:, None] * np.expm1(power)).sum(axis=-1)
    far = deficit > 0.5  # there 1 - deficit cancels, and z itself is summed
    log_z = np.log1p(-np.where(far, 0, deficit))
    pair, _ = np.nonzero(far)
    log_z[far] = np.log((p[pair] * np.exp(power[far])).sum(axis=-1))
    return -log_z / a


def _log_ratio(p: Pairs, q: Pairs) -> Pairs:
    """log(q / p), exact also where q is close to p."""
    close = np.abs(q - p) < p / 2
    return np.where(close, np.log1p(np.where(close, q - p, 0) / p), np.log(q) - np.log(p))

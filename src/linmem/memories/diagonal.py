"""What the diagonal state spaces share: initialisations, maps of the decay, discretisations, kernels.

    z'(t) = Lambda z(t) + B u(t),   y(t) = 2 Re(C z(t))             continuous, half of the conjugate pairs
    z_k = Abar z_{k-1} + Bbar u_k,  K_l = 2 Re(sum_n C_n Bbar_n Abar_n^l)                       per step

Plain functions in dictionaries; a layer takes the function, not its name:

INITS       (state size, key) -> ``Basis``: the eigenvalues, and the way into their eigenbasis.
DECAYS      pairs of functions between a free parameter w and Re Lambda.
DISCRETISE  (Lambda, Delta) -> (Abar, Bbar / B).
CHANNELS    Abar -> Abar: which of its entries are held fixed.

| name    | function                                                  | source                              |
|---------|-----------------------------------------------------------|-------------------------------------|
| lin     | -1/2 + i pi n                                             | S4D, arXiv:2206.11893, eq. 9        |
| inv     | -1/2 + i (N / pi) (N / (2 n + 1) - 1)                     | S4D, eq. 8                          |
| legs    | of the normal part of HiPPO-LegS (also legt, fout)        | S4D, theorem 3; S5, arXiv:2208.04933 |
| ptd     | of HiPPO-LegS + E, E random of 2-norm epsilon             | arXiv:2310.01698, section 4         |
| ring    | log of a uniform point of the ring r_min <= |z| <= r_max  | LRU, arXiv:2303.06349, lemma 3.2    |
| exp     | Re Lambda = -exp(w)                                       | StableSSM, arXiv:2311.14495         |
| softplus | Re Lambda = -log(1 + exp(w))                             | StableSSM                           |
| best    | Re Lambda = -1 / (w^2 + b)                                | StableSSM, where b = 0.1            |
| direct  | Re Lambda = w, which may become unstable                  | StableSSM, the one to avoid         |
| polarised | the first entry of Abar is 0, the last is 1             | arXiv:2501.00658                    |

StableSSM calls a map best if the gradient of the loss in w stays in proportion to w, which asks for
|f'(w)| / f(w)^2 = c |w| and is solved by -1 / (a w^2 + b). For eigenvalues of a step instead of rates,
|f'(w)| / (1 - f(w))^2 = c |w| is solved by 1 - 1 / (a w^2 + b), ``best_of_a_step``.
The authors' code has the first; the second, with a = 1 and b = 1/2, is how others restate the paper.
Departures: E of ptd is random, not optimised; it depends on the size alone, so that equal sizes have equal
shapes. The polarised entries are two of the state's own and exact; the authors' code
(VITA-Group/SSM-Bottleneck) adds two to a Mamba, with rates 0 and -100.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, PRNGKeyArray

from .hippo import Hippo, check_even, dplr, fout, legs, legt

SLOWEST = 1e-4
"""The least decay rate an initialisation starts from: legt and fout have none in their normal part."""


# --- initialisations ----------------------------------------------------------------------------------------


class Basis(NamedTuple):
    """Eigenvalues of a real state space x' = A x + B u of size n, and the change of basis.

    z = into @ x and x = 2 Re(back @ z); p is n / 2 if no eigenvalue is real, else more.
    """

    eigenvalues: Any  # (p,), arrays of NumPy, or of JAX if random
    into: Any  # (p, n)
    back: Any  # (n, p)
    b: Any  # (p,): B of the paper in this basis


Init = Callable[[int, PRNGKeyArray], Basis]


def normal_part(hippo: Callable[[int], Hippo]) -> Init:
    """The initialisation that forgets the low-rank part of a HiPPO matrix, as S4D-LegS and S5 do."""

    def init(size: int, key: PRNGKeyArray) -> Basis:
        eigenvalues, _, b, vectors = dplr(hippo(size))
        return Basis(eigenvalues, vectors.conj().T, vectors, b)

    return init


def lin(size: int, key: PRNGKeyArray) -> Basis:
    """S4D-Lin: equally spaced frequencies, the limit of FouT."""
    check_even(size)
    return _pairs(-0.5 + 1j * np.pi * np.arange(size // 2), size)


def inv(size: int, key: PRNGKeyArray) -> Basis:
    """S4D-Inv: frequencies by an inverse law that approximates those of LegS."""
    check_even(size)
    return _pairs(-0.5 + 1j * size / np.pi * (size / (2 * np.arange(size // 2) + 1) - 1), size)


def ring_between(r_min: float = 0.0, r_max: float = 1.0, max_phase: float = 2 * np.pi) -> Init:
    """Uniform on a ring in the complex plane, as eigenvalues of one step; a layer should hold Delta at 1.

    |z|^2 is uniform between the squared radii, the phase between 0 and ``max_phase``.
    """
    if not 0 <= r_min < r_max <= 1:
        raise ValueError(f"a ring from {r_min} to {r_max} is not one inside the unit disc")

    def init(size: int, key: PRNGKeyArray) -> Basis:
        check_even(size)
        radius_key, phase_key = jax.random.split(key)
        tiny = jnp.finfo(jnp.float32).tiny  # log 0 is no decay rate
        square = jax.random.uniform(radius_key, (size // 2,), minval=max(r_min**2, tiny), maxval=r_max**2)
        phase = jax.random.uniform(phase_key, (size // 2,), maxval=max_phase)
        return _pairs(jax.lax.complex(0.5 * jnp.log(square), phase), size)

    return init


def perturb_then_diagonalise(epsilon: float = 0.1, hippo: Callable[[int], Hippo] = legs) -> Init:
    """The eigenvalues of A + E with ||E||_2 = ``epsilon``, a backward-stable diagonalisation of A."""

    def init(size: int, key: PRNGKeyArray) -> Basis:
        check_even(size)
        a, b, _, _ = hippo(size)
        noise = np.random.default_rng(size).standard_normal((size, size))
        return diagonalised(a + epsilon * noise / np.linalg.norm(noise, 2), b)

    return init


def diagonalised(a: np.ndarray, b: np.ndarray) -> Basis:
    """The eigenbasis of any real diagonalisable matrix (n, n), one of each conjugate pair."""
    eigenvalues, vectors = np.linalg.eig(a)
    into = np.linalg.inv(vectors)
    kept = np.imag(eigenvalues) >= 0
    alone = np.imag(eigenvalues) == 0  # counted once, where 2 Re(.) counts twice
    back = np.where(alone, 0.5, 1.0) * vectors
    return Basis(eigenvalues[kept], into[kept], back[:, kept], into[kept] @ b)


def _pairs(eigenvalues, size: int) -> Basis:
    """Real coordinates two by two: z_k = (x_{2k} - i x_{2k+1}) / sqrt2; the input enters each z_k with 1."""
    pairs = np.kron(np.eye(size // 2), np.array([1.0, -1.0j]) / np.sqrt(2))
    return Basis(eigenvalues, pairs, pairs.conj().T, np.ones(size // 2, complex))


legs_normal = normal_part(legs)
ptd = perturb_then_diagonalise()

INITS: dict[str, Init] = {
    "legs": legs_normal,
    "legt": normal_part(legt),
    "fout": normal_part(fout),
    "lin": lin,
    "inv": inv,
    "ptd": ptd,
    "ring": ring_between(),
}


# --- maps of the decay --------------------------------------------------------------------------------------


class Decay(NamedTuple):
    """``rate(w)`` is Re Lambda; ``weight(rate)`` the w it comes from."""

    rate: Callable[[Array], Array]
    weight: Callable[[Array], Array]


def best_with(b: float) -> Decay:
    """-1 / (w^2 + b): decays faster than 1 / b cannot be had, and begin there."""
    return Decay(lambda w: -1 / (w**2 + b), lambda rate: jnp.sqrt(jnp.maximum(-1 / rate - b, 1e-6)))


def best_of_a_step(w: Array, a: float = 1.0, b: float = 0.5) -> Array:
    """1 - 1 / (a w^2 + b): an eigenvalue of a step, below 1 for any w and above -1 if b > 1/2."""
    return 1 - 1 / (a * w**2 + b)


exp = Decay(lambda w: -jnp.exp(w), lambda rate: jnp.log(-rate))
softplus = Decay(lambda w: -jax.nn.softplus(w), lambda rate: jnp.log(jnp.expm1(-rate)))
best = best_with(0.1)
direct = Decay(lambda w: w, lambda rate: rate)

DECAYS: dict[str, Decay] = {"exp": exp, "softplus": softplus, "best": best, "direct": direct}


def weights_of(eigenvalues: Complex[Array, "*n"], decay: Decay) -> tuple[Array, Array]:
    """The parameters (w, frequency) that start at ``eigenvalues``."""
    rate = jnp.minimum(jnp.real(eigenvalues), -SLOWEST)
    return decay.weight(rate), jnp.imag(eigenvalues)


# --- discretisations ----------------------------------------------------------------------------------------

Discretisation = Callable[[Array, Array], tuple[Array, Array]]


def zoh(eigenvalues: Array, step: Array) -> tuple[Array, Array]:
    """Zero-order hold: Abar = exp(Lambda Delta), Bbar = Lambda^-1 (Abar - 1) B.

    Of a slow mode Abar - 1 would keep few digits, and its derivative none: there Bbar is a series."""
    z = eigenvalues * step
    slow = jnp.abs(z) < 0.03
    transition = jnp.exp(z)
    series = step * (1 + z / 2 * (1 + z / 3 * (1 + z / 4)))
    return transition, jnp.where(slow, series, (transition - 1) / jnp.where(slow, 1.0, eigenvalues))


def bilinear(eigenvalues: Array, step: Array) -> tuple[Array, Array]:
    """Tustin's rule: Abar = (1 + Lambda Delta / 2) / (1 - Lambda Delta / 2), Bbar = Delta / (1 - ...) B."""
    half = eigenvalues * step / 2
    return (1 + half) / (1 - half), step / (1 - half)


DISCRETISE: dict[str, Discretisation] = {"zoh": zoh, "bilinear": bilinear}


# --- channels held fixed ------------------------------------------------------------------------------------


def free(transition: Array) -> Array:
    """No channel is held."""
    return transition


def polarised(transition: Array) -> Array:
    """The first of the last axis forgets at once, the last never; the others stay as they are."""
    return transition.at[..., 0].set(0.0).at[..., -1].set(1.0)


CHANNELS: dict[str, Callable[[Array], Array]] = {"free": free, "polarised": polarised}


# --- kernels ------------------------------------------------------------------------------------------------


def kernel(
    transition: Complex[Array, "*h p"], weight: Complex[Array, "*h p"], length: int
) -> Float[Array, "length *h"]:
    """K_l = 2 Re(sum_n weight_n transition_n^l), l < ``length``.

    With l = i m + j and m about sqrt(length), a^l = a^(i m) a^j: some m powers of each kind and one matrix
    product, where the Vandermonde matrix would have ``length`` powers.
    """
    width = int(np.ceil(length**0.5))
    inner, block = _powers(transition, width)
    outer, _ = _powers(block, -(-length // width))
    left = jnp.moveaxis(weight * outer, 0, -2)  # (*h, blocks, p)
    right = jnp.moveaxis(inner, 0, -1)  # (*h, p, width)
    # Two real products: the imaginary part is not wanted.
    values = 2 * (left.real @ right.real - left.imag @ right.imag)
    return jnp.moveaxis(values.reshape(*values.shape[:-2], -1)[..., :length], -1, 0)


def _powers(a: Array, count: int) -> tuple[Array, Array]:
    """(a^0 ... a^(count-1) along a new first axis, a^count)."""
    powers = jnp.cumprod(jnp.broadcast_to(a, (count, *a.shape)), axis=0)
    return jnp.concatenate([jnp.ones_like(powers[:1]), powers[:-1]]), powers[-1]


def log_uniform(key: PRNGKeyArray, shape: tuple[int, ...], ends: tuple[float, float]) -> Float[Array, "..."]:
    """Logarithms, uniform between those of ``ends``: how timescales Delta begin. Raises ValueError for ends
    that are not 0 < low <= high."""
    if not 0 < ends[0] <= ends[1]:
        raise ValueError(f"timescales begin between {ends[0]} and {ends[1]}; give 0 < low <= high")
    return jax.random.uniform(key, shape, minval=np.log(ends[0]), maxval=np.log(ends[1]))


def parts(z: Complex[Array, "*n"]) -> Float[Array, "2 *n"]:
    """Real and imaginary part along a new first axis: how complex parameters are kept, so that optimisers
    meet real numbers only. ``jax.lax.complex(*parts)`` puts them together."""
    return jnp.stack([jnp.real(z), jnp.imag(z)])

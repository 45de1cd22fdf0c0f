"""The modes of a learned linear memory beside those that the theory asks for.

On the ring, moves rotate the belief, so the exact filter's modes are roots of unity: action a turns mode k by
2 pi k s(a) / n, where s(a) is the number of steps. In general they are the joint spectrum of the model's
backbones, if these commute. A memory is compared by the directions of its eigenvalues; what their moduli fall
short of 1 is its forgetting, delta of an adaptive filter.

The assignment pairs each mode of the smaller set with one of the other, so that the mean angle between
partners is least (H. W. Kuhn, "The Hungarian method for the assignment problem", 1955). A mode has one
partner for all actions.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Complex

from ..core.types import Inputs
from ..memories.base import ONCE, AbstractLinearMemory, AbstractMemory
from ..memories.deep_alf import DeepALF, shared_spectrum
from ..worlds.tables import POMDP


def eigenvalues(memory: AbstractMemory, model: POMDP) -> Complex[np.ndarray, "m p"] | None:
    """Of the memory's transition for each action, modes in one order for all; None if it has none to compare.

    A layer whose transition is the same at every step has one row. Wrappers (encoder, residual block) are
    looked through. A layer that keeps one of each conjugate pair is given both.
    """
    while not isinstance(memory, AbstractLinearMemory):
        if not isinstance(inner := getattr(memory, "memory", None), AbstractMemory):
            return None
        memory = inner
    if isinstance(memory, DeepALF):
        actions = jnp.arange(model.n_actions)
        steps = Inputs(jnp.zeros_like(actions), actions, jnp.zeros(len(actions)))
        return np.asarray(jax.vmap(lambda x: memory.encode(x, jnp.asarray(False)).transition)(steps))
    if memory.time_axes().transition is not ONCE or not eqx.is_array(memory.init()):
        return None
    transition = memory.encode(jnp.zeros(memory.out_size), jnp.asarray(False)).transition
    if jnp.shape(transition) != memory.init().shape:
        return None  # not diagonal
    half = np.asarray(transition)[None]
    return np.concatenate([half, half.conj()], axis=1) if np.iscomplexobj(half) else half.astype(complex)


def theoretical(model: POMDP) -> Complex[np.ndarray, "m n"] | None:
    """The joint spectrum of the model's backbones on the unit circle; None if they do not commute."""
    try:
        return np.exp(1j * shared_spectrum(model)[0])
    except ValueError:
        return None


def angular_distance(learned: Complex[np.ndarray, "m p"], theory: Complex[np.ndarray, "m n"]) -> float:
    """Mean angle, in radians, between paired modes. With one learned row, the first action's spectrum is
    what it is compared with."""
    theory = theory[: len(learned)]
    between = np.abs(np.angle(learned[:, :, None] * theory[:, None, :].conj())).mean(axis=0)
    return float(between[scipy.optimize.linear_sum_assignment(between)].mean())


def chance_distance(modes: int, theory: Complex[np.ndarray, "m n"], draws: int = 200) -> float:
    """``angular_distance`` of modes with independent, uniformly random directions, on average."""
    angles = np.random.default_rng(0).uniform(-np.pi, np.pi, (draws, len(theory), modes))
    return float(np.mean([angular_distance(np.exp(1j * angle), theory) for angle in angles]))

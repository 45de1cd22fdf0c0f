"""How much of the exact belief a memory holds:
a linear read-out of its features, measured on episodes it was not fitted on.

The read-out is softmax(W features + c), fitted to the exact belief by cross-entropy. A memory whose features
are a belief by definition (``believes``) is taken at its word.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Float, Int

from ..agents.policy import ActorCritic
from ..agents.rollout import Slot
from ..memories.base import unroll_batch
from ..memories.belief import Belief
from ..worlds.tables import POMDP

RIDGE = 1e-4  # on W, per sample: keeps separable read-outs finite


class Readout(NamedTuple):
    """softmax(weight @ (features - centre) / spread + bias)."""

    weight: Float[np.ndarray, "n d"]
    bias: Float[np.ndarray, " n"]
    centre: Float[np.ndarray, " d"]
    spread: Float[np.ndarray, " d"]

    def __call__(self, features: Float[np.ndarray, "... d"]) -> Float[np.ndarray, "... n"]:
        return _softmax((features - self.centre) / self.spread @ self.weight.T + self.bias)


def fit_readout(
    features: Float[np.ndarray, "samples d"], beliefs: Float[np.ndarray, "samples n"], iterations: int = 150
) -> Readout:
    """The read-out with the smallest cross-entropy to ``beliefs``, by L-BFGS."""
    centre, spread = features.mean(0), features.std(0) + 1e-6
    x = ((features - centre) / spread).astype(np.float64)
    n, d, samples = beliefs.shape[1], x.shape[1], len(x)

    def objective(flat):
        weight, bias = flat[: n * d].reshape(n, d), flat[n * d :]
        p = _softmax(x @ weight.T + bias)
        error = (p - beliefs) / samples
        loss = -np.sum(beliefs * np.log(p + 1e-30)) / samples + RIDGE / 2 * np.sum(weight**2)
        return loss, np.concatenate([(error.T @ x + RIDGE * weight).ravel(), error.sum(0)])

    best = scipy.optimize.minimize(
        objective, np.zeros(n * d + n), jac=True, method="L-BFGS-B", options={"maxiter": iterations}
    ).x
    return Readout(best[: n * d].reshape(n, d), best[n * d :], centre, spread)


class Decoded(NamedTuple):
    """What a memory believed along held-out slots (time, actors), and how far that is from the truth.

    decoding_error:  share of slots where the most probable state is not the true one.
    total_variation: mean of 1/2 sum |decoded - belief|.
    """

    decoding_error: float
    total_variation: float
    belief: Float[np.ndarray, "T b n"]
    decoded: Float[np.ndarray, "T b n"]
    hidden: Int[np.ndarray, "T b"]
    held_out: slice


@jax.jit
def _replay(memory: Any, slots: Slot) -> Array:
    """The memory's features along slots (time, actors) that begin with a start."""
    return unroll_batch(memory, slots.inputs, slots.start)[1]


def decode(policy: ActorCritic, model: POMDP, slots: Slot) -> Decoded:
    """Fit the read-out on the first half of the actors, measure it on the others.

    slots: leading axes (time, actors), beginning with a start. Raises ValueError for fewer than two actors.
    """
    if (actors := slots.start.shape[1]) < 2:
        raise ValueError(f"slots has {actors} actor; half of them fit and the others measure, so take 2")
    features = np.asarray(_replay(policy.memory, slots))
    belief = np.asarray(_replay(Belief(model), slots))
    hidden = np.asarray(slots.hidden)
    fitted, held_out = slice(None, features.shape[1] // 2), slice(features.shape[1] // 2, None)
    decoded = policy.memory.believes(jnp.asarray(features[:, held_out]))
    if decoded is None:
        flat = lambda a: a[:, fitted].reshape(-1, a.shape[-1])  # noqa: E731
        decoded = fit_readout(flat(features), flat(belief))(features[:, held_out])
    decoded, belief, hidden = np.asarray(decoded), belief[:, held_out], hidden[:, held_out]
    return Decoded(
        decoding_error=float(np.mean(decoded.argmax(-1) != hidden)),
        total_variation=float(np.mean(0.5 * np.abs(decoded - belief).sum(-1))),
        belief=belief,
        decoded=decoded,
        hidden=hidden,
        held_out=held_out,
    )


def _softmax(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)

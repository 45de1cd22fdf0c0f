"""A policy made of alpha vectors: it keeps the exact belief and takes the best vector's action."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from ..worlds.sparse import SparsePOMDP


@dataclass(frozen=True, eq=False)
class AlphaPolicy:
    """Vectors (r, n), each the value by state of a plan that begins with its action (r,)."""

    vectors: Float[np.ndarray, "r n"]
    actions: Int[np.ndarray, " r"]

    def value(self, belief: Float[np.ndarray, " n"]) -> float:
        """What the policy earns from this belief on, at least."""
        return float((self.vectors @ belief).max())

    def act(self, belief: Float[np.ndarray, " n"]) -> int:
        return int(self.actions[(self.vectors @ belief).argmax()])


def updated(model: SparsePOMDP, belief: Float[np.ndarray, " n"], action: int, observation: int) -> np.ndarray:
    """Bayes' rule: the belief after an action and what is then observed.

    Raises ValueError if the model says that this cannot be observed.
    """
    joint = (belief @ model.transition[action]) * model.emission[action][:, [observation]].toarray()[:, 0]
    if not joint.sum() > 0:
        raise ValueError(
            f"observation {observation} after action {action} has probability 0 under this belief"
        )
    return joint / joint.sum()

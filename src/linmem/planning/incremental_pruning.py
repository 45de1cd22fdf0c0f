"""Exact finite-horizon solution of small problems: all alpha vectors that are best somewhere, and no others.

    G_t(a, o) = { discount T[a] (O[a][:, o] * v) : v in G_{t-1} }
    G_t = prune( union over a of { r(a) + prune(...prune(prune(G_t(a, 1)) + prune(G_t(a, 2))) + ... ) } )

where + of sets is all sums (the cross-sum) and prune keeps the vectors that are strictly best at some belief.

Source: A. Cassandra, M. L. Littman, N. L. Zhang, "Incremental Pruning: A Simple, Fast, Exact Method for
Partially Observable Markov Decision Processes", UAI 1997, arXiv:1302.1525; the pruning by linear programs is
White's.
"""

import numpy as np
from jaxtyping import Float
from scipy.optimize import linprog

from ..worlds.sparse import SparsePOMDP
from .alpha import AlphaPolicy

TOLERANCE = 1e-9  # a vector must be better by this somewhere, in units of the largest entry
MOST_VECTORS = 20_000


def incremental_pruning(model: SparsePOMDP, horizon: int) -> AlphaPolicy:
    """The optimal values with ``horizon`` steps to go (at least 1), and the first action of each plan.

    Raises ValueError where the number of vectors explodes: use the point-based solver there.
    """
    if horizon < 1:
        raise ValueError(f"horizon is {horizon}; it must be at least 1")
    rewards = model.expected_reward()
    steps = [
        [model.discount * (transition @ _diagonal(column)) for column in emission.toarray().T]
        for transition, emission in zip(model.transition, model.emission, strict=True)
    ]
    vectors = np.zeros((1, model.n_states))
    actions = np.zeros(1, int)
    for _ in range(horizon):
        parts = []
        for reward, by_observation in zip(rewards, steps, strict=True):
            total = reward[None]
            for step in by_observation:
                total = prune(_cross_sum(total, prune((step @ vectors.T).T)))
            parts.append(total)
        actions = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        vectors = np.concatenate(parts)
        kept = undominated(vectors)
        vectors, actions = vectors[kept], actions[kept]
    return AlphaPolicy(vectors, actions)


def prune(vectors: Float[np.ndarray, "r n"]) -> Float[np.ndarray, "q n"]:
    """The vectors that are strictly best at some belief."""
    return vectors[undominated(vectors)]


def undominated(vectors: Float[np.ndarray, "r n"]) -> list[int]:
    """The numbers of those vectors, one of each group of equal ones.

    Beginning with none, a vector that beats all those kept at some belief shows that the best one there
    belongs to them. Ties are broken by the largest entry in the order of the states, so that the one kept is
    of use.
    """
    # the linear programs' own tolerances are absolute
    vectors, slack = vectors / (float(np.abs(vectors).max()) or 1.0), TOLERANCE
    order = np.lexsort(vectors.T[::-1]).tolist()
    waiting = [
        i for j, i in enumerate(order) if j == 0 or np.abs(vectors[i] - vectors[order[j - 1]]).max() > slack
    ]
    kept: list[int] = []
    for corner in np.eye(vectors.shape[1]):  # at the corners no linear program is needed
        best = _best_at(vectors, corner, waiting + kept, slack)
        if best in waiting:
            waiting.remove(best)
            kept.append(best)
    while waiting:
        candidate = waiting[-1]
        belief = _witness(vectors[candidate], vectors[kept], slack)
        if belief is None:
            waiting.pop()
            continue
        best = _best_at(vectors, belief, waiting, slack)
        waiting.remove(best)
        kept.append(best)
    return kept


def _best_at(vectors: np.ndarray, belief: np.ndarray, among: list[int], slack: float) -> int:
    values = vectors[among] @ belief
    ties = [i for i, value in zip(among, values, strict=True) if value >= values.max() - slack / 10]
    return max(ties, key=lambda i: tuple(vectors[i]))


def _witness(vector: np.ndarray, others: np.ndarray, slack: float) -> np.ndarray | None:
    """A belief at which ``vector`` is better than all the others, or None."""
    if len(others) == 0:
        return np.full(len(vector), 1 / len(vector))
    if (others >= vector - slack).all(axis=1).any():
        return None
    # maximise d  subject to  (vector - other) . b >= d, b a distribution
    n = len(vector)
    found = linprog(
        np.append(np.zeros(n), -1.0),
        A_ub=np.column_stack([others - vector, np.ones(len(others))]),
        b_ub=np.zeros(len(others)),
        A_eq=np.append(np.ones(n), 0.0)[None],
        b_eq=[1.0],
        bounds=[(0, None)] * n + [(None, None)],
        method="highs",
    )
    if found.status != 0:
        raise ValueError(f"the linear program of a pruning step failed: {found.message}")
    return found.x[:n] if -found.fun > slack else None


def _cross_sum(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    if len(one) * len(other) > MOST_VECTORS:
        raise ValueError(f"exact solution needs more than {MOST_VECTORS} vectors; use the point-based solver")
    return (one[:, None] + other[None]).reshape(-1, one.shape[1])


def _diagonal(values: np.ndarray) -> np.ndarray:
    return np.diag(values)

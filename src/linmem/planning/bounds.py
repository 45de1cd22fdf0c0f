"""Bounds on the optimal value of a POMDP that are linear in the belief, one vector for each action.

    QMDP    Q(a, s) of the decision process whose state is seen from the next step on           upper
    FIB     Q(a, s) = r(a, s) + discount sum_o max_a' sum_s' T[a][s, s'] O[a][s', o] Q(a', s')  upper
    blind   the value of taking one action for ever                                             lower

FIB is never above QMDP. The value of belief b is at most max_a b . Q(a), and at least max_a b . blind(a).

Source: M. Hauskrecht, "Value-Function Approximations for Partially Observable Markov Decision Processes",
JAIR 13, 2000: MDP and QMDP sections 4.1-4.2, fast informed bound section 4.3, fixed strategies (blind)
section 4.4.
"""

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

from ..worlds.sparse import CSR, SparsePOMDP
from .mdp import optimal_action_values, policy_values

MOST_FIB_WORK = 3e9  # multiplications in all; the iterates are bounds, so stopping early is safe


def qmdp(model: SparsePOMDP) -> Float[np.ndarray, "m n"]:
    return optimal_action_values(model)


def fib(model: SparsePOMDP, tolerance: float = 1e-6) -> Float[np.ndarray, "m n"]:
    """Iterated from QMDP downwards: every iterate is an upper bound, the last is within ``tolerance`` of the
    fixed point, in units of the largest value, unless the work is cut off."""
    m, n = model.n_actions, model.n_states
    q, rewards = qmdp(model), model.expected_reward()
    steps = [
        _by_observation(matrix, emission)
        for matrix, emission in zip(model.transition, model.emission, strict=True)
    ]
    work = sum(step.nnz for step, _, _ in steps) * m
    for _ in range(max(10, min(100_000, int(MOST_FIB_WORK / work)))):
        following = np.empty_like(q)
        for a, (step, rows, _) in enumerate(steps):
            best = (step @ q.T).max(axis=1)
            following[a] = rewards[a] + model.discount * np.bincount(rows, best, minlength=n)
        following = np.minimum(following, q)
        change = (q - following).max()
        q = following
        if change <= tolerance * (1 - model.discount) * max(1e-12, np.abs(q).max()):
            break
    return q


def _by_observation(transition: CSR, emission: CSR) -> tuple[CSR, np.ndarray, np.ndarray]:
    """The matrix P(s', o | s) of one action, a row for each (s, o) that can be, and
    the s and o of each row."""
    moves = transition.tocoo()
    counts = np.diff(emission.indptr)[moves.col]
    at = np.arange(counts.sum()) + np.repeat(
        emission.indptr[moves.col] - (np.cumsum(counts) - counts), counts
    )
    s, reached = np.repeat(moves.row, counts), np.repeat(moves.col, counts)
    keys, row = np.unique(s.astype(np.int64) * emission.shape[1] + emission.indices[at], return_inverse=True)
    value = np.repeat(moves.data, counts) * emission.data[at]
    matrix = sp.csr_array((value, (row, reached)), shape=(len(keys), transition.shape[0]))
    return matrix, keys // emission.shape[1], keys % emission.shape[1]


def blind(model: SparsePOMDP) -> Float[np.ndarray, "m n"]:
    rewards = model.expected_reward()
    return np.stack(
        [policy_values(model, np.full(model.n_states, a), rewards) for a in range(model.n_actions)]
    )

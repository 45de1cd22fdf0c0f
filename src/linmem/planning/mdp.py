"""The underlying decision process: what an agent that sees the state could earn.

    V(s) = max_a [ r(a, s) + discount sum_s' T[a][s, s'] V(s') ]

Source: R. A. Howard, "Dynamic Programming and Markov Processes", 1960 (policy iteration).
"""

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int
from scipy.sparse.linalg import spsolve

from ..worlds.sparse import CSR, SparsePOMDP

MOST_STATES_TO_FACTOR = 3000  # beyond, an LU factorisation may fill up


def require_discount(model: SparsePOMDP) -> None:
    """Solvers here need values that are finite whatever is done."""
    if model.discount >= 1:
        raise ValueError("the discount is 1; these solvers are for discounted problems, so give it below 1")


def policy_values(
    model: SparsePOMDP, actions: Int[np.ndarray, " n"], rewards: Float[np.ndarray, "m n"] | None = None
) -> Float[np.ndarray, " n"]:
    """The value of each state if ``actions[s]`` is taken in state s for ever: a linear system."""
    require_discount(model)
    rewards = model.expected_reward() if rewards is None else rewards
    states = np.arange(model.n_states)
    stacked = sp.vstack(model.transition).tocsr()
    return _solve(stacked[actions * model.n_states + states], rewards[actions, states], model.discount)


def _solve(transition: CSR, reward: np.ndarray, discount: float) -> np.ndarray:
    """V = reward + discount transition V."""
    n = len(reward)
    if n <= MOST_STATES_TO_FACTOR:
        return np.atleast_1d(np.asarray(spsolve((sp.eye_array(n) - discount * transition).tocsc(), reward)))
    values, bound = reward / (1 - discount), np.inf
    while bound > 1e-10 * np.abs(values).max():
        following = reward + discount * (transition @ values)
        bound = np.abs(following - values).max() / (1 - discount)
        values = following
    return values


def action_values(
    model: SparsePOMDP, values: Float[np.ndarray, " n"], rewards: Float[np.ndarray, "m n"]
) -> Float[np.ndarray, "m n"]:
    """One step of look-ahead: r(a, s) + discount E[values(s') | s, a]."""
    return rewards + model.discount * np.stack([matrix @ values for matrix in model.transition])


def value_iteration(model: SparsePOMDP, horizon: int) -> Float[np.ndarray, "m n"]:
    """Q of the decision process with ``horizon`` steps to go, at least 1."""
    rewards = model.expected_reward()
    q = rewards
    for _ in range(horizon - 1):
        q = action_values(model, q.max(axis=0), rewards)
    return q


def optimal_action_values(model: SparsePOMDP) -> Float[np.ndarray, "m n"]:
    """Q of the decision process with endless horizon, by policy iteration: an upper bound, and right, up to
    rounding."""
    require_discount(model)
    rewards = model.expected_reward()
    actions, before = rewards.argmax(axis=0), -np.inf
    while True:
        values = policy_values(model, actions, rewards)
        q = action_values(model, values, rewards)
        # An advantage of 1e-9 a step is worth much where the discount is near 1: whatever is better is taken,
        # until values no longer rise, when rounding alone is left.
        better = q.max(axis=0) > q[actions, np.arange(model.n_states)]
        if not better.any() or values.sum() <= before:
            # no policy earns more than this above ``values``, however wrong they are
            missed = max(0.0, float((q.max(axis=0) - values).max())) / (1 - model.discount)
            return q + model.discount * missed
        actions, before = np.where(better, q.argmax(axis=0), actions), values.sum()

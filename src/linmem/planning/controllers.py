"""Finite-state controllers, evaluated exactly: policies whose memory is one of q nodes.

In node i the controller takes action a with probability ``action[i, a]``, observes o and goes to
``successor[i, o]``. With discounted future value V over (node, state),

    V(i, s) = sum_a action[i, a] Q(i, s, a)
    Q(i, s, a) = r(a, s) + discount sum_s' T[a][s, s'] sum_o O[a][s', o] V(successor[i, o], s')

is one sparse linear system. A memoryless (reactive) policy is the controller whose node is the last
observation.

Source: E. A. Hansen, "Solving POMDPs by Searching in Policy Space", UAI 1998, arXiv:1301.7380.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int
from scipy.sparse.linalg import splu

from ..worlds.sparse import CSR, SparsePOMDP
from .mdp import require_discount


@dataclass(frozen=True, eq=False)
class Controller:
    """action (q, m): distributions over actions. successor (q, k): the next node.
    initial (q,): where it begins."""

    action: Float[np.ndarray, "q m"]
    successor: Int[np.ndarray, "q k"]
    initial: Float[np.ndarray, " q"]

    def __post_init__(self):
        q = len(self.initial)
        if self.action.shape[0] != q or self.successor.shape[0] != q:
            raise ValueError(
                f"action, successor, initial have {len(self.action)}, {len(self.successor)}, {q} nodes"
            )
        if not ((self.successor >= 0) & (self.successor < q)).all():
            raise ValueError(f"a successor is not one of the {q} nodes")
        if (self.action < 0).any() or np.abs(self.action.sum(axis=1) - 1).max() > 1e-9:
            raise ValueError("the rows of action must be distributions")


def reactive(action: Float[np.ndarray, "q m"], first: Float[np.ndarray, " k"] | None = None) -> Controller:
    """The memoryless policy ``action[o]`` after observation o.

    Without ``first``, the first action, which no observation precedes, has its own row: the last. With it,
    the first action is taken as after an observation drawn from ``first``, as agents meet it in
    ``worlds.model_world``.
    """
    q = len(action)
    k = q - 1 if first is None else q
    initial = np.eye(q)[-1] if first is None else first
    return Controller(action, np.tile(np.arange(k), (q, 1)), initial)


class Evaluator:
    """The joint chain of (node, state) under controllers that share ``successor``; node i and state s
    have number i n + s."""

    def __init__(self, model: SparsePOMDP, successor: Int[np.ndarray, "q k"]):
        require_discount(model)
        self.model, self.q = model, len(successor)
        self.rewards = model.expected_reward()
        self.steps = [self._step(a, successor) for a in range(model.n_actions)]

    def _step(self, a: int, successor: Int[np.ndarray, "q k"]) -> CSR:
        """P((i', s') | (i, s), a)."""
        n, emission = self.model.n_states, self.model.emission[a].tocoo()
        moves = self.model.transition[a]
        blocks = []
        for of_node in successor:
            place = emission.row, of_node[emission.col].astype(np.int64) * n + emission.row
            seen = sp.coo_array((emission.data, place), shape=(n, self.q * n)).tocsr()
            blocks.append(moves @ seen)
        return sp.vstack(blocks).tocsr()

    def mixed(self, action: Float[np.ndarray, "q m"]) -> tuple[CSR, Float[np.ndarray, " qn"]]:
        """The chain and the reward under a controller's actions."""
        weight = np.repeat(action, self.model.n_states, axis=0)
        chain = sum(
            (sp.diags_array(weight[:, a]) @ step for a, step in enumerate(self.steps)),
            sp.csr_array(self.steps[0].shape),
        )
        return chain.tocsr(), (weight * np.tile(self.rewards.T, (self.q, 1))).sum(axis=1)

    def solve(
        self, action: Float[np.ndarray, "q m"], initial: Float[np.ndarray, " q"]
    ) -> tuple[float, Float[np.ndarray, "q n"], Float[np.ndarray, "q m"]]:
        """The value at the start, V, and the derivative of the value in each entry of ``action``.

        The derivative is the policy gradient: discounted occupancy of (node, state) times Q(node, state,
        action).
        """
        chain, reward = self.mixed(action)
        size = chain.shape[0]
        factors = splu((sp.eye_array(size) - self.model.discount * chain).tocsc())
        values = factors.solve(reward)
        start = np.outer(initial, self.model.initial).ravel()
        occupancy = factors.solve(start, trans="T").reshape(self.q, -1)
        gradient = np.empty_like(action)
        for a, step in enumerate(self.steps):
            following = (step @ values).reshape(self.q, -1)
            gradient[:, a] = (occupancy * (self.rewards[a] + self.model.discount * following)).sum(axis=1)
        return float(start @ values), values.reshape(self.q, -1), gradient


def evaluate(model: SparsePOMDP, controller: Controller) -> float:
    """The expected discounted return of the controller from the start, up to rounding."""
    return Evaluator(model, controller.successor).solve(controller.action, controller.initial)[0]

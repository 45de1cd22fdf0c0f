"""The best memoryless policy: what can be earned by reacting to the last observation alone.

Deterministic policies are searched by branch and bound. A branch fixes the actions of some observations; its
bound is the value if, after every other observation, the state were seen too: a decision process that is
solved exactly. Stochastic policies are improved by the exact policy gradient from many beginnings; what is
found is a local optimum, so only a lower bound on the best. Finding either is NP-hard, so this is for small
problems.

Source: M. L. Littman, "Memoryless Policies: Theoretical Limitations and Practical Results", SAB 1994 (branch
and bound); S. P. Singh, T. Jaakkola, M. I. Jordan, "Learning Without State-Estimation in Partially Observable
Markovian Decision Processes", ICML 1994 (stochastic ones can be better). Departures: Littman's bound is
computed otherwise.
"""

import operator
from functools import reduce
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int
from scipy.optimize import minimize
from scipy.sparse.linalg import spsolve
from scipy.special import softmax

from ..worlds.sparse import SparsePOMDP
from .controllers import Controller, Evaluator, reactive

ANY_ACTION = -1


class Found(NamedTuple):
    """A policy and its exact value. ``upper`` bounds the best of its kind; where both are the same up to
    rounding, the policy is ``proven`` to be the best."""

    controller: Controller
    value: float
    upper: float
    proven: bool


def best_deterministic(
    model: SparsePOMDP, first: Float[np.ndarray, " k"] | None = None, nodes: int = 20_000, seed: int = 0
) -> Found:
    """The best deterministic reactive policy (``first`` as in ``reactive``).

    The search stops after ``nodes`` branches; ``upper`` then bounds what it may have missed.
    """
    search = _Search(model, first, seed)
    return search.run(nodes)


class _Search:
    def __init__(self, model: SparsePOMDP, first: Float[np.ndarray, " k"] | None, seed: int):
        self.model, self.m, self.n = model, model.n_actions, model.n_states
        q = model.n_observations + (first is None)
        self.form = reactive(np.full((q, self.m), 1 / self.m), first)
        self.evaluator = Evaluator(model, self.form.successor)
        self.stacked = sp.vstack(self.evaluator.steps).tocsr()
        self.start = np.outer(self.form.initial, model.initial).ravel()
        # Pairs (node, state) that can be met decide; the actions of nodes that are never met do not matter.
        reach = self.start > 0
        any_step = reduce(operator.add, self.evaluator.steps)
        while (more := reach | (any_step.T @ reach > 0)).sum() > reach.sum():
            reach = more
        self.reach = reach.reshape(q, self.n)
        self.q, self.rng = q, np.random.default_rng(seed)
        self.slack = 1e-9 * float(np.abs(self.evaluator.rewards).max())

    def run(self, most_nodes: int) -> Found:
        free = np.full(self.q, ANY_ACTION)
        free[~self.reach.any(axis=1)] = 0
        best_policy, best = self._climb()
        bound, values, occupancy = self._relaxed(free)
        waiting, done = [(bound, free, values, occupancy)], 0
        while waiting:
            waiting.sort(key=lambda branch: branch[0])
            bound, fixed, q_values, occupancy = waiting.pop()
            if bound <= best + self.slack or done >= most_nodes:
                waiting.append((bound, fixed, q_values, occupancy))
                break
            open_nodes = np.flatnonzero(fixed == ANY_ACTION)
            # Where seeing the state helped most, weighted by how often: there the bound is loosest.
            loss = [self._loss(q_values[:, i], occupancy[i]) for i in open_nodes]
            node = open_nodes[int(np.argmax(loss))] if len(open_nodes) else None
            if node is None or max(loss) <= self.slack:
                # one action per observation is enough: the bound is attained
                policy = np.where(
                    fixed == ANY_ACTION,
                    [self._common(q_values[:, i], occupancy[i]) for i in range(self.q)],
                    fixed,
                )
                value = self._value(policy)
                if value > best:
                    best_policy, best = policy, value
                if node is None or self._agree(bound, value):
                    continue
            for a in range(self.m):
                branch = fixed.copy()
                branch[node] = a
                done += 1
                bound, q_of, of = self._relaxed(branch)
                if bound > best + self.slack:
                    waiting.append((bound, branch, q_of, of))
        upper = max([best, *(bound for bound, *_ in waiting)])
        controller = Controller(np.eye(self.m)[best_policy], self.form.successor, self.form.initial)
        return Found(controller, best, upper, self._agree(upper, best))

    def _agree(self, bound: float, value: float) -> bool:
        return bound <= value + max(self.slack, 1e-7 * abs(value))

    def _common(self, q: Float[np.ndarray, "m n"], occupancy: Float[np.ndarray, " n"]) -> int:
        return int((q @ occupancy).argmax())

    def _loss(self, q: Float[np.ndarray, "m n"], occupancy: Float[np.ndarray, " n"]) -> float:
        return float(q.max(axis=0) @ occupancy - (q @ occupancy).max())

    def _value(self, policy: Int[np.ndarray, " q"]) -> float:
        return self.evaluator.solve(np.eye(self.m)[policy], self.form.initial)[0]

    def _relaxed(self, fixed: Int[np.ndarray, " q"]) -> tuple[float, np.ndarray, np.ndarray]:
        """The optimal value if the state is seen wherever the action is not fixed; Q and the
        occupancy there."""
        n, size = self.n, self.q * self.n
        forced = np.repeat(fixed, n)
        choice = np.where(forced == ANY_ACTION, 0, forced)
        rewards = np.tile(self.evaluator.rewards, (1, self.q))
        pairs, discount = np.arange(size), self.model.discount
        before = -np.inf
        while True:
            chain = self.stacked[choice * size + pairs]
            system = (sp.eye_array(size) - discount * chain).tocsc()
            values = np.asarray(spsolve(system, rewards[choice, pairs]))
            q = rewards + discount * (self.stacked @ values).reshape(self.m, size)
            advantage = np.where(forced == ANY_ACTION, q.max(axis=0) - q[choice, pairs], 0.0)
            if advantage.max() <= 0 or values.sum() <= before:  # as in ``mdp.optimal_action_values``
                break
            choice, before = np.where(advantage > 0, q.argmax(axis=0), choice), values.sum()
        occupancy = np.asarray(spsolve(system.T.tocsc(), self.start)).reshape(self.q, n)
        missed = max(0.0, float(advantage.max())) / (1 - discount)
        return float(self.start @ values) + missed, q.reshape(self.m, self.q, n), occupancy

    def _climb(self, starts: int = 8) -> tuple[np.ndarray, float]:
        """Change one observation's action at a time while it helps, from several beginnings."""
        best_policy, best = np.zeros(self.q, int), -np.inf
        for _ in range(starts):
            policy = self.rng.integers(self.m, size=self.q)
            value = self._value(policy)
            improved = True
            while improved:
                improved = False
                for node in np.flatnonzero(self.reach.any(axis=1)):
                    for a in range(self.m):
                        changed = policy.copy()
                        changed[node] = a
                        other = self._value(changed)
                        if other > value + self.slack:
                            policy, value, improved = changed, other, True
            if value > best:
                best_policy, best = policy, value
        return best_policy, best


def best_stochastic(
    model: SparsePOMDP, first: Float[np.ndarray, " k"] | None = None, starts: int = 10, seed: int = 0
) -> Found:
    """The best stochastic reactive policy that the gradient finds from ``starts`` random beginnings.

    Its ``upper`` is infinite: nothing is proven.
    """
    rng = np.random.default_rng(seed)
    q, m = model.n_observations + (first is None), model.n_actions
    form = reactive(np.full((q, m), 1 / m), first)
    evaluator = Evaluator(model, form.successor)

    def loss(logits: np.ndarray) -> tuple[float, np.ndarray]:
        action = softmax(logits.reshape(q, m), axis=1)
        value, _, slope = evaluator.solve(action, form.initial)
        slope = action * (slope - (action * slope).sum(axis=1, keepdims=True))
        return -value, -slope.ravel()

    best, best_action = -np.inf, form.action
    for _ in range(starts):
        found = minimize(loss, rng.normal(size=q * m), jac=True, method="L-BFGS-B", options={"maxiter": 300})
        if -found.fun > best:
            best, best_action = -float(found.fun), softmax(found.x.reshape(q, m), axis=1)
    return Found(Controller(best_action, form.successor, form.initial), best, np.inf, False)

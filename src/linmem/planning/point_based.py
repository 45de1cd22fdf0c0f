"""Point-based solving with both bounds: trials through the beliefs that good policies reach.

A trial walks from the start belief: it takes the action whose upper bound is highest and the observation
whose belief adds most to the gap, until the gap there is too small to matter at the root, and improves both
bounds on the way back.

    lower   max over alpha vectors, each the value of a plan; a backup at a belief adds the best one-step plan
    upper   min over the linear FIB bound and the sawtooth through the beliefs visited and the corners

Beliefs that are equal to 1e-10 are one node, so problems with few reachable beliefs are solved as graphs.
Values kept at a node stay bounds when they are old, because upper ones only fall and lower ones only rise; a
backup looks up again only what could change its choice.

Source: T. Smith, R. Simmons, "Point-Based POMDP Algorithms: Improved Analysis and Implementation", UAI 2005,
arXiv:1207.1412 (HSVI2); sawtooth: Hauskrecht 2000, section 4.5 and the citation in ``bounds.py``; H.
Kurniawati, D. Hsu, W. S. Lee, "SARSOP", RSS 2008 (alpha vectors that are best at no visited belief are
dropped).
"""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from ..worlds.sparse import CSR, SparsePOMDP
from .alpha import AlphaPolicy
from .bounds import blind, fib

SAME_BELIEF = 10  # decimals
NEVER = 1e-200  # a smaller probability has no inverse to compute with
DEPTH = 2000
REPEATS = 50
ROUNDING = 1e-7


class Bounds(NamedTuple):
    """What is known of the optimal value at the start belief, and by how much work."""

    lower: float
    upper: float
    scale: float
    vectors: int
    beliefs: int
    trials: int

    @property
    def gap(self) -> float:
        return self.upper - self.lower

    @property
    def relative_gap(self) -> float:
        """The gap in units of ``scale``: the larger bound in size, or a thousandth of the largest reward."""
        return self.gap / self.scale


class _Node:
    """A belief, on the states that it thinks possible, and its bounds."""

    __slots__ = (
        "action_of",  # of each child, as the next four: the action and observation that lead to it,
        "actions",  # the children of each action,
        "children",
        "joint",  # the child's belief on `states`, a sparse row: each action reaches few of them,
        "lower",
        "observation_of",
        "p",
        "reward",  # expected, of each action
        "states",
        "support",
        "upper",
        "weight",  # and its probability given the action
    )

    def __init__(
        self, support: Int[np.ndarray, " s"], p: Float[np.ndarray, " s"], lower: float, upper: float
    ):
        self.support, self.p = support, p
        self.lower, self.upper = lower, upper
        self.children: list[_Node] = []  # until it is expanded


class PointBasedSolver:
    """Bounds on the optimal value that come closer with every trial.

    The methods may be stopped between trials at any moment; ``policy()`` is then the best so far, and earns
    at least the lower bound.
    """

    def __init__(self, model: SparsePOMDP):
        self.model = model
        m, n = model.n_actions, model.n_states
        self.rewards = model.expected_reward()
        self.least_scale = max(1e-3 * float(np.abs(self.rewards).max()), 1e-300)
        # One step for all actions. Row s of moves holds (action, next state), and such a row of sights the
        # observations made there.
        self.moves = sp.hstack(model.transition).tocsr()
        self.sights = sp.vstack(model.emission).tocsr()
        self.emission = [table.tocoo() for table in model.emission]
        self.lower_vectors = _Columns(blind(model), np.arange(m))
        q = fib(model, tolerance=1e-4)
        slack = 1e-9 * np.abs(q).max()  # linear systems are solved to rounding only
        self.upper_vectors = q + slack
        self.corners = self.upper_vectors.max(axis=0)
        self.points = _Points(model.n_states)
        self.nodes: dict[bytes, _Node] = {}
        self.expanded: list[_Node] = []
        self.pruned_at = 64
        self.trials = 0
        support = np.flatnonzero(model.initial).astype(np.int32)
        p = model.initial[support] / model.initial[support].sum()
        lower = float((p @ self.lower_vectors.vectors[support]).max())
        upper = float((self.upper_vectors[:, support] @ p).max())
        self.root = self._node(support, p, lower, upper)
        self._n, self._m = n, m

    # --- what a user asks

    def bounds(self) -> Bounds:
        lower, upper = self.root.lower, max(self.root.upper, self.root.lower)
        scale = max(abs(lower), abs(upper), self.least_scale)
        return Bounds(lower, upper, scale, self.lower_vectors.count, len(self.expanded), self.trials)

    def policy(self) -> AlphaPolicy:
        vectors, actions = self.lower_vectors.vectors, self.lower_vectors.actions
        return AlphaPolicy(np.ascontiguousarray(vectors.T), actions.copy())

    def solve(self, gap: float = 0.0) -> Iterator[Bounds]:
        """Trial after trial, until the relative gap is at most ``gap`` or rounding ends progress."""
        yield self.bounds()
        while self.bounds().relative_gap > max(gap, ROUNDING):
            for _ in self._trial(target=0.5 * gap * self.bounds().scale):
                yield self.bounds()

    # --- one trial

    def _trial(self, target: float) -> Iterator[None]:
        """Down and up again; yields at every step, so that whoever watches the clock can stop."""
        self.trials += 1
        aim = max(target, 0.5 * (self.root.upper - self.root.lower))
        path, met, repeats, node, scale = [], set(), 0, self.root, 1.0
        while len(path) < DEPTH:
            self._expand(node)
            best = self._back_up_upper(node)
            path.append(node)
            met.add(node)
            scale *= self.model.discount
            if scale == 0:  # discount 0: no later step counts
                break
            here = node.actions[best]
            following = [node.children[i] for i in here]
            excess = [
                weight * (child.upper - child.lower - aim / scale)
                for child, weight in zip(following, node.weight[here], strict=True)
            ]
            # New beliefs first: round a cycle bounds improve by the discount only, so it is rarely walked.
            new = [0.0 if child in met else each for child, each in zip(following, excess, strict=True)]
            repeats += max(new) <= 0
            if max(excess) <= 0 or repeats > REPEATS:
                break
            node = following[int(np.argmax(new if max(new) > 0 else excess))]
            yield
        for node in reversed(path):
            self._back_up_lower(node)
            self._back_up_upper(node)
            yield
        if self.lower_vectors.count > self.pruned_at:
            self._prune()
        yield

    # --- nodes

    def _node(
        self, support: Int[np.ndarray, " s"], p: Float[np.ndarray, " s"], lower: float, upper: float
    ) -> _Node:
        """The node of a belief; if it is new, with these bounds."""
        text = support.tobytes() + p.round(SAME_BELIEF).tobytes()
        key = hashlib.blake2b(text, digest_size=16).digest()  # as telling, and smaller than the belief
        node = self.nodes.get(key)
        if node is None:
            node = self.nodes[key] = _Node(support, p, lower, upper)
        return node

    def _expand(self, node: _Node) -> None:
        """Find what may be believed after each action and observation."""
        if node.children:
            return
        n, k = self._n, self.model.n_observations
        rows, entries = _rows(self.moves, node.support)
        predicted = np.bincount(
            self.moves.indices[entries], node.p[rows] * self.moves.data[entries], self._m * n
        )
        reached = np.flatnonzero(predicted)
        rows, entries = _rows(self.sights, reached)
        value = predicted[reached][rows] * self.sights.data[entries]
        seen = value > NEVER
        at, value = reached[rows[seen]], value[seen]
        keys, row = np.unique(at // n * k + self.sights.indices[entries][seen], return_inverse=True)
        states, column = np.unique(at % n, return_inverse=True)
        states = states.astype(np.int32)  # half the memory
        node.weight = np.bincount(row, value)
        shape = len(keys), len(states)
        node.joint = sp.csr_array((value / node.weight[row], (row, column)), shape=shape)
        node.states, node.action_of, node.observation_of = states, keys // k, keys % k
        node.actions = [(node.action_of == a).nonzero()[0] for a in range(self._m)]
        node.reward = self.rewards[:, node.support] @ node.p
        lower = (node.joint @ self.lower_vectors.vectors[states]).max(axis=1).tolist()
        upper = (node.joint @ self.upper_vectors[:, states].T).max(axis=1).tolist()
        ends = node.joint.indptr
        for begin, end, low, high in zip(ends, ends[1:], lower, upper, strict=False):
            support = states[node.joint.indices[begin:end]]
            node.children.append(self._node(support, node.joint.data[begin:end], low, high))
        self.expanded.append(node)

    def _back_up_upper(self, node: _Node) -> int:
        """Lower the upper bound of a node to its best action's, and return that action.

        The children of an action are looked up again only while that action is the best: a fresh bound cannot
        be higher than the old one.
        """
        children = np.array([child.upper for child in node.children])
        q = node.reward + self.model.discount * np.bincount(node.action_of, node.weight * children, self._m)
        fresh = np.zeros(self._m, bool)
        while not fresh[best := int(q.argmax())]:
            fresh[best] = True
            here = node.actions[best]
            self._refresh(node, here)
            uppers = np.array([node.children[i].upper for i in here])
            q[best] = node.reward[best] + self.model.discount * (node.weight[here] @ uppers)
        if q[best] < node.upper - 1e-12 * abs(node.upper):
            node.upper = float(q[best])
            self.points.add(node, node.upper - float(self.corners[node.support] @ node.p))
        return best

    def _refresh(self, node: _Node, here: Int[np.ndarray, " c"]) -> None:
        """Lower the upper bounds of some of a node's children to the sawtooth of the present points."""
        if self.points.count:
            for child in [node.children[i] for i in here]:
                bound = float(self.corners[child.support] @ child.p) + self.points.drop_at(child)
                child.upper = min(child.upper, bound)

    def _back_up_lower(self, node: _Node) -> None:
        """Add the best plan of one step followed by known plans."""
        values = node.joint @ self.lower_vectors.vectors[node.states]
        plan = values.argmax(axis=1)
        q = node.reward + self.model.discount * np.bincount(
            node.action_of, node.weight * values[np.arange(len(plan)), plan], self._m
        )
        a = int(q.argmax())
        known = float((node.p @ self.lower_vectors.vectors[node.support]).max())
        node.lower = max(node.lower, known)
        if q[a] <= known + 1e-12 * max(1.0, abs(known)):
            return
        here = node.actions[a]
        # Observations that this belief rules out may follow from others: any plan will do,
        # so one that is good on average.
        average = node.weight[here] @ values[here]
        chosen = np.full(self.model.n_observations, int(average.argmax()))
        chosen[node.observation_of[here]] = plan[here]
        emission = self.emission[a]
        following = np.bincount(
            emission.row,
            emission.data * self.lower_vectors.vectors[emission.row, chosen[emission.col]],
            self._n,
        )
        vector = self.rewards[a] + self.model.discount * (self.model.transition[a] @ following)
        self.lower_vectors.add(vector, a)
        node.lower = max(node.lower, float(vector[node.support] @ node.p))

    def _prune(self) -> None:
        """Drop the vectors that are best at no visited belief."""
        count = self.lower_vectors.count
        best = np.zeros(count, bool)
        for node in self.expanded:
            best[int((node.p @ self.lower_vectors.vectors[node.support]).argmax())] = True
        self.lower_vectors.keep(best)
        self.pruned_at = max(64, 2 * self.lower_vectors.count)


class _Columns:
    """Vectors that grow in number, stored as columns: those of a few states are contiguous."""

    def __init__(self, vectors: Float[np.ndarray, "r n"], actions: Int[np.ndarray, " r"]):
        self.count = len(vectors)
        self._vectors, self._actions = np.ascontiguousarray(vectors.T), actions

    @property
    def vectors(self) -> Float[np.ndarray, "n r"]:
        return self._vectors[:, : self.count]

    @property
    def actions(self) -> Int[np.ndarray, " r"]:
        return self._actions[: self.count]

    def add(self, vector: Float[np.ndarray, " n"], action: int) -> None:
        if self.count == self._vectors.shape[1]:
            self._vectors = np.concatenate([self._vectors, np.zeros_like(self._vectors)], axis=1)
            self._actions = np.concatenate([self._actions, np.zeros_like(self._actions)])
        self._vectors[:, self.count] = vector
        self._actions[self.count] = action
        self.count += 1

    def keep(self, which: np.ndarray) -> None:
        self._vectors = np.ascontiguousarray(self.vectors[:, which])
        self._actions = self.actions[which]
        self.count = self._vectors.shape[1]


class _Points:
    """Beliefs with an upper bound below that of the corners; the sawtooth is the lowest bound they give.

    A point (b_i, v_i) bounds b by  corners . b + (v_i - corners . b_i) min over s in b_i of b(s) / b_i(s).
    """

    def __init__(self, n_states: int):
        self.belief = np.zeros(n_states)  # room for one
        self.place: dict[int, int] = {}  # id of the node -> number of the point
        self.count, self.used = 0, 0
        self.drops, self.begins = np.zeros(64), np.zeros(64, np.int64)
        self.states, self.inverse = np.zeros(1024, np.int64), np.zeros(1024)

    def add(self, node: _Node, drop: float) -> None:
        """Let a node give a bound ``drop`` (negative) from the corners', or replace the one it gave."""
        if drop >= 0:
            return
        if id(node) in self.place:
            self.drops[self.place[id(node)]] = drop
            return
        size = len(node.support)
        if self.count == len(self.drops):
            self.drops, self.begins = _doubled(self.drops), _doubled(self.begins)
        while self.used + size > len(self.states):
            self.states, self.inverse = _doubled(self.states), _doubled(self.inverse)
        self.drops[self.count], self.begins[self.count] = drop, self.used
        self.states[self.used : self.used + size] = node.support
        self.inverse[self.used : self.used + size] = 1 / node.p
        self.place[id(node)] = self.count
        self.count += 1
        self.used += size

    def drop_at(self, node: _Node) -> float:
        """By how much the sawtooth lies below the corners' bound at a node's belief, at most 0."""
        self.belief[node.support] = node.p
        ratios = self.belief[self.states[: self.used]] * self.inverse[: self.used]
        self.belief[node.support] = 0.0
        lowest = np.minimum.reduceat(ratios, self.begins[: self.count])
        return min(0.0, float((lowest * self.drops[: self.count]).min()))


def _doubled(array: np.ndarray) -> np.ndarray:
    return np.concatenate([array, np.zeros_like(array)])


def _rows(matrix: CSR, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each stored entry of the given rows: the number of the row among them, and its place in
    the matrix."""
    begins = matrix.indptr[rows]
    counts = matrix.indptr[rows + 1] - begins
    ends = np.cumsum(counts)
    which = np.repeat(np.arange(len(rows)), counts)
    return which, np.arange(len(which)) + np.repeat(begins - (ends - counts), counts)

"""Finite POMDPs whose tables are sparse, as problem files describe them.

Two things differ from ``tables.POMDP``, and both belong to the field's planning problems. The reward may
depend on the observation. And the agent acts before it observes: the first observation follows the first
action.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float

from .rules import ANY, Rules, TooLarge
from .tables import MOST_DENSE, POMDP, Table

Names = tuple[str, ...] | None
CSR = Any  # a scipy.sparse.csr_array, whose types are too wide to check against


@dataclass(frozen=True, eq=False)
class SparsePOMDP:
    """A POMDP with m actions, n states, k observations; one CSR matrix per action, distributions in rows.

    transition: m matrices (n, n), ``transition[a][s, s']`` = P(next = s' | current = s, action = a).
    emission:   m matrices (n, k), ``emission[a][s', o]`` = P(observation = o | action a reached s').
    reward:     ``Rules`` over (action, state, next state, observation).
    initial:    (n,), distribution of the state in which the first action is taken.
    discount:   in [0, 1], per step.

    The names, if given, are those of the file. Raises ValueError naming the row that is wrong.
    """

    transition: tuple[CSR, ...]
    emission: tuple[CSR, ...]
    reward: Rules
    initial: Float[np.ndarray, " n"]
    discount: float
    state_names: Names = None
    action_names: Names = None
    observation_names: Names = None

    def __post_init__(self):
        if not 0 <= self.discount <= 1:
            raise ValueError(f"discount is {self.discount:g}; it must lie in [0, 1]")
        if not np.isfinite(self.reward.value).all():
            raise ValueError("a reward is not finite")
        for table, what, role in (
            (self.transition, "transition", "state"),
            (self.emission, "emission", "next state"),
        ):
            for a, matrix in enumerate(table):
                place = f"{what}[{label(self.action_names, a)}]"
                check_rows(place, matrix, role, self.state_names)
        if abs(self.initial.sum() - 1) > ROUNDING or (self.initial < 0).any():
            raise ValueError(f"initial sums to {self.initial.sum():.6g}; it must be a distribution")

    @classmethod
    def from_arrays(
        cls, transition: Table, emission: Table, reward: Table, initial: Table, discount: float
    ) -> "SparsePOMDP":
        """The problem of dense arrays, as ``POMDP`` takes them: transition (m, n, n), emission (m, n, k) or
        (n, k), reward (m, n), (m, n, n) or (n,), initial (n,). Nothing is observed before the first action.

        Raises ValueError naming the entry that is wrong."""
        k = np.shape(emission)[-1] if np.ndim(emission) else 1
        first = np.full((np.shape(initial)[0] if np.ndim(initial) else 1, k), 1 / k)
        dense = POMDP(transition, emission, reward, initial, discount, first)
        moves = np.argwhere(dense.reward)
        index = np.column_stack([moves, np.full(len(moves), ANY)]).astype(np.int32)
        rewards = Rules(index, dense.reward[tuple(moves.T)])
        tables = ([sp.csr_array(a) for a in table] for table in (dense.transition, dense.emission))
        return cls(*map(tuple, tables), rewards, np.array(dense.initial), dense.discount)  # pyright: ignore

    @property
    def n_states(self) -> int:
        return len(self.initial)

    @property
    def n_actions(self) -> int:
        return len(self.transition)

    @property
    def n_observations(self) -> int:
        return self.emission[0].shape[1]

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Of the axes of the reward: actions, states, next states, observations."""
        return self.n_actions, self.n_states, self.n_states, self.n_observations

    def move_rewards(self) -> tuple[CSR, ...]:
        """Per action (n, n): ``transition[s, s']`` times the reward of that move, averaged over
        observations."""
        by_observation = bool((self.reward.index[:, 3] >= 0).any())
        return tuple(self._move_rewards(a, by_observation) for a in range(self.n_actions))

    def _move_rewards(self, a: int, by_observation: bool) -> CSR:
        moves = self.transition[a].tocoo()
        s, reached, weight = moves.row, moves.col, moves.data
        if by_observation:
            emission = self.emission[a]
            counts = np.diff(emission.indptr)[reached]
            at = np.repeat(emission.indptr[reached] - (np.cumsum(counts) - counts), counts) + np.arange(
                counts.sum()
            )
            s, reached, weight = (np.repeat(each, counts) for each in (s, reached, weight))
            o, weight = emission.indices[at], weight * emission.data[at]
        else:
            o = np.zeros_like(s)
        entries = np.stack([np.full_like(s, a), s, reached, o], axis=1).astype(np.int64)
        value = weight * self.reward.at(entries, self.sizes)
        return sp.csr_array((value, (s, reached)), shape=(self.n_states,) * 2)

    def expected_reward(self) -> Float[np.ndarray, "m n"]:
        """r(a, s) = sum over s', o of P(s', o | s, a) R(a, s, s', o): all that planning needs."""
        return np.stack([table.sum(axis=1) for table in self.move_rewards()])

    def terminal(self) -> Bool[np.ndarray, " n"]:
        """Which states are never left and never pay again, whatever is done, and are no initial states."""
        stays = np.all([matrix.diagonal() == 1 for matrix in self.transition], axis=0)
        pays = np.any([(abs(table).sum(axis=1) > 0) for table in self.move_rewards()], axis=0)
        return stays & ~pays & (self.initial == 0)

    def dense(self) -> POMDP:
        """The same as dense tables, for models of up to a few thousand states.

        A dense POMDP makes an observation before the first action. Here that one is uniformly random, so it
        says nothing and the optimal value stays that of the problem. Rewards are averaged over observations.
        Raises TooLarge.
        """
        m, n, k = self.n_actions, self.n_states, self.n_observations
        if m * n * max(n, k) > MOST_DENSE:
            raise TooLarge(f"{n} states, {m} actions and {k} observations are too many for dense tables")
        transition = np.stack([matrix.toarray() for matrix in self.transition])
        weighted = np.stack([table.toarray() for table in self.move_rewards()])
        reward = np.divide(weighted, transition, out=np.zeros_like(weighted), where=transition > 0)
        return POMDP(
            transition,
            np.stack([matrix.toarray() for matrix in self.emission]),
            reward,
            self.initial,
            self.discount,
            np.full((n, k), 1 / k),
            state_names=self.state_names,
            action_names=self.action_names,
            observation_names=self.observation_names,
        )


ROUNDING = 1e-9


def label(names: Names, index: int) -> str:
    """How messages call entry ``index`` of an axis."""
    return str(index) if names is None else repr(names[index])


def check_rows(place: str, matrix: CSR, role: str, names: Names, tolerance: float = ROUNDING) -> None:
    """Refuse a matrix whose rows are not distributions, naming the first."""
    if matrix.nnz and not (matrix.data.min() >= 0 and matrix.data.max() <= 1 + tolerance):
        bad = np.flatnonzero(~((matrix.data >= 0) & (matrix.data <= 1 + tolerance)))[0]
        row = int(np.searchsorted(matrix.indptr, bad, side="right")) - 1
        raise ValueError(
            f"{place} {role} {label(names, row)} holds {matrix.data[bad]:g}; probabilities lie in [0, 1]"
        )
    sums = matrix.sum(axis=1)
    wrong = np.flatnonzero(~(np.abs(sums - 1) <= tolerance))
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(f"{place} {role} {label(names, row)} sums to {sums[row]:.6g}; rows must sum to 1")


def normalised(place: str, matrix: CSR, role: str, names: Names) -> tuple[CSR, float]:
    """The matrix with each row that is off by more than rounding divided by its sum, and the worst deviation.

    Rows may be off by 1e-5, as in the reference reader. Rows within rounding stay as they are, so that a
    table that was written is read back bit by bit.
    """
    check_rows(place, matrix, role, names, tolerance=FILE_TOLERANCE)
    sums = matrix.sum(axis=1)
    off = np.abs(sums - 1)
    scale = np.where(off > EXACT, sums, 1.0)
    if (scale == 1).all():
        return matrix, 0.0
    data = matrix.data / np.repeat(scale, np.diff(matrix.indptr))
    return sp.csr_array((data, matrix.indices, matrix.indptr), shape=matrix.shape), float(off.max())


FILE_TOLERANCE = 1e-5
EXACT = 1e-12

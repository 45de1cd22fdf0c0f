"""RingWorld: walk on a ring of positions towards goals and around traps, seeing only noisy beacons.

Source: Y. Zhao, O. Eberhard, M. Khammassi, A. H. Sayed, M. Muehlebach, "Why Linear Recurrent Memory Works in
Partially Observable Reinforcement Learning", ICML 2026, arXiv:2605.31261, experiment 6.2.

From the paper: 12 positions, 4 actions (CW1, CW2, CCW1, CCW2: 1 or 2 steps clockwise or counter-clockwise),
irregular moves with eps = 0.05, 4 beacons, goals 2 and 3, traps 6, 11 and 12. Reward +1 and -1 are inferred
from the -1/12 per step that a uniformly random policy earns there.

Left open by the paper and chosen here: the slip law, the episode length, the beacon angles, the emission law
and its sharpness, the uniform initial distribution, the discount.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from .table_world import AbstractTabled, TableWorld
from .tables import POMDP, check_dense

ACTIONS = ("CW1", "CW2", "CCW1", "CCW2")
STEPS = (1, 2, -1, -2)

# What an irregular move does: from the tables of the regular moves, (action, position, next), to its own.
SLIPS = {
    "other": lambda regular: (regular.sum(axis=0) - regular) / (len(regular) - 1),
    "stay": lambda regular: np.broadcast_to(np.eye(regular.shape[1]), regular.shape),
    "uniform": lambda regular: np.full_like(regular, 1 / regular.shape[1]),
}


class RingWorld(AbstractTabled):
    """A ring of positions; reaching a goal earns 1, a trap -1; an episode starts anywhere and ends by time
    alone.

    Position i lies at 360 (i - 1) / positions degrees, clockwise; i counts from 1, as in the paper, while the
    tables and ``hidden`` count from 0.

    positions:      how many there are.
    goals, traps:   1-based positions; none may be both.
    eps:            probability that a move is irregular.
    slip:           what happens then. "other": the move of one of the other three actions, each equally
                    likely; "stay": no move; "uniform": any position, each equally likely.
    episode_length: steps until truncation.
    beacon_angles:  in degrees, clockwise; the observation is the index of the one beacon perceived.
    sharpness:      P(beacon j | position i) is proportional to exp(sharpness * cos(angle_i - angle_j)). The
                    default is calibrated, under the other defaults, so that PPO on the exact belief ends near
                    the 0.575 per step that the paper's agents learn (`linmem run --memory belief`).
    discount:       per step; for the tables only.

    Raises ValueError if two positions have the same beacon probabilities (Assumption 5.8 of the paper).
    """

    world: TableWorld

    def __init__(
        self,
        positions: int = 12,
        goals: Sequence[int] = (2, 3),
        traps: Sequence[int] = (6, 11, 12),
        eps: float = 0.05,
        slip: str = "stay",
        episode_length: int = 100,
        beacon_angles: Sequence[float] = (0.0, 90.0, 180.0, 270.0),
        sharpness: float = 0.76,
        discount: float = 0.99,
    ):
        if positions < 1:
            raise ValueError(f"positions is {positions}; a ring has at least 1")
        check_dense(len(ACTIONS), positions)
        if len(beacon_angles) == 0:
            raise ValueError("beacon_angles is empty; a world has at least 1 observation")
        if slip not in SLIPS:
            raise ValueError(f"unknown slip '{slip}'; known: {', '.join(SLIPS)}")
        if not 0 <= eps <= 1:
            raise ValueError(f"eps is {eps}; probabilities lie in [0, 1]")
        regular = _regular_moves(positions)
        pomdp = POMDP(
            transition=(1 - eps) * regular + eps * SLIPS[slip](regular),
            emission=_beacon_probabilities(positions, beacon_angles, sharpness),
            reward=_rewards(positions, goals, traps),
            initial=np.full(positions, 1 / positions),
            discount=discount,
            action_names=ACTIONS,
        )
        self.world = TableWorld(pomdp, episode_length)

    def regular_moves(self) -> Float[np.ndarray, "m n n"]:
        """The moves without slips, a permutation matrix per action: P(a) of T(a) = P(a) + eps Q(a)."""
        return _regular_moves(self.tables().n_states)


def _regular_moves(positions: int) -> Float[np.ndarray, "m n n"]:
    return np.stack([np.roll(np.eye(positions), step, axis=1) for step in STEPS])


def _beacon_probabilities(
    positions: int, beacon_angles: Sequence[float], sharpness: float
) -> Float[np.ndarray, "n k"]:
    angles = 360 * np.arange(positions) / positions
    pull = sharpness * np.cos(np.deg2rad(angles[:, None] - np.asarray(beacon_angles, float)))
    weights = np.exp(pull - pull.max(axis=1, keepdims=True))
    rows = weights / weights.sum(axis=1, keepdims=True)
    for i, row in enumerate(rows):
        twins = np.flatnonzero((np.abs(rows[i + 1 :] - row) <= 1e-9).all(axis=1))
        if len(twins):
            raise ValueError(
                f"positions {i + 1} and {i + 2 + twins[0]} have the same beacon probabilities; use a "
                f"sharpness above 0 (it is {sharpness}) and beacon_angles without mirror "
                f"symmetry (they are {beacon_angles})"
            )
    return rows


def _rewards(positions: int, goals: Sequence[int], traps: Sequence[int]) -> Float[np.ndarray, " n"]:
    rewards = np.zeros(positions)
    for name, places, reward in (("goals", goals, 1.0), ("traps", traps, -1.0)):
        for place in places:
            if not 1 <= place <= positions:
                raise ValueError(f"{name} has {place}; positions run from 1 to {positions}")
            if rewards[place - 1] not in (0, reward):
                raise ValueError(f"position {place} is both a goal and a trap")
            rewards[place - 1] = reward
    return rewards

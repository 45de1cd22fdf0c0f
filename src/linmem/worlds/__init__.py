"""Worlds: hidden state that gives observations and rewards for actions."""

from functools import partial

from linmem.core.registry import Registry

from .base import AbstractWorld, Outcome
from .permutation import PermutationWorld
from .probes import ActionProbe, ConstantProbe, DelayProbe, ObservationProbe, RecallProbe, TruncationProbe
from .ringworld import RingWorld
from .spaces import Box, Discrete
from .table_world import TableState, TableWorld
from .tables import HMM, POMDP, Trajectory, deterministic_of, permutation_of

PAPER = "Zhao et al. 2026, arXiv:2605.31261, experiment 6.2"
THEOREM = "Zhao et al. 2026, arXiv:2605.31261, Theorem 5.7"
PROBES = "Jones 2021, Debugging RL, without the agonizing pain"

WORLDS = Registry("world")
WORLDS.add("ringworld", RingWorld, "noisy beacons on a ring with goals and traps", PAPER)
WORLDS.add(
    "permutation",
    PermutationWorld,
    "name the state of a random, nearly permuted chain",
    THEOREM,
)
WORLDS.add("probe_constant", ConstantProbe, "one step, reward 1", PROBES)
WORLDS.add("probe_observation", ObservationProbe, "one step, the reward is the observation", PROBES)
WORLDS.add("probe_delay", DelayProbe, "two steps, only the second earns", PROBES)
WORLDS.add("probe_action", ActionProbe, "one step, the reward is the action", PROBES)
WORLDS.add("probe_recall", RecallProbe, "give back a cue that was seen only at the start", PROBES)
WORLDS.add("probe_truncation", TruncationProbe, "reward 1 per step, cut off by a time limit", PROBES)
WORLDS.add(
    "probe_termination", partial(TruncationProbe, terminates=True), "the same, but it ends for good", PROBES
)

__all__ = [
    "HMM",
    "POMDP",
    "WORLDS",
    "AbstractWorld",
    "ActionProbe",
    "Box",
    "ConstantProbe",
    "DelayProbe",
    "Discrete",
    "ObservationProbe",
    "Outcome",
    "PermutationWorld",
    "RecallProbe",
    "RingWorld",
    "TableState",
    "TableWorld",
    "Trajectory",
    "TruncationProbe",
    "deterministic_of",
    "permutation_of",
]

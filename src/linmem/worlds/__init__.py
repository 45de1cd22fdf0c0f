"""Worlds: hidden state that gives observations and rewards for actions."""

from functools import partial

from linmem.core.registry import Entry, Registry

from . import gymnax_world
from .base import AbstractHostWorld, AbstractWorld, Outcome
from .gymnasium_world import GymnasiumWorld
from .gymnax_world import GymnaxWorld
from .probes import (
    ActionProbe,
    AimProbe,
    ConstantProbe,
    DelayProbe,
    ObservationProbe,
    RecallProbe,
    TruncationProbe,
)
from .ringworld import RingWorld
from .spaces import Box, Dict, Discrete, MultiDiscrete
from .table_world import TableState, TableWorld
from .tables import HMM, POMDP, Trajectory, deterministic_of, permutation_of

PAPER = "Zhao et al. 2026, arXiv:2605.31261, experiment 6.2"
PROBES = "Jones 2021, Debugging RL, without the agonizing pain"

WORLDS = Registry("world")
WORLDS.add("ringworld", RingWorld, "noisy beacons on a ring with goals and traps", PAPER)
WORLDS.add("probe_constant", ConstantProbe, "one step, reward 1", PROBES)
WORLDS.add("probe_observation", ObservationProbe, "one step, the reward is the observation", PROBES)
WORLDS.add("probe_delay", DelayProbe, "two steps, only the second earns", PROBES)
WORLDS.add("probe_action", ActionProbe, "one step, the reward is the action", PROBES)
WORLDS.add("probe_aim", AimProbe, "one step, continuous actions are paid for meeting a target", PROBES)
WORLDS.add("probe_recall", RecallProbe, "give back a cue that was seen only at the start", PROBES)
WORLDS.add("probe_truncation", TruncationProbe, "reward 1 per step, cut off by a time limit", PROBES)
WORLDS.add(
    "probe_termination", partial(TruncationProbe, terminates=True), "the same, but it ends for good", PROBES
)

ELSEWHERE = {
    "gymnax": Entry("gymnax", gymnax_world.make, "a gymnax environment", "Lange 2022, gymnax"),
    "gym": Entry("gym", GymnasiumWorld, "a Gymnasium environment", "Towers et al. 2024, arXiv:2407.17032"),
}
"""Worlds of other libraries, written ``prefix:id``."""


def resolve(name: str) -> Entry:
    """The entry of a world by what a user types: a registered name, ``gymnax:CartPole-v1``, or
    ``gym:MiniGrid-MemoryS7-v0``. ``resolve(name).make()`` makes it, and only then imports the other
    library."""
    prefix, colon, rest = name.partition(":")
    if colon and prefix in ELSEWHERE:
        there = ELSEWHERE[prefix]
        return Entry(name, partial(there.make, rest), there.summary, there.source)
    return WORLDS[name]


def title(name: str) -> str:
    """A registered name as other libraries write theirs: probe_recall -> ProbeRecall, ringworld ->
    RingWorld."""
    made = WORLDS[name].make
    if isinstance(made, type) and made.__name__.lower() == name:
        return made.__name__
    return "".join(part.title() for part in name.split("_"))


__all__ = [
    "HMM",
    "POMDP",
    "WORLDS",
    "AbstractHostWorld",
    "AbstractWorld",
    "ActionProbe",
    "AimProbe",
    "Box",
    "ConstantProbe",
    "DelayProbe",
    "Dict",
    "Discrete",
    "GymnasiumWorld",
    "GymnaxWorld",
    "MultiDiscrete",
    "ObservationProbe",
    "Outcome",
    "RecallProbe",
    "RingWorld",
    "TableState",
    "TableWorld",
    "Trajectory",
    "TruncationProbe",
    "deterministic_of",
    "permutation_of",
    "resolve",
    "title",
]

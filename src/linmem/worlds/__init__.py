"""Worlds: hidden state that gives observations and rewards for actions."""

from functools import partial

from linmem.core.registry import Entry, Registry

from . import gymnax_world
from .balance import (
    CartPole,
    Pendulum,
    noisy_cartpole,
    noisy_pendulum,
    position_cartpole,
    position_pendulum,
    velocity_cartpole,
)
from .bandit import MultiarmedBandit, bandit
from .base import AbstractHostWorld, AbstractWorld, Card, Outcome
from .boards import Battleship, MineSweeper, battleship, minesweeper
from .cards import (
    Autoencode,
    Concentration,
    CountRecall,
    HigherLower,
    RepeatFirst,
    RepeatPrevious,
    autoencode,
    concentration,
    count_recall,
    higher_lower,
    repeat_first,
    repeat_previous,
)
from .chains import DiscountingChain, MemoryChain
from .gymnasium_world import GymnasiumWorld
from .gymnax_world import GymnaxWorld
from .labyrinth import Labyrinth, escape, explore
from .latent_mdp import LatentMDP
from .locks import CombinationLock, Revealing
from .model_files import is_model_name, model_world, read_model
from .parity import Parity
from .permutation import PermutationWorld
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
from .sparse import SparsePOMDP
from .table_world import TableState, TableWorld
from .tables import HMM, POMDP, Trajectory, deterministic_of, permutation_of
from .tmaze import TMaze

PAPER = "Zhao et al. 2026, arXiv:2605.31261, experiment 6.2"
THEOREM = "Zhao et al. 2026, arXiv:2605.31261, Theorem 5.7"
PROBES = "Jones 2021, Debugging RL, without the agonizing pain"

WORLDS = Registry("world")
WORLDS.add("ringworld", RingWorld, "noisy beacons on a ring with goals and traps", PAPER)
WORLDS.add(
    "parity", Parity, "report a bit that observed events flip", "after Grazzi et al. 2024, arXiv:2411.12537"
)
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
WORLDS.add("probe_aim", AimProbe, "one step, continuous actions are paid for meeting a target", PROBES)
WORLDS.add("probe_recall", RecallProbe, "give back a cue that was seen only at the start", PROBES)
WORLDS.add("probe_truncation", TruncationProbe, "reward 1 per step, cut off by a time limit", PROBES)
WORLDS.add(
    "probe_termination", partial(TruncationProbe, terminates=True), "the same, but it ends for good", PROBES
)

POPGYM = "Morad et al. 2023, POPGym, arXiv:2303.01859"
WORLDS.add("repeat_first", repeat_first, "name the suit of the first card", POPGYM)
WORLDS.add("repeat_previous", repeat_previous, "name the suit of an earlier card", POPGYM)
WORLDS.add("autoencode", autoencode, "watch a deck, then name it backwards", POPGYM)
WORLDS.add("count_recall", count_recall, "say how often a value was dealt", POPGYM)
WORLDS.add("higher_lower", higher_lower, "guess whether the next card is higher", POPGYM)
WORLDS.add("concentration", concentration, "find pairs of hidden cards", POPGYM)
WORLDS.add("battleship", battleship, "sink ships that are not shown", POPGYM)
WORLDS.add("minesweeper", minesweeper, "clear a field whose answers are not kept", POPGYM)
WORLDS.add("labyrinth_escape", escape, "leave a maze seen square by square", POPGYM)
WORLDS.add("labyrinth_explore", explore, "walk over all of a maze", POPGYM)
WORLDS.add("bandit", bandit, "arms whose odds last an episode", POPGYM)
WORLDS.add("position_cartpole", position_cartpole, "balance without seeing velocities", POPGYM)
WORLDS.add("velocity_cartpole", velocity_cartpole, "balance without seeing positions", POPGYM)
WORLDS.add("noisy_cartpole", noisy_cartpole, "balance from noisy positions", POPGYM)
WORLDS.add("position_pendulum", position_pendulum, "swing up without seeing the velocity", POPGYM)
WORLDS.add("noisy_pendulum", noisy_pendulum, "swing up from noisy angles", POPGYM)

WORLDS.add("tmaze", TMaze, "recall at a junction the sign read far before it", "Bakker 2001, NIPS")
BSUITE = "Osband et al. 2019, bsuite, arXiv:1908.03568"
WORLDS.add("memory_chain", MemoryChain, "give back a bit of the first step", BSUITE)
WORLDS.add("discounting_chain", DiscountingChain, "choose the reward that comes latest", BSUITE)

WORLDS.add(
    "latent_mdp", LatentMDP, "find out by acting which MDP it is", "Zhou et al. 2022, arXiv:2210.11604"
)
WORLDS.add(
    "combination_lock",
    CombinationLock,
    "enter a code, counting blindly",
    "Uehara et al. 2022, arXiv:2206.12081",
)
WORLDS.add("revealing", Revealing, "add up weak evidence", "Chen et al. 2023, arXiv:2302.01333")

ELSEWHERE = {
    "gymnax": Entry("gymnax", gymnax_world.make, "a gymnax environment", "Lange 2022, gymnax"),
    "gym": Entry("gym", GymnasiumWorld, "a Gymnasium environment", "Towers et al. 2024, arXiv:2407.17032"),
}
"""Worlds of other libraries, written ``prefix:id``."""


def resolve(name: str) -> Entry:
    """The entry of a world by what a user types: a registered name, ``gymnax:CartPole-v1``, or
    ``gym:MiniGrid-MemoryS7-v0``, or a .POMDP or POMDPX file.
    ``resolve(name).make()`` makes it, and only then
    imports the other library."""
    prefix, colon, rest = name.partition(":")
    if colon and prefix in ELSEWHERE:
        there = ELSEWHERE[prefix]
        return Entry(name, partial(there.make, rest), there.summary, there.source)
    if is_model_name(name):
        return Entry(name, partial(model_world, name), "a problem file", "docs/pomdps.md")
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
    "Autoencode",
    "Battleship",
    "Box",
    "Card",
    "CartPole",
    "CombinationLock",
    "Concentration",
    "ConstantProbe",
    "CountRecall",
    "DelayProbe",
    "Dict",
    "DiscountingChain",
    "Discrete",
    "GymnasiumWorld",
    "GymnaxWorld",
    "HigherLower",
    "Labyrinth",
    "LatentMDP",
    "MemoryChain",
    "MineSweeper",
    "MultiDiscrete",
    "MultiarmedBandit",
    "ObservationProbe",
    "Outcome",
    "Parity",
    "Pendulum",
    "PermutationWorld",
    "RecallProbe",
    "RepeatFirst",
    "RepeatPrevious",
    "Revealing",
    "RingWorld",
    "SparsePOMDP",
    "TMaze",
    "TableState",
    "TableWorld",
    "Trajectory",
    "TruncationProbe",
    "deterministic_of",
    "model_world",
    "permutation_of",
    "read_model",
    "resolve",
    "title",
]

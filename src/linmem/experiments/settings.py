"""Settings of PPO for each family of worlds, in one place; they are the same for every memory.

A family shares the length of its episodes and the size of its rewards, and its settings follow from these.
Nothing was searched over worlds or memories.
"""

from dataclasses import dataclass

from ..agents import PPOConfig
from .config import RINGWORLD_PPO


@dataclass(frozen=True)
class Family:
    """Worlds by name, without options, and how PPO learns them."""

    worlds: tuple[str, ...]
    ppo: PPOConfig
    why: str


POPGYM = (
    *("repeat_first", "repeat_previous", "autoencode", "count_recall", "higher_lower", "concentration"),
    *("battleship", "minesweeper", "bandit", "labyrinth_escape", "labyrinth_explore"),
    *("position_cartpole", "velocity_cartpole", "noisy_cartpole", "position_pendulum", "noisy_pendulum"),
)

FAMILIES = (
    Family(
        POPGYM,
        PPOConfig(reward_scale=0.1),
        "an episode's rewards sum to 1 at most, over 50 steps and more; the scale makes values about 1 to 10",
    ),
    Family(("tmaze", "memory_chain"), PPOConfig(discount=0.98), "one reward, at the end"),
    Family(("parity",), PPOConfig(discount=0.9, trace=0.8), "a report is paid at once"),
    Family(("ringworld", "permutation"), RINGWORLD_PPO, "what an action is worth shows within a few steps"),
)

OTHERS = PPOConfig()
"""Settings of worlds that belong to no family."""


def ppo_of(world: str) -> PPOConfig:
    """The settings for a world, whose name may carry options."""
    name = world.partition("@")[0]
    return next((family.ppo for family in FAMILIES if name in family.worlds), OTHERS)

"""Settings of PPO for each family of worlds, in one place; they are the same for every memory.

A family shares the length of its episodes and the size of its rewards. Nobody searched these over worlds and
memories: they follow from a few trials with `gru` and `lru` on the family's first world.
"""

from dataclasses import dataclass

from ..agents import PPOConfig


@dataclass(frozen=True)
class Family:
    """Worlds by name, without options, and how PPO learns them."""

    worlds: tuple[str, ...]
    ppo: PPOConfig
    why: str


FAMILIES = (
    Family(
        ("repeat_first", "repeat_previous", "autoencode", "count_recall", "higher_lower", "concentration"),
        PPOConfig(reward_scale=0.1),
        "every step pays about 1/50 of the whole, at once; the scale makes values about 1",
    ),
    Family(
        ("battleship", "minesweeper", "bandit"),
        PPOConfig(reward_scale=0.1),
        "the same, and exploring pays late",
    ),
    Family(
        ("position_cartpole", "velocity_cartpole", "noisy_cartpole", "position_pendulum", "noisy_pendulum"),
        PPOConfig(reward_scale=0.1, trace=0.95),
        "control: what an action is worth shows within some tens of steps",
    ),
    Family(("tmaze", "memory_chain"), PPOConfig(discount=0.98), "one reward, at the end"),
    Family(("parity",), PPOConfig(discount=0.9, trace=0.8), "a report is paid at once"),
    Family(("ringworld", "permutation"), PPOConfig(discount=0.95, trace=0.8, entropy_cost=0.02), "short"),
)

OTHERS = PPOConfig()
"""Settings of worlds that belong to no family."""


def ppo_of(world: str) -> PPOConfig:
    """The settings for a world, whose name may carry options."""
    name = world.partition("@")[0]
    return next((family.ppo for family in FAMILIES if name in family.worlds), OTHERS)

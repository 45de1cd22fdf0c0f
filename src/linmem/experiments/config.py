"""What a run is: a frozen configuration that spells out every default, and the name of its folder."""

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

from ..agents import AGENTS, PPOConfig
from ..memories import MEMORIES
from ..worlds import resolve
from ..worlds.model_files import file_digest, is_model_name, read_model

DEFAULT_MEMORIES = ("belief", "alf", "deep_alf", "s5", "gru", "none")

# RingWorld's rewards answer within a few steps:
# shorter horizons than PPOConfig's learn it in a tenth of the time.
RINGWORLD_PPO = PPOConfig(discount=0.95, trace=0.8, entropy_cost=0.02)


@dataclass(frozen=True)
class RunConfig:
    """Train one agent per memory and seed on one world; the agents differ in their memory only."""

    world: str = "ringworld"
    """the world (see `linmem list`), with options as in ringworld@slip=other@sharpness=1.35; or gymnax:ID or
    gym:ID of those libraries; or a .POMDP or POMDPX file, whose discount then holds"""
    memory: tuple[str, ...] = DEFAULT_MEMORIES
    """the memories, one after another (see `linmem list`), with options as in alf@delta=0.1 or s5@hidden=12;
    learned ones, trace and window read the last action, and with @reward=True the last reward, too"""
    agent: str = "ppo"
    """the learner (see `linmem list`)"""
    seeds: int = 4
    """agents per memory, trained side by side"""
    steps: int = 600_000
    """environment steps of each agent"""
    seed: int = 0
    """from which all random numbers follow"""
    evaluation_actors: int = 64
    """copies of the world that the trained agents are evaluated on"""
    evaluation_steps: int = 500
    """steps of each copy"""
    snapshots: int = 0
    """how often, evenly over training, each memory is compared with belief and theory (some seconds each)"""
    ppo: PPOConfig = field(default_factory=lambda: RINGWORLD_PPO)
    """settings of the learner; their defaults are those of the world's family (experiments/settings.py)"""

    def __post_init__(self):
        resolve(self.world)
        AGENTS[self.agent]
        for name in self.memory:
            MEMORIES[name]
        if not self.memory:
            raise ValueError("memory is empty; name at least one")
        if len(set(self.memory)) < len(self.memory):
            raise ValueError(f"memory names one twice: {' '.join(self.memory)}")
        if self.snapshots < 0:
            raise ValueError(f"snapshots is {self.snapshots}; it is a number of times, 0 for none")
        if not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}; it must fit 64 bits")
        for name in ("seeds", "steps", "evaluation_actors", "evaluation_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")

    @property
    def updates(self) -> int:
        """How many updates make ``steps`` environment steps, rounded up."""
        return -(-self.steps // (self.ppo.actors * self.ppo.unroll))

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def world_file(self) -> str | None:
        """The digest of the world's file, if it is a file of the user's: under one name it may change."""
        return file_digest(self.world) if is_model_name(self.world) else None

    def folder_name(self) -> str:
        """<world>-<hash of everything, and of a problem file's content>: two configurations never share a
        folder, one always has the same."""
        text = json.dumps(self.as_dict(), sort_keys=True) + (self.world_file() or "")
        world = re.sub(r"[^A-Za-z0-9._-]", "-", self.world)
        return f"{world}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def from_dict(values: dict[str, Any]) -> RunConfig:
    """The configuration that ``as_dict`` wrote. A missing setting, which the version that wrote it did not
    have, takes its default; an unknown one raises TypeError, and without memory or ppo it is a KeyError."""
    return RunConfig(**{**values, "memory": tuple(values["memory"]), "ppo": PPOConfig(**values["ppo"])})


def with_discount_of_file(config: RunConfig) -> RunConfig:
    """The configuration with the discount of its world, if that is a problem file."""
    if not is_model_name(config.world):
        return config
    discount = read_model(config.world).discount
    return dataclasses.replace(config, ppo=dataclasses.replace(config.ppo, discount=discount))

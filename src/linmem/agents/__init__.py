"""Agents by name: learners that take any memory."""

from ..core.registry import Registry
from . import ppo
from .policy import ActorCritic
from .ppo import PPOConfig

__all__ = ["AGENTS", "ActorCritic", "PPOConfig", "ppo"]

AGENTS = Registry("agent")
AGENTS.add("ppo", ppo, "recurrent proximal policy optimisation", "Schulman et al. 2017, arXiv:1707.06347")

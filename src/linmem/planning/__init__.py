"""Planning in finite POMDPs whose model is known. The rest is in the modules of this folder."""

from .alpha import AlphaPolicy
from .point_based import Bounds, PointBasedSolver

__all__ = ["AlphaPolicy", "Bounds", "PointBasedSolver"]

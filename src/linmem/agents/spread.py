"""Training spread over devices: each has its share of the actors, all have the parameters.

One program says what an update is, and the compiler splits it (JAX sharding): worlds, memories and the
gradients of a minibatch are computed where their actors are, and gradients are added up over the devices. A
minibatch is the same one as on one device, so the results are equal up to the order of sums.
"""

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

ACTORS = "actors"
"""The one axis of the mesh."""


def everywhere(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def by_actor(mesh: Mesh, axis: int) -> NamedSharding:
    """Spread along ``axis``, which counts the actors."""
    return NamedSharding(mesh, P(*[None] * axis, ACTORS))


def spread(tree: Any, axis: int, mesh: Mesh | None) -> Any:
    """Have every leaf of a traced computation spread along ``axis``; without a mesh, nothing."""
    if mesh is None:
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, by_actor(mesh, axis)), tree)

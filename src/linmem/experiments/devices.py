"""The devices that train one run together: of this process, or of several that found each other.

All processes run the same program. Process 0 alone writes to the run folder, which the others must be able to
read: they begin from the same checkpoint.
"""

import re
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from ..agents.ppo import PPOConfig, State, places
from ..agents.spread import ACTORS, everywhere


@dataclass(frozen=True)
class Devices:
    """``mesh`` has one axis, the actors'."""

    mesh: Mesh

    def place(self, state: State) -> State:
        """Each device its share; every process must hold the same ``state``."""

        def one(leaf, place):
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                return jax.random.wrap_key_data(one(jax.random.key_data(leaf), place))
            whole = np.asarray(leaf)
            return jax.make_array_from_callback(whole.shape, place, lambda index: whole[index])

        return jax.tree.map(one, state, places(state, self.mesh))

    def local(self, tree: Any) -> Any:
        """What is spread over the devices, on one device of this process. Every process must ask."""
        whole = jax.jit(lambda tree: tree, out_shardings=everywhere(self.mesh))(tree)
        return jax.tree.map(lambda leaf: leaf.addressable_data(0), whole)


def writes() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def agreed(decision: bool) -> bool:
    """The decision of process 0, for all."""
    if jax.process_count() == 1:
        return decision
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(decision)))


def join(distributed: str | None, devices: int) -> None:
    """Before JAX is first used: have at least ``devices`` devices on a CPU, too, and meet other processes.

    distributed: None; "auto" on a cluster that JAX knows; or I/N@HOST:PORT, this process's number of so many,
    and where number 0 can be reached. Raises ValueError for anything else.
    """
    if devices < 1:
        raise ValueError(f"devices is {devices}; it must be at least 1")
    if devices > 1:
        jax.config.update("jax_num_cpu_devices", devices)
    if distributed is None:
        return
    if distributed == "auto":
        jax.distributed.initialize()
        return
    match = re.fullmatch(r"(\d+)/(\d+)@(\S+:\d+)", distributed)
    if match is None or int(match[1]) >= int(match[2]):
        raise ValueError(
            f"distributed is '{distributed}'; it is 'auto', or as 0/2@localhost:9876 in the first of two "
            "processes and 1/2@localhost:9876 in the second"
        )
    number, count, address = int(match[1]), int(match[2]), match[3]
    jax.distributed.initialize(address, count, number)


def choose(devices: int, config: PPOConfig) -> Devices | None:
    """The first ``devices`` of every process; None if that is one device altogether.

    Raises ValueError if there are not as many, or if the actors of a minibatch cannot be shared evenly."""
    if devices > len(jax.local_devices()):
        raise ValueError(f"devices is {devices}, but JAX sees {len(jax.local_devices())} here")
    chosen = [
        device
        for process in range(jax.process_count())
        for device in [d for d in jax.devices() if d.process_index == process][:devices]
    ]
    if len(chosen) == 1:
        return None
    share = config.actors // config.minibatches
    if share % len(chosen):
        raise ValueError(
            f"the {share} actors of a minibatch cannot be shared evenly by {len(chosen)} devices; choose "
            "--actors and --minibatches so that actors / minibatches is a multiple of the devices"
        )
    return Devices(Mesh(np.array(chosen), (ACTORS,)))

"""`linmem bench scale`: training and long scans on one device and on several, and what follows for more.

The model of N devices, whose parts are measured here or stated as arguments:

    training   t(N) = (rollout + learning) of one device's actors + gradients · ring(N, parameters)
                      + epochs · ring(N, rollouts of all), since a minibatch picks actors of all devices
    scan       t(N) = (fold + scan) of T / N steps + 2 · gather(N, element)
    ring(N, b)   = 2 (N - 1)/N · b / bandwidth + 2 (N - 1) · latency        (an all-reduce of b bytes)
    gather(N, b) = (N - 1) · b / bandwidth + (N - 1) · latency              (an all-gather of b bytes each)

Here all devices are parts of one CPU and share its memory's bandwidth, so what is measured is that several
devices give equal results at what cost of their own, and not how well machines scale. Nobody ran 64 devices.
"""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from rich.console import Console

from ..agents import PPOConfig, ppo
from ..agents.rollout import collect
from ..core.algebra import Diagonal, Element
from ..core.scan import scan
from ..core.sharded_scan import AXIS, sharded_scan
from ..experiments.devices import choose, join
from ..memories import MEMORIES
from ..reports.tables import Table
from ..worlds import resolve
from .conclude import Evidence, Target, conclude
from .timing import medians

MANY, LONG = 64, 10_000_000
EPOCHS, MINIBATCHES = 4, 8
EQUAL = 1e-4


def main(
    devices: int = 2,
    steps: int = 2_000_000,
    width: int = 8,
    repeats: int = 5,
    bandwidth: float = 25e9,
    latency: float = 10e-6,
    json: Path | None = None,
) -> int:
    """Time PPO and a long diagonal scan on one device and on several, and predict 64.

    A CPU is split into as many devices; each case runs in a process of its own.

    Args:
        devices: how many to compare with one.
        steps: length of the scan.
        width: of its state.
        repeats: timings of each program; the median counts.
        bandwidth: bytes per second between two devices, assumed for the prediction.
        latency: seconds of a message, assumed likewise.
        json: write rows and targets to this file.
    """
    console, rows = Console(), []
    parts: dict[str, tuple[Callable[..., list[dict[str, Any]]], tuple[int, ...]]] = {
        "training": (_training, (repeats,)),
        "scan": (_scan, (steps, width, repeats)),
    }
    for count in (1, devices):
        for label, (part, arguments) in parts.items():
            console.print(f"{label} on {count} device{'s' * (count > 1)}", highlight=False)
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                rows += pool.submit(part, count, *arguments).result()
    targets = [_equal(rows, case, devices) for case in ("scan, forward", "scan, forward + backward")]
    remarks = _predictions(rows, steps, width, bandwidth, latency)
    return conclude(Evidence("bench scale", rows, _table(rows), targets, remarks), json)


def _training(devices: int, repeats: int) -> list[dict[str, Any]]:
    """Updates with 64 copies of RingWorld on each device."""
    join(None, devices)
    rows = []
    for memory in ("gru", "s5"):
        config = PPOConfig(
            actors=64 * devices, unroll=128, epochs=EPOCHS, minibatches=MINIBATCHES, memory_size=128
        )
        world, spread = resolve("ringworld").make(), choose(devices, config)
        state = ppo.seeds_init(
            config, world, MEMORIES[memory].make, repeats, jax.random.split(jax.random.key(0), 1)
        )
        update = ppo.compile_train(config, world, repeats, 1, state, spread and spread.mesh)
        state = spread.place(state) if spread else state
        seconds = medians({memory: lambda: update(state)}, repeats)[memory]  # noqa: B023
        slots = jax.eval_shape(_slots(world, config.unroll), state)
        rows.append(
            {
                "case": f"training, {memory}",
                "devices": devices,
                "steps": config.actors * config.unroll,
                "seconds": seconds,
                "bytes": _bytes(state.policy),
                "rollout_bytes": _bytes(slots),
            }
        )
    return rows


def _slots(world, steps: int):
    def one(state: ppo.State):
        return collect(state.policy, world, state.actors, state.key, steps)[1]

    return jax.vmap(one)


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _scan(devices: int, steps: int, width: int, repeats: int) -> list[dict[str, Any]]:
    """A diagonal scan of ``steps`` steps in float32, spread over time."""
    join(None, devices)
    mesh = Mesh(np.array(jax.devices()[:devices]), (AXIS,))
    keys = jax.random.split(jax.random.key(0), 2)
    place = NamedSharding(mesh, P(AXIS))
    decay = jax.device_put(jax.random.uniform(keys[0], (steps, width)), place)
    inputs = jax.device_put(jax.random.normal(keys[1], (steps, width)), place)
    starts = jax.device_put(jnp.zeros(steps, bool).at[:: steps // 10].set(True), place)
    initial = jnp.zeros(width)

    def run(decay, inputs):
        elements = Element(decay, inputs)
        if devices == 1:
            return scan(Diagonal(), elements, initial, starts)[1]
        return sharded_scan(Diagonal(), elements, initial, starts, mesh)[1]

    forward = jax.jit(run)
    both = jax.jit(jax.grad(lambda *leaves: jnp.sum(run(*leaves) ** 2), (0, 1)))
    found = {"scan, forward": forward, "scan, forward + backward": both}
    seconds = medians({name: lambda f=f: f(decay, inputs) for name, f in found.items()}, repeats)
    return [
        {
            "case": name,
            "devices": devices,
            "steps": steps,
            "seconds": seconds[name],
            "bytes": 4 * 2 * width,
            "sums": [float(jnp.sum(jnp.abs(leaf))) for leaf in jax.tree.leaves(f(decay, inputs))],
        }
        for name, f in found.items()
    ]


def _equal(rows: list[dict[str, Any]], case: str, devices: int) -> Target:
    one, several = (next(r for r in rows if (r["case"], r["devices"]) == (case, n)) for n in (1, devices))
    gap = max(abs(a / b - 1) for a, b in zip(several["sums"], one["sums"], strict=True))
    return Target(
        f"{case}: sums of absolute results, {devices} devices beside 1",
        gap < EQUAL,
        f"{gap:.1e} apart",
        f"< {EQUAL:g}",
    )


def _predictions(
    rows: list[dict[str, Any]], steps: int, width: int, bandwidth: float, latency: float
) -> list[str]:
    alone = {row["case"]: row for row in rows if row["devices"] == 1}

    def ring(count: int, size: int) -> float:
        return 2 * (count - 1) * (size / count / bandwidth + latency)

    def gather(count: int, size: int) -> float:
        return (count - 1) * (size / bandwidth + latency)

    said = [
        f"predicted from one device, not run, assuming {bandwidth / 1e9:g} GB/s and {1e6 * latency:g} us "
        "between two:"
    ]
    for case, row in alone.items():
        if case.startswith("training"):
            spent = EPOCHS * MINIBATCHES * ring(MANY, row["bytes"])
            spent += EPOCHS * ring(MANY, MANY * row["rollout_bytes"])
            rate = MANY * row["steps"] / (row["seconds"] + spent)
            said.append(
                f"{case}: {rate:,.0f} steps/s on {MANY} devices with 64 copies each, "
                f"{100 * row['seconds'] / (row['seconds'] + spent):.0f}% of {MANY} times one"
            )
        else:
            # a part is read once more than by one device: by a third more bytes forward
            again = 4 / 3 * row["seconds"] * LONG / steps
            passes = 1 if case == "scan, forward" else 2
            took = again / MANY + passes * gather(MANY, row["bytes"])
            said.append(
                f"{case}: {LONG:,} steps of width {width} in {1e3 * took:.1f} ms on {MANY} devices, "
                f"{again * 3 / 4 / took:.0f}x one device"
            )
    return said


def _table(rows: list[dict[str, Any]]) -> Table:
    rate = {(row["case"], row["devices"]): row["steps"] / row["seconds"] for row in rows}
    return Table(
        ("case", "devices", "steps", "seconds", "steps/s", "times one device"),
        [
            (
                row["case"],
                row["devices"],
                f"{row['steps']:,}",
                f"{row['seconds']:.3f}",
                f"{rate[row['case'], row['devices']]:,.0f}",
                f"{rate[row['case'], row['devices']] / rate[row['case'], 1]:.2f}",
            )
            for row in rows
        ],
    )

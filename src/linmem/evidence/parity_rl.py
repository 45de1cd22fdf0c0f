"""State tracking inside reinforcement learning: PPO on the parity world, each layer with two ranges of
eigenvalues.

[0, 1] against [-1, 1]: both agents of a layer have the same size, the same settings and the same seeds, and
differ in this option of their memory. Layers and sizes are those of `linmem reproduce state-tracking`. The
world pays 1 per step for knowing a bit that observed events flip; a policy without memory earns 1 per
episode, whatever its length. Any memory can learn to count over a few steps, with time over a whole episode:
so agents are judged in episodes of LONG steps, when all that they were trained on have LENGTH. The memories
do not read the last action: a report of the bit, read again, would be a memory itself.
"""

import itertools
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import matplotlib as mpl
import numpy as np
from jaxtyping import Array, Key
from matplotlib.figure import Figure
from rich.console import Console

from ..agents import PPOConfig, ppo
from ..agents.policy import ActorCritic
from ..core.registry import UnknownName
from ..experiments.run import episodes, mean_rewards
from ..memories import Encoded, Features, Layer, Residual
from ..memories.base import AbstractMemory
from ..reports.figures import PALETTE, STYLE, WIDTH, Picture
from ..reports.html import Section, write_page
from ..reports.tables import Table
from ..worlds.base import AbstractWorld
from ..worlds.parity import Parity
from .conclude import Evidence, Target, conclude
from .rows import kept
from .state_tracking import LAYERS

NAMES = {
    "mamba": "Mamba",
    "mamba2": "Mamba-2",
    "gla": "GLA",
    "mlstm": "mLSTM",
    "deltanet": "DeltaNet",
    "gated_deltanet": "Gated DeltaNet",
    "deltaproduct": "DeltaProduct 2",
}
"""What `linmem reproduce state-tracking` calls the layers that have both ranges."""
RANGES = ("[0,1]", "[-1,1]")
STEP_SIZES = {"mamba2": 1e-2, "gla": 1e-2, "mlstm": 5e-3}
"""Adam's at the beginning, for both ranges of a layer; ``PPOConfig``'s for the others, with which these three
learn to count with few seeds or none: their decays begin near 1, and to flip a sign must cross to -1."""
LENGTH, LONG, CALLS = 32, 128, 10
COPIES = 64
"""of the world with LONG steps"""
SUCCEEDS, FAILS = 0.9, LENGTH / LONG
"""Mean reward per step in long episodes, of the best seed. Counting over LENGTH steps and guessing after them
earns LENGTH / LONG."""


def _agent(layer: Layer, world: AbstractWorld, size: int, key) -> AbstractMemory:
    features = Features(world.observation_space, world.action_space, action=False)
    in_key, memory_key, block_key = jax.random.split(key, 3)
    linear = eqx.nn.Linear(features.size, size, key=in_key)
    block = Residual(layer(size, memory_key), key=block_key)
    return Encoded(features, linear, block)  # pyright: ignore[reportCallIssue]


def train(
    layer: str, eigenvalues: str, step_size: float, steps: int, seeds: int, seed: int
) -> dict[str, Any]:
    """Train all seeds; the record has their mean reward per step in the last tenth of training, and in long
    episodes after it."""
    config = PPOConfig(
        actors=32,
        unroll=2 * LENGTH,
        minibatches=4,
        memory_size=32,
        trace=0.0,
        discount=0.0,
        step_size=step_size,
    )
    world = Parity(length=LENGTH)
    chunk = max(1, round(steps / (config.actors * config.unroll) / CALLS))
    updates = chunk * CALLS
    keys = jax.random.split(jax.random.key(seed), seeds)
    make = partial(_agent, LAYERS[f"{NAMES[layer]} {eigenvalues}"])
    state = ppo.seeds_init(config, world, make, updates, keys)
    run = ppo.compile_train(config, world, updates, chunk, state)
    began, curve = time.process_time(), []
    for _ in range(CALLS):
        state, metrics = run(state)
        curve.append(np.asarray(metrics.reward).mean(axis=1))
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1), seeds)
    return {
        "layer": layer,
        "eigenvalues": eigenvalues,
        "seeds": seeds,
        "steps": updates * config.actors * config.unroll,
        "reward": curve[-1].tolist(),
        "longer": in_long_episodes(state.policy, keys),
        "curve": np.stack(curve, axis=1).tolist(),
        "cpu_seconds": time.process_time() - began,
    }


def in_long_episodes(policy: ActorCritic, keys: Key[Array, " seeds"]) -> list[float]:
    """Mean reward per step of each seed's agent in two episodes of ``LONG`` steps of each copy."""
    slots = episodes(Parity(length=LONG), policy, keys, COPIES, 2 * (LONG + 1))  # a slot more for each end
    return mean_rewards(np.asarray(slots.reward), np.asarray(slots.acts))


@mpl.rc_context(STYLE)
def figure_of(rows: Sequence[Mapping[str, Any]], memoryless: float) -> Picture:
    """Reward per step of one layer while learning, a line for each seed."""
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    axes = figure.subplots()
    words = []
    for row, colour in zip(rows, PALETTE, strict=False):
        at = np.linspace(0, row["steps"], CALLS + 1)[1:]
        for i, curve in enumerate(row["curve"]):
            axes.plot(at, curve, color=colour, label=None if i else f"eigenvalues in {row['eigenvalues']}")
        ends = ", ".join(f"{reward:.3f}" for reward in row["reward"])
        longer = ", ".join(f"{reward:.3f}" for reward in row["longer"])
        ends = f"end at {ends} and earn {longer} in long episodes"
        words.append(f"with eigenvalues in {row['eigenvalues']} the seeds {ends}")
    axes.axhline(memoryless, color="#666666", linestyle=":", label="best without memory")
    axes.set(xlabel="environment steps", ylabel="mean reward per step", ylim=(None, 1.02))
    axes.legend(frameon=False)
    return Picture(figure, f"{rows[0]['layer']}, reward per step on the parity world: {'; '.join(words)}.")


def targets_of(rows: Sequence[Mapping[str, Any]]) -> list[Target]:
    """Two for each layer."""
    targets = []
    for row in rows:
        best, name = max(row["longer"]), f"{row['layer']} with eigenvalues in {row['eigenvalues']}"
        if row["eigenvalues"] == RANGES[0]:
            targets.append(Target(f"{name} fails", best <= FAILS, f"best {best:.3f}", f"no seed > {FAILS:g}"))
        else:
            targets.append(
                Target(f"{name} succeeds", best >= SUCCEEDS, f"best {best:.3f}", f"best seed >= {SUCCEEDS}")
            )
    return targets


def main(
    layers: tuple[str, ...] = tuple(NAMES),
    steps: int = 400_000,
    seeds: int = 4,
    seed: int = 0,
    out: Path = Path("runs/parity-rl"),
    json: Path | None = None,
) -> int:
    """Train PPO agents on the parity world with each layer's eigenvalues in [0, 1] and in [-1, 1].

    Theory says that only the second can track the hidden bit in episodes longer than those of training; exits
    1 if that is not what happens. Finished rows are kept in a folder, and the same command goes on from
    there. Writes ``parity.html``, with the learning curves.

    Args:
        layers: which layers; by default all that have both ranges.
        steps: environment steps of each agent.
        seeds: agents per memory, trained side by side.
        seed: from which all random numbers follow.
        out: folder of the page and of the finished rows.
        json: also write rows and targets to this file.
    """
    if unknown := set(layers) - set(NAMES):
        raise UnknownName(f"no layer '{min(unknown)}' has both ranges; those that do: {', '.join(NAMES)}")
    console, rows = Console(), []
    for layer, eigenvalues in itertools.product(layers, RANGES):
        settings = {
            "layer": layer,
            "eigenvalues": eigenvalues,
            "step_size": STEP_SIZES.get(layer, PPOConfig.step_size),
            "steps": steps,
            "seeds": seeds,
            "seed": seed,
        }
        row = kept(out, settings, partial(train, **settings))
        assert row is not None
        rows.append(row)
        ends, longer = (", ".join(f"{r:.3f}" for r in row[key]) for key in ("reward", "longer"))
        after = f"after {row['cpu_seconds']:.0f} CPU seconds"
        console.print(
            f"{layer} {eigenvalues}: {ends}, in long episodes {longer}, {after}",
            highlight=False,
            markup=False,
        )
    table = Table(
        ["layer", "eigenvalues", "reward per step (median / best)", "in long episodes", "steps", "CPU s"],
        [
            [
                r["layer"],
                r["eigenvalues"],
                *(f"{np.median(r[key]):.3f} / {max(r[key]):.3f}" for key in ("reward", "longer")),
                r["steps"],
                f"{r['cpu_seconds']:.0f}",
            ]
            for r in rows
        ],
    )
    world, long = Parity(length=LENGTH), Parity(length=LONG)
    remarks = [
        f"Reward per step of the last tenth of training, in episodes of {LENGTH} steps, and after it in "
        f"episodes of {LONG}; perfect memory earns {world.best:.0f} in both, the best policy without memory "
        f"{world.best_memoryless:.3f} and {long.best_memoryless:.3f}. A report changes nothing, so no reward "
        "is credited to earlier reports (discount 0)."
    ]
    code = conclude(Evidence("parity-rl", rows, table, targets_of(rows), remarks), json)
    sections = [Section("State tracking inside a reinforcement learner", remarks[0], table)]
    for layer, both in itertools.groupby(rows, lambda row: row["layer"]):
        sections.append(Section(layer, "", None, *figure_of(list(both), world.best_memoryless)))
    page = write_page(out / "parity.html", "Counting modulo two by PPO", sections)
    console.print(f"page: {page}", soft_wrap=True, highlight=False)
    return code

"""State tracking inside reinforcement learning: PPO on the parity world, with Mamba's decays in two ranges.

Decays in [0, 1] against decays in [-1, 1]: both agents have the same size, the same settings and the same
seeds, and differ in this option of their memory. The world pays 1 per step for knowing a bit that observed
events flip; a policy without memory earns 1 per episode, whatever its length.
"""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from ..agents import PPOConfig, ppo
from ..memories import Encoded, Features, Mamba, Residual
from ..memories.base import AbstractMemory
from ..reports.figures import PALETTE, STYLE, WIDTH, Picture
from ..reports.html import Section, write_page
from ..reports.tables import Table
from ..worlds.base import AbstractWorld
from ..worlds.parity import Parity
from .conclude import Evidence, Target, conclude

LENGTH, STATE_SIZE, CALLS = 32, 8, 10
SUCCEEDS, FAILS = 0.9, 0.5
"""mean reward per step of the best seed"""


def _agent(negative: bool, world: AbstractWorld, size: int, key) -> AbstractMemory:
    features = Features(world.observation_space, world.action_space, action=False)
    in_key, memory_key, block_key = jax.random.split(key, 3)
    layer = Mamba(size, STATE_SIZE, size, negative_eigenvalues=negative, key=memory_key)
    linear = eqx.nn.Linear(features.size, size, key=in_key)
    return Encoded(features, linear, Residual(layer, key=block_key))  # pyright: ignore[reportCallIssue]


def train(negative: bool, steps: int, seeds: int, seed: int, console: Console) -> dict:
    """Train all seeds; the record has the mean reward per step of the last tenth of training."""
    config = PPOConfig(actors=32, unroll=2 * LENGTH, minibatches=4, memory_size=32, trace=0.0, discount=0.0)
    world = Parity(length=LENGTH)
    chunk = max(1, round(steps / (config.actors * config.unroll) / CALLS))
    updates = chunk * CALLS
    keys = jax.random.split(jax.random.key(seed), seeds)
    state = ppo.seeds_init(config, world, partial(_agent, negative), updates, keys)
    run = ppo.compile_train(config, world, updates, chunk, state)
    began, curve = time.process_time(), []
    for call in range(CALLS):
        state, metrics = run(state)
        curve.append(np.asarray(metrics.reward).mean(axis=1))
        console.print(
            f"{'[-1,1]' if negative else '[0,1]'}: {call + 1} of {CALLS}, reward {curve[-1].mean():.3f}",
            highlight=False,
            markup=False,
        )
    return {
        "eigenvalues": "[-1, 1]" if negative else "[0, 1]",
        "seeds": seeds,
        "steps": updates * config.actors * config.unroll,
        "reward": curve[-1].tolist(),
        "curve": np.stack(curve, axis=1).tolist(),
        "cpu_seconds": time.process_time() - began,
    }


@mpl.rc_context(STYLE)
def figure_of(rows: Sequence[Mapping[str, Any]], memoryless: float) -> Picture:
    """Reward per step while learning, a line for each seed."""
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    axes = figure.subplots()
    words = []
    for row, colour in zip(rows, PALETTE, strict=False):
        at = np.linspace(0, row["steps"], CALLS + 1)[1:]
        for i, curve in enumerate(row["curve"]):
            axes.plot(at, curve, color=colour, label=None if i else f"eigenvalues in {row['eigenvalues']}")
        ends = ", ".join(f"{reward:.3f}" for reward in row["reward"])
        words.append(f"with eigenvalues in {row['eigenvalues']} the seeds end at {ends}")
    axes.axhline(memoryless, color="#666666", linestyle=":", label="best without memory")
    axes.set(xlabel="environment steps", ylabel="mean reward per step", ylim=(None, 1.02))
    axes.legend(frameon=False)
    return Picture(figure, f"Reward per step on the parity world: {'; '.join(words)}.")


def main(
    steps: int = 200_000,
    seeds: int = 2,
    seed: int = 0,
    out: Path = Path("runs/parity-rl"),
    json: Path | None = None,
) -> int:
    """Train PPO agents with Mamba's eigenvalues in [0, 1] and in [-1, 1] on the parity world.

    Theory says that only the second can track the hidden bit; exits 1 if that is not what happens. Writes
    ``parity.html``, with the learning curves.

    Args:
        steps: environment steps of each agent.
        seeds: agents per memory, trained side by side.
        seed: from which all random numbers follow.
        out: folder of the page.
        json: also write rows and targets to this file.
    """
    console = Console()
    rows = [train(negative, steps, seeds, seed, console) for negative in (False, True)]
    table = Table(
        ["eigenvalues", "reward per step (median / best)", "steps", "CPU s"],
        [
            [
                r["eigenvalues"],
                f"{np.median(r['reward']):.3f} / {max(r['reward']):.3f}",
                r["steps"],
                f"{r['cpu_seconds']:.0f}",
            ]
            for r in rows
        ],
    )
    without, with_negative = (max(r["reward"]) for r in rows)
    targets = [
        Target("[0, 1] fails", without <= FAILS, f"best {without:.3f}", f"no seed > {FAILS}"),
        Target("[-1, 1] succeeds", with_negative >= SUCCEEDS, f"best {with_negative:.3f}", f">= {SUCCEEDS}"),
    ]
    world = Parity(length=LENGTH)
    remarks = [
        f"Reward per step of the last tenth of training; perfect memory earns {world.best:.0f}, the best "
        f"policy without memory {world.best_memoryless:.3f}. A report changes nothing, so no reward is "
        "credited to earlier reports (discount 0)."
    ]
    code = conclude(Evidence("parity-rl", rows, table, targets, remarks), json)
    picture = figure_of(rows, world.best_memoryless)
    sections = [Section("State tracking inside a reinforcement learner", remarks[0], table, *picture)]
    out.mkdir(parents=True, exist_ok=True)
    page = write_page(out / "parity.html", "Counting modulo two by PPO", sections)
    console.print(f"page: {page}", soft_wrap=True, highlight=False)
    return code

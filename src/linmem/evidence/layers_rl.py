"""Do the selective and matrix-valued layers learn by reinforcement? PPO on RingWorld with each of them.

All agents are of one small size and trained alike, 200,000 steps of 4 seeds; they differ in their memory
only. A layer trains if every one of its agents ends above all agents without memory. The exact belief stands
beside them as what could be reached. Every row is a memory in one run folder, trained and resumed as
`linmem run` does.

Actor and critic share nothing: discounted returns are about 10 here, and where the value's gradients shorten
the policy's steps, some layers do not get far in that time.
"""

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from ..experiments.config import RINGWORLD_PPO, RunConfig
from ..experiments.store import Folder
from ..experiments.watch import watch
from ..measures.statistics import bootstrap_mean
from ..reports.html import Section, report_sections, write_page
from ..reports.records import Run, per_seed, read_run
from ..reports.tables import Table
from .conclude import Evidence, Target, conclude

REFERENCES = ("belief", "none")
LAYERS = (
    "mamba",
    "mamba2",
    "gla",
    "mlstm",
    "rwkv7",
    "s7",
    "longhorn",
    "deltanet",
    "gated_deltanet",
    "deltaproduct",
    "sd_ssm",
    "slice_block",
    "slice_low_rank",
    "slice_sparse",
    "slice_hadamard",
    "fixed_point_rnn",
)


def config_of(steps: int, seeds: int, size: int) -> RunConfig:
    """One run of all rows."""
    ppo = replace(RINGWORLD_PPO, actors=32, unroll=64, minibatches=4, memory_size=size, separate_critic=True)
    return RunConfig(memory=REFERENCES + LAYERS, seeds=seeds, steps=steps, ppo=ppo)


def targets_of(run: Run) -> list[Target]:
    """A layer that is not finished has missed its target."""
    bar = per_seed(run.results["none"]["reward"]).max() if "none" in run.results else float("nan")
    targets = []
    for name in LAYERS:
        required = f"every seed > {bar:.3f}, the best without memory"
        if name in run.results:
            worst = per_seed(run.results[name]["reward"]).min()
            targets.append(Target(f"{name} trains", bool(worst > bar), f"worst seed {worst:.3f}", required))
        else:
            targets.append(Target(f"{name} trains", False, "not finished", required))
    return targets


def table_of(run: Run) -> Table:
    return Table(
        ["memory", "reward per step", "seeds", "at the beginning"],
        [
            [
                name,
                bootstrap_mean(rewards := per_seed(run.results[name]["reward"])),
                ", ".join(f"{r:.3f}" for r in rewards),
                f"{per_seed(run.updates[name][0]['reward']).mean():.3f}",
            ]
            for name in REFERENCES + LAYERS
            if name in run.results
        ],
    )


def main(
    rows: tuple[str, ...] = (),
    steps: int = 200_000,
    seeds: int = 4,
    size: int = 16,
    out: Path = Path("runs"),
    json: Path | None = None,
) -> int:
    """Train PPO on RingWorld with each selective, matrix-valued and state-tracking layer; each must learn.

    Ctrl-C keeps what was done, and the same command goes on from there. Writes ``layers.html``.

    Args:
        rows: the memories to train now, in this order; by default all. The report shows all finished.
        steps: environment steps of each agent.
        seeds: agents per memory, trained side by side.
        size: width of memories and heads.
        out: where the run folder is made.
        json: also write rows and targets to this file.
    """
    config = config_of(steps, seeds, size)
    if unknown := set(rows) - set(config.memory):
        raise ValueError(f"unknown row '{min(unknown)}'; known: {', '.join(config.memory)}")
    folder = Folder.create(out, config, command="linmem reproduce layers-rl")
    todo = tuple(name for name in rows or config.memory if name not in folder.finished())
    if todo and not watch(replace(config, memory=todo), folder):
        return 130
    run = read_run(folder.path)
    found = [
        {"memory": name, "reward": per_seed(run.results[name]["reward"]).tolist()} for name in run.results
    ]
    remarks = [
        f"{steps:,} steps of {seeds} seeds, width {size}; rewards are those of the trained agents, who act "
        "as they learned to (at random, with the policy's probabilities)."
    ]
    evidence = Evidence("layers-rl", found, table_of(run), targets_of(run), remarks)
    code = conclude(evidence, json)
    sections = [
        Section("Each layer by PPO on RingWorld", "\n\n".join(remarks), evidence.table),
        *report_sections(run),
    ]
    page = write_page(folder.path / "layers.html", "RingWorld: selective and matrix-valued layers", sections)
    Console().print(f"page: {page}", soft_wrap=True, highlight=False)
    return code

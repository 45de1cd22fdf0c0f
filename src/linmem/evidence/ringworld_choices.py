"""Which of the choices that the paper leaves open on RingWorld move its ordering of policy inputs?

Sweeps with a small budget: what is done to the exact filter's raw logits before the policy sees them, the
same with a step size a tenth as large, the forgetting rate of ALF, and the world (episode length, slip law,
sharpness and angles of the beacons). A table of its own trains nothing: it says what an untrained policy is
given by each form of the logits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from ..agents.policy import ActorCritic
from ..agents.rollout import begin, collect
from ..experiments.config import RunConfig
from ..experiments.store import Folder
from ..experiments.watch import watch
from ..measures.statistics import bootstrap_mean, difference
from ..memories import MEMORIES
from ..memories.base import unroll_batch
from ..memories.readouts import READOUTS
from ..reports.records import Run, per_seed, read_run
from ..reports.tables import Table, to_rich
from ..worlds import WORLDS
from .conclude import Evidence, Target, conclude

WORLD = "ringworld"
CHOICES = {
    "as chosen": "",
    "episodes of 25 steps": "@episode_length=25",
    "episodes of 400 steps": "@episode_length=400",
    "slip: another action's move": "@slip=other",
    "slip: to anywhere": "@slip=uniform",
    "beacons dim (0.4)": "@sharpness=0.4",
    "beacons bright (1.5)": "@sharpness=1.5",
    "beacons on one side": "@beacon_angles=0,40,80,120",
}
INPUTS = ("belief", "alf", "deep_alf_random", "s5@hidden=12", "lof")
DELTAS = tuple(f"alf@delta={delta}" for delta in (0.03, 0.05, 0.07, 0.1, 0.15, 0.2))
RAW, SHIFTED, BELIEF = "lof", "lof@readout=shifted", "lof@readout=softmax"
FORMS = (RAW, *(f"lof@readout={name}" for name in READOUTS if name != "logits"))

Part = Literal["logits", "slow", "delta", "worlds"]
Rewards = Mapping[str, np.ndarray]
"""Per policy input, the final reward of each seed."""


def configs(part: Part) -> dict[str, RunConfig]:
    """The runs of a part, by the name of the world's choice."""
    if part == "worlds":
        return {name: _config(WORLD + options, INPUTS) for name, options in CHOICES.items()}
    if part == "slow":
        config = _config(WORLD, (BELIEF, SHIFTED, RAW))
        return {"as chosen": replace(config, ppo=replace(config.ppo, step_size=3e-4, anneal=False))}
    return {"as chosen": _config(WORLD, FORMS if part == "logits" else DELTAS)}


def _config(world: str, memory: Sequence[str]) -> RunConfig:
    return RunConfig(
        world=world, memory=tuple(memory), steps=200_000, evaluation_actors=32, evaluation_steps=300
    )


# --- what an untrained policy is given ----------------------------------------------------------------------


def given(forms: Sequence[str] = FORMS, copies: int = 128, width: int = 64) -> list[dict[str, Any]]:
    """For each form of the logits, along one set of episodes of an untrained policy on RingWorld:

    offset:    the mean over states after 1, 10, 50 and 100 observations
    spread:    the standard deviation over states after 100: what tells the states apart
    one_way:   share of the features' variance that lies in one direction
    saturated: share of an untrained actor's hidden units with |tanh| > 0.99 after 100
    passed:    mean slope 1 - tanh^2 of these units: the share of a gradient that comes through
    """
    world, keys = WORLDS[WORLD].make(), jax.random.split(jax.random.key(0), 3)
    slots, rows = None, []
    for form in forms:
        policy = ActorCritic(
            MEMORIES[form].make(world, width, keys[0]), world.action_space, width, key=keys[0]
        )
        if slots is None:
            actors = jax.vmap(begin, in_axes=(None, None, 0))(
                policy, world, jax.random.split(keys[1], copies)
            )
            slots = jax.jit(collect, static_argnums=4)(policy, world, actors, keys[2], 100)[1]
        features = unroll_batch(policy.memory, slots.inputs, slots.start)[1]
        hidden = jnp.tanh(jax.vmap(policy.actor.hidden)(features[-1]))
        variances = np.linalg.eigvalsh(np.cov(np.asarray(features).reshape(-1, features.shape[-1]).T))
        rows.append(
            {
                "part": "given",
                "input": form,
                "offset": [float(features[t].mean()) for t in (0, 9, 49, 99)],
                "spread": float(features[-1].std(axis=-1).mean()),
                "one_way": float(variances[-1] / variances.sum()),
                "saturated": float((jnp.abs(hidden) > 0.99).mean()),
                "passed": float((1 - hidden**2).mean()),
            }
        )
    return rows


def _given_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    return Table(
        [
            "input",
            "offset after 1, 10, 50, 100",
            "spread after 100",
            "in one direction",
            "saturated units",
            "gradient passed",
        ],
        [
            [
                row["input"],
                " ".join(f"{offset:.1f}" for offset in row["offset"]),
                row["spread"],
                f"{row['one_way']:.1%}",
                f"{row['saturated']:.0%}",
                f"{row['passed']:.1%}",
            ]
            for row in rows
        ],
    )


# --- training -----------------------------------------------------------------------------------------------


def rewards_of(run: Run) -> Rewards:
    return {memory: per_seed(result["reward"]) for memory, result in run.results.items()}


def early_of(run: Run, share: float = 0.25) -> Rewards:
    """Reward of each seed while training, around ``share`` of the updates."""
    found = {}
    for memory, updates in run.updates.items():
        middle = round(share * len(updates))
        found[memory] = np.mean(
            [per_seed(u["reward"]) for u in updates[max(middle - 1, 0) : middle + 1]], axis=0
        )
    return found


def swapped(base: Rewards, other: Rewards) -> list[tuple[str, str]]:
    """Pairs of inputs that are told apart one way round in ``base`` and the other way round in ``other``."""
    names = [name for name in base if name in other]
    return [
        (a, b)
        for a in names
        for b in names
        if difference(base[a], base[b]).low > 0 and difference(other[a], other[b]).high < 0
    ]


def _rows(part: Part, runs: Mapping[str, Run]) -> list[dict[str, Any]]:
    return [
        {
            "part": part,
            "world": name,
            "input": memory,
            "reward": rewards.tolist(),
            "early": early_of(run)[memory].tolist(),
        }
        for name, run in runs.items()
        for memory, rewards in rewards_of(run).items()
    ]


def _long_table(run: Run) -> Table:
    early = early_of(run)
    rows = [[name, bootstrap_mean(early[name]), bootstrap_mean(r)] for name, r in rewards_of(run).items()]
    return Table(["input", "reward at a quarter of training", "reward at the end"], rows)


def _worlds_table(runs: Mapping[str, Run]) -> Table:
    rows, base = [], rewards_of(next(iter(runs.values())))
    for name, run in runs.items():
        rewards = rewards_of(run)
        means = {memory: bootstrap_mean(r) for memory, r in rewards.items()}
        swaps = "; ".join(f"{b} over {a}" for a, b in swapped(base, rewards))
        rows.append([name, *(means.get(memory) for memory in INPUTS), swaps or "none"])
    return Table(["choice", *INPUTS, "order swapped"], rows)


def targets_of(rows: Sequence[Mapping[str, Any]], runs: Mapping[Part, Mapping[str, Run]]) -> list[Target]:
    """Why raw logits are slow and that a shift cures it; that the ordering's ends stay in every world."""
    targets = []
    raw = next((row for row in rows if row["part"] == "given" and row["input"] == RAW), None)
    if raw is not None:
        measured = f"{raw['offset'][-1]:.0f} against {raw['spread']:.1f}, {raw['saturated']:.0%} of units"
        holds = abs(raw["offset"][-1]) > 10 * raw["spread"] and raw["saturated"] > 0.5
        required = "over 10 times, over half of the hidden units saturated"
        targets.append(Target("raw logits are mostly an offset after 100 steps", holds, measured, required))
    paces: dict[Part, str] = {"logits": "", "slow": ", step size 3e-4"}
    for part, pace in paces.items():
        if part not in runs:
            continue
        run = runs[part]["as chosen"]
        for when, rewards in (("at a quarter of training", early_of(run)), ("at the end", rewards_of(run))):
            for better, claim in ((SHIFTED, "a shift by the largest"), (BELIEF, "the softmax")):
                if better in rewards and RAW in rewards:
                    gain = difference(rewards[better], rewards[RAW])
                    targets.append(
                        Target(
                            f"{claim} earns more than raw logits {when}{pace}",
                            gain.low > 0,
                            f"by {gain.mean:.3f} [{gain.low:.3f}, {gain.high:.3f}]",
                            "interval above 0",
                        )
                    )
    for name, run in runs.get("worlds", {}).items():
        rewards = rewards_of(run)
        if not rewards.keys() >= set(INPUTS):
            continue
        gains = {memory: difference(rewards[memory], rewards["belief"]) for memory in INPUTS[1:]}
        best = max(gains, key=lambda memory: gains[memory].low)
        targets.append(
            Target(
                f"nothing earns more than the exact belief ({name})",
                gains[best].low <= 0,
                f"{best} by {gains[best].mean:+.3f} [{gains[best].low:+.3f}, {gains[best].high:+.3f}]",
                "no interval above 0",
            )
        )
    return targets


def main(
    parts: tuple[Part, ...] = ("logits", "slow", "delta", "worlds"),
    out: Path = Path("runs"),
    json: Path | None = None,
) -> int:
    """Try the choices that the paper leaves open on RingWorld, with a small budget.

    4 seeds of 200,000 steps per row. Ctrl-C keeps what was done; the same command goes on from there.

    Args:
        parts: what to sweep: forms of the raw logits, these with a small step size, ALF's forgetting rate,
            the world itself.
        out: where run folders are made.
        json: also write rows and targets to this file.
    """
    console, runs, tables = Console(), {}, {}
    rows: list[dict[str, Any]] = given() if "logits" in parts else []
    if rows:
        tables["what an untrained policy is given"] = _given_table(rows)
    for part in parts:
        runs[part] = {}
        for name, config in configs(part).items():
            folder = Folder.create(out, config, command="linmem reproduce ringworld-choices")
            if not watch(config, folder):
                return 130
            runs[part][name] = read_run(folder.path)
        rows += _rows(part, runs[part])
        tables[part] = _worlds_table(runs[part]) if part == "worlds" else _long_table(runs[part]["as chosen"])
    *others, last = tables.items()
    for title, table in others:
        console.print(title, to_rich(table), sep="\n")
    console.print(last[0])
    remarks = (
        "Brackets: 95% bootstrap intervals over 4 seeds. Order swapped: pairs that Welch's 95% intervals "
        "tell apart one way round in the world as chosen and the other way round here.",
    )
    return conclude(Evidence("ringworld choices", rows, last[1], targets_of(rows, runs), remarks), json)

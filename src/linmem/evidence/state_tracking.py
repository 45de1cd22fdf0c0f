"""State tracking: which layers keep the state of an automaton beyond the lengths they were trained on?

Every row is one layer on one task: a model of width WIDTH with 1 or 2 blocks, trained on sequences of length
TRAIN with the label of every prefix (so on all lengths up to TRAIN at once), until it names all labels of a
fresh batch of that length rightly, or until the row's steps are used up. Nothing else stops or tunes it.
It is tested once, on sequences of length LONG; the accuracy at each position is that of a test at this
length. Scaled accuracy is (accuracy - chance) / (1 - chance), so that guessing is 0.

Sources of the expectations: R. Grazzi et al. 2024, arXiv:2411.12537 (eigenvalues in [0, 1] cannot count
modulo 2, real ones cannot modulo 3); J. Siems et al. 2025, arXiv:2502.10297 (products of Householders);
B. Walker et al. 2025, arXiv:2505.17761 (structured transitions); A. Terzic et al. 2024, arXiv:2412.19350
(dense dictionary); S. Movahedi et al. 2025, arXiv:2503.10799 (fixed points).
"""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PRNGKeyArray
from rich.console import Console

from ..memories.base import AbstractMemory
from ..memories.deltanet import DeltaNet
from ..memories.deltaproduct import DeltaProduct
from ..memories.fixed_point_rnn import FixedPointRNN
from ..memories.gated_deltanet import GatedDeltaNet
from ..memories.gla import GLA
from ..memories.longhorn import Longhorn
from ..memories.mamba import Mamba
from ..memories.mamba2 import Mamba2
from ..memories.mlstm import MLSTM
from ..memories.s5 import S5
from ..memories.sd_ssm import SDSSM
from ..memories.slice import (
    BlockSLiCE,
    ComplexSLiCE,
    DiagonalSLiCE,
    HadamardSLiCE,
    LowRankSLiCE,
    SparseSLiCE,
)
from ..reports.tables import Table
from ..tasks import TASKS, AbstractTask, random_automaton, word_problem
from ..tasks.groups import alternating
from ..tasks.train import (
    Fit,
    Layer,
    SequenceModel,
    TaskBatches,
    accuracy,
    advance,
    cross_entropy,
    init,
)
from .conclude import Evidence, Target, conclude
from .rows import kept

WIDTH, BATCH, TRAIN, LONG, TEST_BATCH = 32, 64, 40, 512, 128
HEADS = 2
"""of matrix memories; states of 16 x 16"""
CHUNK = 125
"""steps between two looks at the training accuracy"""
SOLVED, FAILED = 0.95, 0.6
"""A layer solves a task if its best seed has at least this scaled accuracy, and fails if none has more than
that."""

FIVE_CYCLE, THREE_CYCLE = (1, 2, 3, 4, 0), (1, 2, 0, 3, 4)


def a5_generators() -> AbstractTask:
    """A_5 read as words in two generators (all 60 elements as tokens take much longer to learn)."""
    return word_problem(alternating(5), (FIVE_CYCLE, THREE_CYCLE))


TASK_MAKERS: dict[str, Callable[[], AbstractTask]] = {
    "parity": TASKS["parity"].make,
    "cycle navigation": TASKS["cycle_navigation"].make,
    "even pairs": TASKS["even_pairs"].make,
    "modular arithmetic": TASKS["modular_arithmetic"].make,
    "Z_3": TASKS["word_z3"].make,
    "S_3": TASKS["word_s3"].make,
    "A_5": a5_generators,
    "random automaton": lambda: random_automaton(0, states=6, tokens=3),
    "commutative automaton": lambda: random_automaton(0, states=6, tokens=3, commutative=True),
}


def _delta(kind: Callable[..., AbstractMemory], **options) -> Layer:
    """A layer with the delta rule, with states of 8 x 8 and without its convolution: with one, a key depends
    on the three tokens before as well, and in these few steps such layers learned neither Z_3 nor S_3."""
    return lambda size, key: kind(size, heads=4, width=1, key=key, **options)


FORGET = (0.0, 3.0)
"""Between which biases mLSTM's forget gates begin, in both ranges. From its paper's 3 to 6 all eigenvalues
begin near 1, and none of five seeds found -1 once sums had another order."""

LAYERS: dict[str, Layer] = {
    "S5": lambda size, key: S5(size, size, key=key),
    "Mamba [0,1]": lambda size, key: Mamba(size, 8, size, key=key),
    "Mamba [-1,1]": lambda size, key: Mamba(size, 8, size, negative_eigenvalues=True, key=key),
    "Mamba-2 [0,1]": lambda size, key: Mamba2(size, HEADS, key=key),
    "Mamba-2 [-1,1]": lambda size, key: Mamba2(size, HEADS, negative_eigenvalues=True, key=key),
    "GLA [0,1]": lambda size, key: GLA(size, HEADS, key=key),
    "GLA [-1,1]": lambda size, key: GLA(size, HEADS, negative_eigenvalues=True, key=key),
    "Longhorn": lambda size, key: Longhorn(size, 8, size, key=key),
    "mLSTM [0,1]": lambda size, key: MLSTM(size, forget_bias=FORGET, key=key),
    "mLSTM [-1,1]": lambda size, key: MLSTM(size, negative_eigenvalues=True, forget_bias=FORGET, key=key),
    "DeltaNet [0,1]": _delta(DeltaNet),
    "DeltaNet [-1,1]": _delta(DeltaNet, negative_eigenvalues=True),
    "Gated DeltaNet [0,1]": _delta(GatedDeltaNet),
    "Gated DeltaNet [-1,1]": _delta(GatedDeltaNet, negative_eigenvalues=True),
    "DeltaProduct 2 [0,1]": _delta(DeltaProduct, householders=2, negative_eigenvalues=False),
    "DeltaProduct 2 [-1,1]": _delta(DeltaProduct, householders=2),
    "DeltaProduct 4 [-1,1]": _delta(DeltaProduct, householders=4),
    "SLiCE diagonal": lambda size, key: DiagonalSLiCE(size, size, key=key),
    "SLiCE complex": lambda size, key: ComplexSLiCE(size, size, key=key),
    "SLiCE blocks of 4": lambda size, key: BlockSLiCE(size, size, 4, key=key),
    "SLiCE low rank": lambda size, key: LowRankSLiCE(size, size, 4, key=key),
    "SLiCE sparse": lambda size, key: SparseSLiCE(size, size, 4, key=key),
    "SLiCE Walsh-Hadamard": lambda size, key: HadamardSLiCE(size, size, key=key),
    "SD-SSM": lambda size, key: SDSSM(size, 64, 6, key=key),  # its authors' sizes
    "Fixed-point RNN, 1": lambda size, key: FixedPointRNN(size, size, 1, 4, key=key),
    "Fixed-point RNN, 4": lambda size, key: FixedPointRNN(size, size, 4, 4, key=key),
    "Fixed-point RNN, 8": lambda size, key: FixedPointRNN(size, size, 8, 4, key=key),
}


ALONE = ("SD-SSM",)
"""Layers without a residual block about them, because their authors read the state by a norm and a linear map
only. All others stand in the block of the state-space papers."""

ITERATIONS = ("Fixed-point RNN, 1", "Fixed-point RNN, 4", "Fixed-point RNN, 8")


@dataclass(frozen=True)
class Row:
    """One layer on one task, and what the theory says of it: True solves, False fails, None nothing."""

    task: str
    layer: str
    depth: int
    solves: bool | None
    steps: int = 1000
    step_size: float = 3e-3
    train: int = TRAIN
    anneal: bool = False
    """whether the step size falls to 0 over the steps"""

    @property
    def name(self) -> str:
        return f"{self.layer}, {self.depth} layer{'s' * (self.depth > 1)}, on {self.task}"


# A row that should fail has at least the steps that its solving twin needed, and its step size. GLA
# and mLSTM have one of their own, because with 3e-3 no seed learned the trained lengths.
ROWS: list[Row] = [
    Row("parity", "Mamba [-1,1]", 1, True),
    Row("parity", "Mamba [0,1]", 1, False, steps=500),
    Row("parity", "DeltaNet [-1,1]", 1, True),
    Row("parity", "DeltaNet [0,1]", 1, False),
    Row("parity", "mLSTM [-1,1]", 1, True, step_size=5e-3),
    Row("parity", "mLSTM [0,1]", 1, False, step_size=5e-3),
    Row("Z_3", "SLiCE blocks of 4", 1, True),
    Row("Z_3", "SLiCE complex", 1, True),
    Row("Z_3", "DeltaProduct 2 [-1,1]", 1, True),
    Row("Z_3", "Mamba [-1,1]", 1, False),
    Row("Z_3", "SLiCE diagonal", 1, False),
    Row("Z_3", "DeltaNet [-1,1]", 1, False, steps=4000, anneal=True),
    Row("Z_3", "DeltaNet [-1,1]", 2, True, steps=4000, anneal=True),
    Row("S_3", "SLiCE blocks of 4", 1, True),
    Row("S_3", "DeltaProduct 2 [-1,1]", 1, True, steps=2000),
    Row("S_3", "DeltaNet [-1,1]", 1, False, steps=2000),
    Row("S_3", "DeltaProduct 2 [0,1]", 1, False, steps=2000),
    Row("A_5", "SLiCE blocks of 4", 1, True, steps=2000),
    Row("A_5", "DeltaProduct 4 [-1,1]", 1, True, steps=2000),
    Row("A_5", "Mamba [-1,1]", 1, False, steps=2000),
    Row("random automaton", "SD-SSM", 1, True),
    Row("commutative automaton", "SD-SSM", 1, True),
    Row("random automaton", "Mamba [-1,1]", 1, False),
    Row("parity", "Mamba-2 [-1,1]", 1, True),
    Row("parity", "Mamba-2 [0,1]", 1, False),
    Row("parity", "GLA [-1,1]", 1, True, step_size=1e-2),
    Row("parity", "GLA [0,1]", 1, False, step_size=1e-2),
    Row("parity", "Gated DeltaNet [-1,1]", 1, True),
    Row("parity", "Gated DeltaNet [0,1]", 1, False),
    Row("parity", "Longhorn", 1, False),
    Row("cycle navigation", "SLiCE blocks of 4", 1, True),
    Row("A_5", "Fixed-point RNN, 1", 1, False, steps=500, train=16),
    Row("A_5", "Fixed-point RNN, 4", 1, None, steps=500, train=16),
    Row("A_5", "Fixed-point RNN, 8", 1, None, steps=500, train=16),
    Row("A_5", "SLiCE low rank", 1, None, steps=2000),
    Row("A_5", "SLiCE sparse", 1, None, steps=2000),
    Row("A_5", "SLiCE Walsh-Hadamard", 1, None, steps=2000),
    Row("parity", "SLiCE diagonal", 1, None, steps=500),
    Row("parity", "S5", 1, None, steps=500),
]


# percent right at test lengths 40 to 256 of models with 2 layers and width 128; arXiv:2505.17761, table of
# regular languages, and for complex diagonals arXiv:2509.22284
_PUBLISHED_TASKS = ("cycle navigation", "even pairs", "modular arithmetic", "parity")
_PERCENT = {
    "Mamba [0,1]": (48.4, 100.0, 33.1, 54.2),
    "mLSTM [0,1]": (52.4, 99.9, 28.8, 53.0),
    "DeltaNet [0,1]": (49.8, 100.0, 42.2, 57.8),
    "DeltaNet [-1,1]": (46.7, 100.0, 66.4, 97.7),
    "SLiCE diagonal": (69.5, 100.0, 20.9, 100.0),
    "SLiCE Walsh-Hadamard": (69.7, 93.1, 23.8, 71.4),
    "SLiCE blocks of 4": (99.8, 85.9, 54.0, 95.3),
    "SLiCE low rank": (81.1, 100.0, 68.3, 91.0),
    "SLiCE complex": (90.4, 82.4, 59.9, 61.8),
}
_CHANCE = (20.0, 50.0, 20.0, 50.0)
PUBLISHED: Mapping[tuple[str, str], float] = {
    (task, layer): (percent - chance) / (100 - chance)
    for layer, row in _PERCENT.items()
    for task, percent, chance in zip(_PUBLISHED_TASKS, row, _CHANCE, strict=True)
} | {  # scaled already, length 256; arXiv:2411.12537
    ("parity", "Mamba [0,1]"): 0.0,
    ("parity", "Mamba [-1,1]"): 1.0,
    ("parity", "DeltaNet [0,1]"): 0.0,
    ("parity", "DeltaNet [-1,1]"): 1.0,
}
"""Scaled accuracy by (task, layer)."""

ROWS += [
    Row(task, layer, 1, None)
    for task in _PUBLISHED_TASKS
    for layer in _PERCENT
    if not any((row.task, row.layer) == (task, layer) for row in ROWS)
]


# --- one row ------------------------------------------------------------------------------------------------


@eqx.filter_jit
def _learn(fit: Fit, draw: TaskBatches, state, keys, steps: int):
    run = functools.partial(advance, fit, cross_entropy, draw, steps=steps)
    return eqx.filter_vmap(run)(state, keys)


@eqx.filter_jit
def _score(model, draw: TaskBatches, key):
    """(right, scored), each (seeds, T)."""
    return eqx.filter_vmap(lambda m: accuracy(m, draw(key)))(model)


def model_of(row: Row, task: AbstractTask, key: PRNGKeyArray) -> SequenceModel:
    """The row's model before training."""
    sizes, residual = (task.n_tokens, task.n_targets, WIDTH), row.layer not in ALONE
    layer = LAYERS[row.layer]
    return SequenceModel.make(eqx.nn.Embedding, *sizes, layer, row.depth, key=key, residual=residual)


def train_and_test(row: Row, seeds: int, seed: int) -> dict:
    """Train all seeds side by side and test them: the row's record."""
    began = time.process_time()
    task = TASK_MAKERS[row.task]()
    fit = Fit(step_size=row.step_size, anneal=row.anneal * row.steps)
    make_key, learn_key, look_key, test_key = jax.random.split(jax.random.key(seed), 4)

    @eqx.filter_vmap
    def make(key):
        return init(fit, model_of(row, task, key))

    state = make(jax.random.split(make_key, seeds))
    draw = TaskBatches(task, BATCH, row.train)
    done, losses = 0, np.full(seeds, np.nan)
    while done < row.steps:
        keys = jax.random.split(jax.random.fold_in(learn_key, done), seeds)
        state, loss = _learn(fit, draw, state, keys, CHUNK)
        done, losses = done + CHUNK, np.asarray(loss)[:, -10:].mean(axis=1)
        right, scored = _score(state.model, draw, jax.random.fold_in(look_key, done))
        if (np.asarray(right) == np.asarray(scored)).all():
            break
    right, scored = map(np.asarray, _score(state.model, TaskBatches(task, TEST_BATCH, LONG), test_key))
    chance = 1 / task.n_targets
    # some tasks ask for nothing at some lengths (arithmetic after an operator)
    by_length = (np.where(scored > 0, right / np.maximum(scored, 1), np.nan) - chance) / (1 - chance)
    return dataclasses.asdict(row) | {
        "seeds": seeds,
        "steps_used": done,
        "loss": losses.tolist(),
        "trained": np.nanmean(by_length[:, : row.train], axis=1).tolist(),
        "to_256": np.nanmean(by_length[:, row.train : 256], axis=1).tolist(),
        "to_512": np.nanmean(by_length[:, 256:], axis=1).tolist(),
        "cpu_seconds": time.process_time() - began,
    }


# --- all rows -----------------------------------------------------------------------------------------------


def run_rows(rows: Sequence[Row], folder: Path, seeds: int, seed: int, seconds: float) -> Iterator[dict]:
    """The records of rows, those already in ``folder`` first; no row begins after ``seconds``."""
    began = time.monotonic()
    for row in rows:
        settings = dataclasses.asdict(row) | {"seeds": seeds, "seed": seed}
        in_time = time.monotonic() - began <= seconds
        make = functools.partial(train_and_test, row, seeds, seed) if in_time else None
        record = kept(folder, settings, make)
        if record is not None:
            yield record


def targets_of(rows: Sequence[Row], records: Sequence[dict]) -> list[Target]:
    """One target for each row of which the theory says something."""
    found = {(r["task"], r["layer"], r["depth"], r["steps"], r["train"]): r for r in records}
    targets = []
    for row in rows:
        if row.solves is None:
            continue
        record = found.get((row.task, row.layer, row.depth, row.steps, row.train))
        required = f"best seed >= {SOLVED}" if row.solves else f"no seed > {FAILED}"
        if record is None:
            targets.append(Target(row.name, False, "not run within the time budget", required))
            continue
        best = max(record["to_256"])
        # a model that diverged solves nothing, which shows nothing
        sound = bool(np.isfinite(np.asarray(record["loss"], float)).all())
        holds = best >= SOLVED if row.solves else sound and best <= FAILED
        verb = "solves" if row.solves else "does not solve"
        measured = f"best {best:.3f}, median {np.median(record['to_256']):.3f}" + ", diverged" * (not sound)
        targets.append(
            Target(f"{row.layer} ({row.depth}) {verb} {row.task}", bool(holds), measured, required)
        )
    return targets


def iterations_target(records: Sequence[dict]) -> Target:
    """More fixed-point iterations name more of the trained lengths (all are trained for as many steps)."""
    found = {r["layer"]: float(np.median(r["trained"])) for r in records if r["layer"] in ITERATIONS}
    values = [found[layer] for layer in ITERATIONS if layer in found]
    holds = len(values) == len(ITERATIONS) and all(a < b for a, b in itertools.pairwise(values))
    measured = ", ".join(f"{layer}: {found[layer]:.3f}" for layer in ITERATIONS if layer in found)
    return Target(
        "fixed-point RNN: median at trained lengths rises with iterations",
        holds,
        measured or "not run within the time budget",
        f"rising over {', '.join(ITERATIONS)}",
    )


def table_of(records: Sequence[dict]) -> Table:
    rows = []
    for r in records:
        published = PUBLISHED.get((r["task"], r["layer"]))
        cells = [f"{np.median(r[k]):.3f} / {max(r[k]):.3f}" for k in ("trained", "to_256", "to_512")]
        rows.append(
            [
                r["task"],
                r["layer"],
                r["depth"],
                *cells,
                "-" if published is None else f"{published:.3f}",
                f"{r['steps_used']} of {r['steps']}",
                f"{r['cpu_seconds']:.0f}",
            ]
        )
    headings = [
        "task",
        "layer",
        "layers",
        "trained lengths",
        "to 256",
        "257 to 512",
        "published",
        "steps",
        "CPU s",
    ]
    return Table(headings, rows)


def main(
    seeds: int = 5,
    seed: int = 0,
    seconds: float = 9000.0,
    only: str = "",
    out: Path = Path("runs/state-tracking"),
    json: Path | None = None,
) -> int:
    """Train layers to track automata at length 40 and test them to length 512.

    Prints scaled accuracy (0 is guessing, 1 is perfect) as median / best of seeds, beside published
    figures, and whether each layer solves what theory says it can and fails at what it cannot; exits 1 if
    not. Finished rows are kept in a folder, and the same command goes on from there.

    Args:
        seeds: models trained side by side for each row.
        seed: from which all random numbers follow.
        seconds: no row begins after this time; rows left out count as missed.
        only: run rows whose name contains this text.
        out: folder of the finished rows.
        json: also write rows and targets to this file.
    """
    rows = [row for row in ROWS if only in row.name]
    if not rows:
        raise ValueError(f"no row contains '{only}'; rows: {'; '.join(row.name for row in ROWS)}")
    console, records = Console(), []
    for record in run_rows(rows, out, seeds, seed, seconds):
        records.append(record)
        best = max(record["to_256"])
        console.print(
            f"{record['task']}: {record['layer']} x{record['depth']} best {best:.3f} to length 256 "
            f"after {record['steps_used']} steps, {record['cpu_seconds']:.0f} CPU seconds",
            highlight=False,
        )
    left_out = len(rows) - len(records)
    remarks = [
        f"{left_out} of {len(rows)} rows were left out for want of time."
        if left_out
        else "All rows were run.",
        f"Width {WIDTH}, batch {BATCH}, {seeds} seeds; trained at length {TRAIN} with every prefix "
        f"labelled, tested on {TEST_BATCH} sequences of length {LONG}. Cells: median / best of seeds, "
        "scaled accuracy averaged over the named lengths. Published: larger models, lengths 40 to 256.",
        f"CPU seconds in all: {sum(r['cpu_seconds'] for r in records):.0f}.",
    ]
    targets = targets_of(rows, records)
    if any(row.layer in ITERATIONS for row in rows):
        targets.append(iterations_target(records))
    return conclude(Evidence("state-tracking", records, table_of(records), targets, remarks), json)

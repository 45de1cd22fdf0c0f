"""Handwritten digits read pixel by pixel: every state space of the registry, beside a GRU and no memory.

    8 x 8 pixels, row by row: 64 steps of one number;   every pixel as 4 x 4: 1024 steps of the same picture

The label is asked for at the last step only, where the pixel is nearly always white, so what is right beyond
chance was remembered. One layer of width WIDTH between a linear encoder and a linear head, in a residual
block as the registry has it. The same learner, steps and seeds for all; no layer is tuned, and the test
pictures are looked at once, after training. Filters of `stu` and the window of `prophecy`, which end, are as
long as the sequence.

Data: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", 1998, UCI, as scikit-learn ships it
(1797 pictures of 10 digits).
"""

import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from rich.console import Console

from ..core.registry import UnknownName
from ..memories import MEMORIES, STU, HippoProphecy, NoMemory, learned_layers
from ..memories.stack import Layer
from ..reports.figures import PALETTE
from ..reports.tables import Table
from ..tasks.train import Batch, Fit, SequenceModel, accuracy, advance, cross_entropy, init
from .conclude import Evidence, Target, conclude
from .drawing import panels, save
from .rows import kept

STATE_SPACES = tuple(
    "s5 s5_ptd lru s4d s4 dss gss ffm ffm_geometric rtf space_time prophecy smr_s5 hiss lssl stu".split()
)
OTHERS = ("none", "gru")
WIDTH, BATCH, TRAIN, FACTOR = 64, 32, 1200, 4
SHORT, LONG = 64, 64 * FACTOR**2
STEPS = {SHORT: 600, LONG: 300}
"""Steps of learning at each length: 16 and 8 looks at every training picture."""
PIECES = 8
"""Training is timed in so many pieces; the median of all but the first counts."""
FIT = Fit()


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """(pixels (1797, 8, 8) in [0, 1], digits (1797,)), in an order that does not depend on the writer."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the digits come with scikit-learn, which is not installed: pip install 'linmem[data]'"
        ) from error
    found: Any = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    return found.images[order] / 16, found.target[order]


def sequences(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Pictures (n, 8, 8), each pixel repeated ``factor`` x ``factor`` times, row by row: (n, T, 1)."""
    larger = np.kron(pixels, np.ones((factor, factor)))
    return larger.reshape(len(pixels), -1, 1).astype(np.float32)


class Digits(eqx.Module):
    """Labelled sequences; a key draws a batch of them."""

    inputs: Float[Array, "n T 1"]
    labels: Int[Array, " n"]

    def __call__(self, key: PRNGKeyArray) -> Batch:
        return self.batch(jax.random.randint(key, (BATCH,), 0, len(self.labels)))

    def batch(self, which: Int[Array, " batch"]) -> Batch:
        labels, steps = self.labels[which], self.inputs.shape[1]
        targets = jnp.broadcast_to(labels[:, None], (len(which), steps))
        last = jnp.arange(steps) == steps - 1
        first = (jnp.arange(steps) == 0) & (targets >= 0)
        return Batch(self.inputs[which], targets, last & (targets >= 0), first)


def data(length: int) -> tuple[Digits, Digits]:
    """(training, test)."""
    pixels, labels = pictures()
    xs, ys = jnp.asarray(sequences(pixels, round((length / SHORT) ** 0.5))), jnp.asarray(labels)
    return Digits(xs[:TRAIN], ys[:TRAIN]), Digits(xs[TRAIN:], ys[TRAIN:])


def layer_of(name: str, length: int) -> tuple[Layer, bool]:
    """A memory's layer, and whether a residual block goes around it."""
    if name == "none":
        return lambda size, key: NoMemory(size), True
    if name == "stu":
        return lambda size, key: STU(size, 8, length, key=key), True
    if name == "prophecy":
        return lambda size, key: HippoProphecy(size, 16, length), True
    layers = learned_layers()
    if name not in layers:
        raise UnknownName(f"unknown layer '{name}'; known: none, {', '.join(layers)}")
    return layers[name], MEMORIES[name].make.residual


@eqx.filter_jit
def _learn(draw: Digits, state, keys, steps: int):
    run = functools.partial(advance, FIT, cross_entropy, draw, steps=steps)
    return eqx.filter_vmap(run)(state, keys)


@eqx.filter_jit
def _score(model, batch: Batch):
    """Right answers of each seed."""
    return eqx.filter_vmap(lambda one: jnp.sum(accuracy(one, batch)[0]))(model)


def train_and_test(name: str, length: int, steps: int, seeds: int, seed: int) -> dict[str, Any]:
    """One row: all seeds of one layer, trained side by side."""
    layer, residual = layer_of(name, length)
    train, test = data(length)
    make_key, learn_key = jax.random.split(jax.random.key(seed))

    def model(key):
        return SequenceModel.make(eqx.nn.Linear, 1, 10, WIDTH, layer, 1, key=key, residual=residual)

    state = eqx.filter_vmap(lambda key: init(FIT, model(key)))(jax.random.split(make_key, seeds))
    piece, seconds, loss = steps // PIECES, [], None
    for i in range(PIECES):
        keys = jax.random.split(jax.random.fold_in(learn_key, i), seeds)
        began = time.perf_counter()
        state, loss = jax.block_until_ready(_learn(train, state, keys, piece))
        seconds.append(time.perf_counter() - began)
    parts = np.array_split(np.arange(len(test.labels)), 3)
    right = np.sum([_score(state.model, test.batch(jnp.asarray(part))) for part in parts], axis=0)
    made = jax.eval_shape(model, jax.random.key(0))
    return {
        "layer": name,
        "length": length,
        "steps": piece * PIECES,
        "accuracy": (right / len(test.labels)).tolist(),
        "loss": np.asarray(loss)[:, -10:].mean(axis=1).tolist(),
        "parameters": _count(made.blocks),
        "all_parameters": _count(made),
        "tokens_per_second": seeds * piece * BATCH * length / float(np.median(seconds[1:])),
        "seconds": sum(seconds),
    }


def _count(tree) -> int:
    leaves = jax.tree.leaves(tree)
    return sum(leaf.size * (2 if leaf.dtype.kind == "c" else 1) for leaf in leaves if leaf.dtype.kind in "fc")


# --- results ------------------------------------------------------------------------------------------------

LEARNS, BLIND = 0.9, 0.2
"""What a memory reaches at least, and a model without one at most, at 64 steps."""


def targets_of(rows: Sequence[dict[str, Any]], lengths: Sequence[int] = (SHORT, LONG)) -> list[Target]:
    """Claims made before the first run: a state space reads a digit at 64 steps, and at 1024 steps the median
    state space stays ahead of a GRU."""
    mean = {(row["layer"], row["length"]): float(np.mean(row["accuracy"])) for row in rows}
    targets = []
    for name in (*STATE_SPACES, "gru") if SHORT in lengths else ():
        if (name, SHORT) in mean:
            value = mean[name, SHORT]
            targets.append(Target(f"{name}, {SHORT} steps", value >= LEARNS, f"{value:.3f}", f">= {LEARNS}"))
    for length in lengths:
        if ("none", length) in mean:
            value = mean["none", length]
            targets.append(Target(f"none, {length} steps", value <= BLIND, f"{value:.3f}", f"<= {BLIND}"))
    family = [mean[name, LONG] for name in STATE_SPACES if (name, LONG) in mean]
    if family and ("gru", LONG) in mean:
        middle, gru = float(np.median(family)), mean["gru", LONG]
        targets.append(
            Target(
                f"the median state space, {LONG} steps", middle >= gru, f"{middle:.3f}", f">= gru's {gru:.3f}"
            )
        )
    return targets


def table_of(rows: Sequence[dict[str, Any]]) -> Table:
    return Table(
        ["layer", "T", "test accuracy", "parameters", "trained tokens/s", "loss at the end"],
        [
            [
                row["layer"],
                row["length"],
                " ".join(f"{value:.3f}" for value in row["accuracy"]),
                f"{row['parameters']:,}",
                f"{row['tokens_per_second']:,.0f}",
                float(np.mean(row["loss"])),
            ]
            for row in rows
        ],
    )


def figure_of(rows: Sequence[dict[str, Any]]):
    """Accuracy of each seed, one panel for each length; state spaces in one colour, the others in another."""
    lengths = sorted({row["length"] for row in rows})
    figure, every = panels(len(lengths), 4.0)
    for axes, length in zip(every, lengths, strict=True):
        mine = [row for row in rows if row["length"] == length]
        mine.sort(key=lambda row: float(np.mean(row["accuracy"])))
        for place, row in enumerate(mine):
            colour = PALETTE[0] if row["layer"] in STATE_SPACES else PALETTE[1]
            axes.plot(row["accuracy"], [place] * len(row["accuracy"]), "o-", color=colour, markersize=4)
        axes.set(xlim=(0, 1.02), xlabel="test accuracy")
        axes.set_yticks(range(len(mine)), [row["layer"] for row in mine], fontsize=8)
        axes.set_title(f"{length} steps, each seed")
        axes.grid(color="#e5e5e5", linewidth=0.7)
    return figure


def main(
    layers: tuple[str, ...] = (*OTHERS, *STATE_SPACES),
    lengths: tuple[int, ...] = (SHORT,),
    seeds: int = 2,
    seed: int = 0,
    out: Path = Path("runs/digits"),
    json: Path | None = None,
) -> int:
    """Classify handwritten digits pixel by pixel with every state space, a GRU and no memory.

    Prints test accuracy of each seed, parameters and training speed, and writes a figure; exits 1 if a stated
    target is missed. Finished rows are kept, and the same command goes on from there. 64 steps take a
    quarter of an hour on 2 cores, 1024 steps some hours.

    Args:
        layers: memories by the names of `linmem list`, or none.
        lengths: 64, and 1024 for every pixel as 4 x 4.
        seeds: models of each layer, trained side by side.
        seed: from which all random numbers follow.
        out: folder of the finished rows and the figure `digits.svg`.
        json: also write rows and targets to this file.
    """
    if unknown := [length for length in lengths if length not in STEPS]:
        raise ValueError(f"length {unknown[0]} has no preset; lengths: {', '.join(map(str, STEPS))}")
    for name in layers:
        layer_of(name, SHORT)
    console, rows = Console(), []
    for length in lengths:
        for name in layers:
            settings = {"layer": name, "length": length, "steps": STEPS[length], "seeds": seeds, "seed": seed}
            row = kept(out, settings, functools.partial(train_and_test, *settings.values()))
            assert row is not None
            rows.append(row)
            console.print(
                f"{name}, {length} steps: {np.mean(row['accuracy']):.3f} in {row['seconds']:.0f} s",
                highlight=False,
            )
    path = save(figure_of(rows), out / "digits.svg")
    remarks = (
        f"{TRAIN} pictures to train on and 597 to test, once, at the end: a 95% interval is about 0.02 wide. "
        f"{seeds} seeds side by side, batches of {BATCH}, "
        + ", ".join(f"{STEPS[length]} steps at length {length}" for length in lengths)
        + ". Parameters are those of the layer and its block; tokens/s forward, backward and Adam.",
        f"figure: {path}",
    )
    return conclude(Evidence("digits", rows, table_of(rows), targets_of(rows), remarks), json)

"""A GRU trained without backpropagation through time: stationary state feedback beside the exact gradient and
the truncated one.

Next-character prediction on English text that ships with Python (the topics of its help system), the last
tenth held out. The three gradients differ in what an error at one step tells the steps before it: all of it
(BPTT), a fixed share per step (feedback, D = 0.5 on every unit), nothing (truncated, D = 0).
"""

import pydoc_data.topics
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from rich.progress import track

from ..memories.gru import GRU
from ..memories.state_feedback import feedback_states
from ..reports.tables import Table
from .conclude import Evidence, Target, conclude
from .fit import fit
from .lines import write_lines
from .timing import bound, medians

FEEDBACK = 0.5
"""D: the diagonal of a GRU's Jacobian at rest, where its update gate is sigmoid(0)."""
METHODS: dict[str, float | None] = {"BPTT": None, "feedback": FEEDBACK, "truncated": 0.0}
"""D by name; None for the exact gradient."""
STEPS, BATCH = 64, 16
LONG = 512
SYMBOLS = 96
NEAR = 0.5
"""How much of the gap between truncated and exact must be closed."""


class Characters(eqx.Module):
    """Next-character logits (T, SYMBOLS) of a text, by one GRU."""

    embed: Float[Array, "symbols size"]
    memory: GRU
    read: eqx.nn.Linear

    def __init__(self, size: int, key: PRNGKeyArray):
        keys = jax.random.split(key, 3)
        self.embed = jax.random.normal(keys[0], (SYMBOLS, size))
        self.memory = GRU(size, size, key=keys[1])
        self.read = eqx.nn.Linear(size, SYMBOLS, key=keys[2])

    def __call__(self, text, feedback):
        xs, starts = self.embed[text], jnp.arange(len(text)) == 0
        if feedback is None:
            _, features = self.memory.unroll(self.memory.init(), xs, starts)
        else:
            features = feedback_states(self.memory, self.memory.init(), xs, starts, feedback)
        return jax.vmap(self.read)(features)


def corpus() -> np.ndarray:
    """The text as symbols below SYMBOLS: printable ASCII, all else as a blank."""
    text = "\n".join(pydoc_data.topics.topics.values())
    codes = np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.int32) - 32
    return np.where((codes >= 0) & (codes < SYMBOLS - 1), codes, 0)


def loss_of(feedback: float | None):
    """Mean cross-entropy per character, in nats, of a batch of texts (B, T + 1)."""

    def loss(model, texts):
        logits = jax.vmap(lambda text: model(text[:-1], feedback))(texts)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), texts[:, 1:, None], axis=-1)
        return -jnp.mean(chosen)

    return loss


def backward_seconds(size: int, repeats: int) -> dict[str, float]:
    """Seconds of one gradient over LONG steps, by method."""
    model = Characters(size, jax.random.key(0))
    texts = jax.random.randint(jax.random.key(1), (BATCH, LONG + 1), 0, SYMBOLS)
    floats, rest = eqx.partition(model, eqx.is_inexact_array)
    programs = {}
    for name, feedback in METHODS.items():
        loss = loss_of(feedback)
        gradient = jax.grad(lambda f, texts, loss=loss: loss(eqx.combine(f, rest), texts))
        programs[name] = bound(gradient, floats, texts)
    programs["forward"] = bound(lambda f, texts: loss_of(None)(eqx.combine(f, rest), texts), floats, texts)
    return medians(programs, repeats)


def main(
    updates: int = 600,
    size: int = 64,
    seeds: int = 2,
    repeats: int = 5,
    out: Path = Path("runs/state-feedback"),
    json: Path | None = None,
) -> int:
    """Train a character GRU with exact, stationary and truncated gradients (arXiv:2503.23104).

    Takes about two minutes on 2 cores.

    Args:
        updates: steps of Adam for each method.
        size: units of the GRU.
        seeds: trainings of each method.
        repeats: timed gradients of each method.
        out: folder for the figure `state-feedback.svg`.
        json: also write rows and targets to this file.
    """
    text = corpus()
    cut = len(text) * 9 // 10
    train = jnp.asarray(text[:cut])
    held = jnp.asarray(text[cut : cut + 64 * (STEPS * 2 + 1)].reshape(64, -1))

    def batch(key):
        begins = jax.random.randint(key, (BATCH,), 0, cut - STEPS - 1)
        return train[begins[:, None] + jnp.arange(STEPS + 1)]

    seconds = backward_seconds(size, repeats)
    rows, curves = [], {}
    for name, feedback in track(METHODS.items(), "methods", transient=True):
        losses, ends = [], []
        for seed in range(seeds):
            key = jax.random.key(seed)
            model, history = fit(loss_of(feedback), Characters(size, key), batch, updates, 3e-3, key)
            losses.append(history)
            ends.append(float(jax.jit(loss_of(None))(model, held)))
        groups = np.array_split(np.mean(losses, axis=0), 40)
        places = np.cumsum([len(group) for group in groups])
        curves[name] = (places.tolist(), [float(group.mean()) for group in groups])
        rows.append(
            {
                "method": name,
                "loss": float(np.mean(ends)),
                "losses": ends,
                "gradient": seconds[name],
                "backward": seconds[name] - seconds["forward"],
            }
        )
    exact, ours, truncated = rows
    table = Table(
        ["gradient", "held-out nats per character", f"gradient at {LONG} steps, ms", "of it backward, ms"],
        [[r["method"], r["loss"], 1e3 * r["gradient"], 1e3 * r["backward"]] for r in rows],
    )
    gap = truncated["loss"] - exact["loss"]
    closed = (truncated["loss"] - ours["loss"]) / gap if gap > 0 else float("nan")
    faster = exact["backward"] / ours["backward"]
    targets = [
        Target(
            "feedback ends below the truncated gradient",
            ours["loss"] < truncated["loss"],
            f"{ours['loss']:.3f} against {truncated['loss']:.3f} nats",
            "smaller",
        ),
        Target(
            "and near backpropagation through time",
            closed > NEAR,
            f"{closed:.0%} of the gap closed ({exact['loss']:.3f} nats)",
            f"> {NEAR:.0%}",
        ),
        Target(f"its backward pass is faster at {LONG} steps", faster > 1, f"{faster:.2f}x", "> 1x"),
    ]
    path = write_lines(out / "state-feedback.svg", curves, "update", "nats per character", log="")
    remarks = [f"{BATCH} texts of {STEPS} characters, {size} units, {seeds} seeds", f"figure: {path}"]
    return conclude(Evidence("state-feedback", rows, table, targets, remarks), json)

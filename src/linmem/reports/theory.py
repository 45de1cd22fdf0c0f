"""The pictures of a run's snapshots: learned memories beside the exact belief and the modes of its filter."""

from collections.abc import Callable
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from linmem.reports.figures import PALETTE, STYLE, WIDTH, Picture, label_ends, look
from linmem.reports.records import Run, per_seed

Snapshot = dict[str, Any]


def with_spectrum(run: Run) -> list[str]:
    """Memories whose snapshots hold eigenvalues."""
    return [memory for memory, history in run.snapshots.items() if "eigenvalues" in history[-1]]


def eigenvalues_of(snapshot: Snapshot) -> list[np.ndarray]:
    """Per seed, (actions, modes) complex."""
    return [np.array(each["real"]) + 1j * np.array(each["imaginary"]) for each in snapshot["eigenvalues"]]


def forgetting_of(snapshot: Snapshot) -> np.ndarray:
    """(S,) median over modes of 1 - |eigenvalue|: the share forgotten per step."""
    return np.array([np.median(1 - np.abs(each)) for each in eigenvalues_of(snapshot)])


def log_forgetting_of(snapshot: Snapshot) -> np.ndarray:
    return np.log10(np.maximum(forgetting_of(snapshot), 1e-6))


def excess_error_of(snapshot: Snapshot) -> np.ndarray:
    """(S,) decoding error above that of the exact belief in the same episodes."""
    return per_seed(snapshot["decoding_error"]) - per_seed(snapshot["bayes_error"])


def distance_of(snapshot: Snapshot) -> np.ndarray:
    """(S,) total variation from the exact belief."""
    return per_seed(snapshot["total_variation"])


@mpl.rc_context(STYLE)
def nearer(run: Run) -> Picture:
    """Distance from the exact belief, and decoding error above its own, over training."""
    figure = Figure(figsize=(WIDTH, 5.6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    memories = [memory for memory in run.memories if memory in run.snapshots]
    words = _curves(top, run, memories, distance_of)
    _curves(bottom, run, memories, excess_error_of)
    top.set(ylabel="total variation", ylim=(0, None))
    bottom.set(ylabel="decoding error above Bayes", xlabel="environment steps")
    return Picture(figure, f"Total variation from the exact belief over training: {'; '.join(words)}.")


@mpl.rc_context(STYLE)
def modes(run: Run) -> Picture:
    """Forgetting and the angle to the exact filter's modes, over training."""
    figure = Figure(figsize=(WIDTH, 5.6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    memories = [memory for memory in run.memories if memory in with_spectrum(run)]
    kept = _curves(top, run, memories, log_forgetting_of)
    turned = _curves(bottom, run, memories, lambda snapshot: per_seed(snapshot["angular_distance"]))
    last = run.snapshots[memories[0]][-1]
    words = [f"log10 of forgetting per step: {'; '.join(kept)}"]
    if (delta := last.get("recommended_delta")) is not None:
        top.axhline(np.log10(delta), color="#666666", linestyle=":", linewidth=1)
        top.annotate("recommended", (0, np.log10(delta)), fontsize=9, color="#444444", va="bottom")
        words.append(f"recommended {delta:.4f}")
    style = look(run.memories)
    for memory in memories:
        chance = run.snapshots[memory][-1]["chance_distance"]
        bottom.axhline(chance, color=style[memory][0], linestyle=":", linewidth=1)
        words.append(f"chance for {memory} {chance:.3f}")
    top.set(ylabel="log10 of forgetting per step")
    bottom.set(ylabel="angle to exact modes (rad)", xlabel="environment steps", ylim=(0, None))
    return Picture(figure, f"{'; '.join(words)}; angle to the exact filter's modes: {'; '.join(turned)}.")


@mpl.rc_context(STYLE)
def spectra(run: Run) -> Picture:
    """Final eigenvalues of each memory in the complex plane, with the exact filter's modes."""
    memories = [memory for memory in run.memories if memory in with_spectrum(run)]
    rows = -(-len(memories) // 2)
    figure = Figure(figsize=(WIDTH, 2.75 * rows), layout="constrained")
    grid = figure.subplots(rows, 2, squeeze=False).ravel()
    for axes in grid[len(memories) :]:
        axes.set_axis_off()
    turn, words = np.linspace(0, 2 * np.pi, 200), []
    for axes, memory in zip(grid, memories, strict=False):
        last = run.snapshots[memory][-1]
        axes.plot(np.cos(turn), np.sin(turn), color="#bbbbbb", linewidth=0.8)
        exact = last["theory"]
        axes.plot(exact["real"][0], exact["imaginary"][0], "x", color="#000000", markersize=7)
        for learned, colour in zip(eigenvalues_of(last), cycle(PALETTE), strict=False):
            real, imaginary = np.real(learned[0]), np.imag(learned[0])
            axes.plot(real, imaginary, ".", color=colour, markersize=5, alpha=0.8, mew=0)
        axes.set(aspect="equal", xlim=(-1.15, 1.15), ylim=(-1.15, 1.15), xticks=[-1, 0, 1], yticks=[-1, 0, 1])
        axes.set_title(memory, fontsize=9)
        words.append(f"{memory} {np.mean(last['angular_distance']):.3f} rad")
    return Picture(
        figure, f"Eigenvalues at the end; mean angle to the exact filter's modes: {'; '.join(words)}."
    )


def _curves(axes, run: Run, memories: list[str], value: Callable[[Snapshot], np.ndarray]) -> list[str]:
    """Draw ``value`` of each memory's snapshots, name the lines, and say their ends in words."""
    style, ends, words = look(run.memories), {}, []
    for memory in memories:
        history = run.snapshots[memory]
        steps = np.array([snapshot["steps"] for snapshot in history])
        values = np.array([value(snapshot) for snapshot in history])
        mean, (colour, line) = values.mean(1), style[memory]
        axes.fill_between(steps, values.min(1), values.max(1), color=colour, alpha=0.15, linewidth=0)
        axes.plot(steps, mean, color=colour, linestyle=line, linewidth=1.6, marker=".", markersize=4)
        ends[memory] = (steps[-1], mean[-1], colour)
        words.append(f"{memory} from {mean[0]:.3f} to {mean[-1]:.3f}")
    axes.margins(x=0)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    label_ends(axes, ends)
    return words

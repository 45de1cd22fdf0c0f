"""The command line: parse, run, show. Everything it does is a function of the library
that Python can call too."""

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from .core.registry import UnknownName
from .experiments.config import RunConfig

app = tyro.extras.SubcommandApp()


@app.command
def run(
    config: OmitArgPrefixes[RunConfig],
    out: Path = Path("runs"),
) -> int:
    """Train agents that differ only in their memory on one world, and report who remembered what.

    Shows progress, ends with a table, and writes one self-contained HTML report. Without options it is the
    demo: RingWorld with six memories. Ctrl-C keeps what was done; the same command goes on from there.

    Args:
        config: what to run.
        out: where run folders are made; a run's folder is named by its world and a hash of its settings.
    """
    from .experiments.store import Folder
    from .experiments.watch import watch

    folder = Folder.create(out, config, command="linmem " + " ".join(sys.argv[1:]))
    finished = watch(config, folder)
    _report(folder.path)
    return 0 if finished else 130


@app.command
def report(directory: Positional[Path]) -> int:
    """Print the table of a run folder again and write its report anew, without running anything.

    Args:
        directory: a run folder, as `linmem run` printed it.
    """
    from .experiments.store import Folder

    _report(Folder.open(directory).path)
    return 0


def _report(path: Path) -> None:
    from rich.console import Console

    from .reports import read_run, summary, summary_table, to_rich, write_report

    rows = summary(read_run(path))
    console = Console()
    if rows:
        console.print(to_rich(summary_table(rows)))
    console.print(f"report: {write_report(path)}", soft_wrap=True, highlight=False)


@app.command(name="list")
def list_() -> int:
    """Name the worlds, memories and agents, with one line and the source of each."""
    from rich.console import Console
    from rich.table import Table

    from .agents import AGENTS
    from .memories import MEMORIES
    from .worlds import WORLDS

    console = Console()
    for registry, plural in ((WORLDS, "worlds"), (MEMORIES, "memories"), (AGENTS, "agents")):
        table = Table(title=plural, title_justify="left", box=None, pad_edge=False, title_style="bold")
        for column in ("name", "what it is", "source"):
            table.add_column(column)
        for entry in registry:
            table.add_row(entry.name, entry.summary, entry.source)
        console.print(table, "")
    return 0


@app.command
def check(layer: Positional[str]) -> int:
    """Run the promises that every memory of this library keeps on a memory class of your own.

    Args:
        layer: the class as `module:Class`; the present folder is importable.
    """
    from rich.console import Console

    from .memories.base import AbstractMemory
    from .memories.promises import PROMISES

    module_name, _, class_name = layer.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"cannot load '{layer}' ({error}); name a class as module:Class") from error
    if not (isinstance(cls, type) and issubclass(cls, AbstractMemory)):
        raise UsageError(f"'{layer}' is not a subclass of linmem.AbstractMemory")
    console, broken = Console(), 0
    for promise in PROMISES:
        try:
            promise(cls)
            console.print(f"[green]kept  [/] {promise.__name__.replace('_', ' ')}")
        except Exception as error:  # whatever the layer raises breaks the promise
            broken += 1
            console.print(
                f"[red]broken[/] {promise.__name__.replace('_', ' ')}: {type(error).__name__}: {error}"
            )
    console.print(f"{len(PROMISES) - broken} of {len(PROMISES)} promises kept")
    return 1 if broken else 0


@app.command
def analyse(model: Positional[str]) -> int:
    """Say whether linear memory is enough for a model, with reasons, bounds, and the filter to use.

    Args:
        model: a world that has tables (see `linmem list`), or a .npz file with arrays `transition` (n, n),
            `emission` (n, k) and `initial` (n,) of a hidden Markov model, distributions in rows; with
            `transition` (m, n, n) and `emission` (n, k) or (m, n, k) it is the controlled case.
    """
    from .measures.certificates import analyse as certify
    from .worlds import WORLDS

    if model.endswith(".npz"):
        print(certify(_model_from(Path(model))))
        return 0
    tables = WORLDS[model].make().tables()
    if tables is None:
        raise UsageError(f"world '{model}' has no tables to analyse; name a finite one or a .npz file")
    print(certify(tables))
    return 0


def _model_from(path: Path):
    """The HMM or POMDP in a .npz file of plain arrays."""
    import numpy as np

    from .worlds import HMM, POMDP

    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        transition, emission, initial = (arrays[name] for name in ("transition", "emission", "initial"))
    except (OSError, KeyError, ValueError) as error:
        raise UsageError(
            f"cannot read a model from {path} ({error}); it needs transition, emission, initial"
        ) from error
    if transition.ndim == 2:
        return HMM(transition, emission, initial)
    first = arrays.get("initial_emission", emission[0] if emission.ndim == 3 else None)
    return POMDP(transition, emission, np.zeros(transition.shape[-1]), initial, 1.0, first)


@app.command
def bench() -> int:
    """Measure speed on this machine: `linmem bench --help` lists what."""
    raise UsageError("name what to measure; `linmem bench --help` lists it")


@app.command
def reproduce() -> int:
    """Repeat an experiment and say which of its stated
    results hold: `linmem reproduce --help` lists which."""
    raise UsageError("name the experiment; `linmem reproduce --help` lists them")


def _groups() -> dict[str, tuple[str, dict[str, str]]]:
    """Commands of two words: what each group is, and its commands' modules."""
    return {
        "bench": ("Measure speed on this machine.", {"scan": "bench_scan", "train": "bench_train"}),
        "reproduce": (
            "Repeat an experiment; exit code 1 if a stated result does not hold.",
            {
                "two-state": "two_state",
                "ringworld": "ringworld",
                "ringworld-choices": "ringworld_choices",
            },
        ),
    }


def _group_app(modules: dict[str, str]) -> tyro.extras.SubcommandApp:
    group = tyro.extras.SubcommandApp()
    for name, module in modules.items():
        group.command(importlib.import_module(f".evidence.{module}", __package__).main, name=name)
    return group


class UsageError(Exception):
    """What was typed cannot be done; the message says how to mend it."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: exits 0 if all went well, 1 if a target was missed or a promise broken,
    2 on wrong input."""
    from .experiments.cache import enable_compilation_cache
    from .experiments.store import FolderError

    enable_compilation_cache()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    groups = _groups()
    try:
        if arguments and arguments[0] in groups and len(arguments) > 1:
            about, modules = groups[arguments[0]]
            code = _group_app(modules).cli(
                prog=f"linmem {arguments[0]}", args=arguments[1:], description=about
            )
        else:
            code = app.cli(prog="linmem", args=arguments, description=_ABOUT)
    except (UnknownName, UsageError, FolderError, ValueError, FloatingPointError) as error:
        print(f"linmem: {error}", file=sys.stderr)
        code = 2
    sys.exit(code)


_ABOUT = "Linear recurrent memory for decisions under partial observability."

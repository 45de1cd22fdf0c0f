"""The command line: parse, run, show. Everything it does is a function of the library
that Python can call too."""

import argparse
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any

import jax
import tyro
from tyro.conf import OmitArgPrefixes, Positional

from .core.registry import UnknownName
from .experiments.config import RunConfig, with_discount_of_file
from .experiments.settings import ppo_of
from .experiments.store import check_writable

app = tyro.extras.SubcommandApp()


WRITTEN_LAST = ("json", "markdown", "save")
"""Options that name a file which is written when all is done, maybe after hours."""


def _sensible(command: Callable[..., int]) -> Callable[..., int]:
    """The command, with a sentence for numbers that none has a use for: counts below 1, seeds that JAX cannot
    take, amounts that are negative or NaN; and for a file that cannot be written, before all else is done."""

    @wraps(command)
    def checked(*args, **options):
        for name, given in inspect.signature(command).bind(*args, **options).arguments.items():
            for value in given if isinstance(given, tuple) else (given,):
                option = f"--{name.replace('_', '-')} is {value}; it"
                if isinstance(value, Path) and name in WRITTEN_LAST:
                    check_writable(value)
                if isinstance(value, float) and not value >= 0:
                    raise UsageError(f"{option} must be a number, and not negative")
                if not isinstance(value, int) or isinstance(value, bool):
                    continue
                if name == "seed" and not 0 <= value < 2**32:
                    raise UsageError(f"{option} must be one of 0 to {2**32 - 1}")
                if name not in ("seed", "agent") and value < 1:
                    raise UsageError(f"{option} must be at least 1")
        return command(*args, **options)

    return checked


@app.command
@_sensible
def run(
    config: OmitArgPrefixes[RunConfig],
    out: Path = Path("runs"),
    resume: Path | None = None,
    checkpoint_seconds: float = 30.0,
    tensorboard: bool = False,
    wandb: str | None = None,
    devices: int = 1,
    distributed: str | None = None,
) -> int:
    """Train agents that differ only in their memory on one world, and report who remembered what.

    Shows progress, ends with a table, and writes one self-contained HTML report. Without options it is the
    demo: RingWorld with six memories. Ctrl-C keeps what was done, and a crash or kill costs the last
    seconds; the same command, or --resume with the run's folder, goes on to the same records.

    Args:
        config: what to run.
        out: where run folders are made; a run's folder is named by its world and a hash of its settings and
            of a problem file's content.
        resume: go on in this run folder, with its settings; nothing else about the run can be said then.
        checkpoint_seconds: the training state is saved this often.
        tensorboard: write event files for TensorBoard into the run folder, too.
        wandb: send the records to Weights & Biases, too: online, or offline (kept for `wandb sync`).
        devices: devices that share the copies of the world; a CPU is split into as many.
        distributed: as 0/2@HOST:PORT, this process's number, how many there are, and where number 0 can be
            reached; or auto, on a cluster that JAX knows. All need the same options and see the same folder.
    """
    from .experiments.devices import choose, join, writes

    join(distributed, devices)
    from .experiments.store import Folder, Reader
    from .experiments.track import TensorBoard, WeightsAndBiases
    from .experiments.watch import watch

    if resume is None:
        asked, config = config.ppo.discount, with_discount_of_file(config)
        if asked not in (config.ppo.discount, ppo_of(config.world).discount):
            raise UsageError(
                f"--discount is {asked:g}, and {config.world} has one of its own, {config.ppo.discount:g}; "
                "leave the option out, or change the file"
            )
        shared = choose(devices, config.ppo)  # before there is a folder for what cannot be
        if writes():
            folder = Folder.create(out, config, command="linmem " + " ".join(sys.argv[1:]))
        else:
            folder = Reader(out / config.folder_name())
    elif config == RunConfig():
        folder = (Folder if writes() else Reader).open(resume)
        config = folder.config()
        shared = choose(devices, config.ppo)
    else:
        raise UsageError(f"--resume takes every setting from {resume}; leave the other options out")
    trackers = [TensorBoard(folder)] if tensorboard and writes() else []
    trackers += [WeightsAndBiases(folder, config, wandb)] if wandb is not None and writes() else []
    try:
        finished = watch(config, folder, checkpoint_seconds, trackers, shared)
    except ValueError:  # what was asked for cannot be
        folder.discard_if_empty()
        raise
    if writes():
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


@app.command
@_sensible
def evaluate(
    directory: Positional[Path],
    memory: tuple[str, ...] = (),
    actors: int = 64,
    steps: int = 2000,
    seed: int = 0,
    json: Path | None = None,
) -> int:
    """Play fresh episodes with a run's trained agents and print what they earn, with intervals over seeds.

    Args:
        directory: a run folder, as `linmem run` printed it.
        memory: which memories; by default all that are trained.
        actors: copies of the world for each seed.
        steps: steps of each copy.
        seed: another one gives other episodes.
        json: write the numbers of every seed to this file.
    """
    from .evidence.conclude import Evidence, conclude
    from .experiments.evaluate import evaluate as evaluations
    from .experiments.store import Folder
    from .measures.statistics import bootstrap_mean
    from .reports.tables import Table

    done = list(evaluations(Folder.open(directory), memory, actors, steps, seed))
    table = Table(
        ("memory", "reward per step", "return per episode", "episodes per seed", "loaded in s", "s"),
        [
            (
                one.memory,
                bootstrap_mean(one.reward),
                None if one.returns is None else bootstrap_mean(one.returns),
                one.episodes,
                one.loading_seconds,
                one.seconds,
            )
            for one in done
        ],
    )
    remarks = ["mean and 95% bootstrap interval over seeds"]
    if any(one.returns is None for one in done):
        remarks.append("some copy of the world ended no episode; --steps makes them longer")
    return conclude(Evidence("evaluate", [one._asdict() for one in done], table, [], remarks), json)


@app.command
@_sensible
def play(
    directory: Positional[Path],
    memory: str | None = None,
    agent: int = 0,
    steps: int = 200,
    seed: int = 0,
    delay: float = 0.1,
) -> int:
    """Show an episode of a trained agent step by step, with its memory's belief and the exact one beside it.

    Args:
        directory: a run folder, as `linmem run` printed it.
        memory: which memory; by default the first that is trained.
        agent: which of its seeds.
        steps: show at most so many.
        seed: another one gives another episode.
        delay: seconds between steps on a terminal.
    """
    import time

    from rich.console import Console

    from .experiments.evaluate import chosen, episode
    from .experiments.store import Folder
    from .reports.play import heading, lines

    folder, console = Folder.open(directory), Console()
    name = chosen(folder, () if memory is None else (memory,))[0]
    shown = episode(folder, name, agent, steps, seed)
    console.print(f"{folder.config().world}, memory {name}, seed {agent}", style="bold", highlight=False)
    console.print(heading(shown), soft_wrap=True)
    for line in lines(shown):
        console.print(line, soft_wrap=True)
        time.sleep(delay if console.is_terminal else 0)
    console.print(
        f"return {shown.reward.sum():+.3f} in {int(shown.acts.sum())} steps"
        + ("" if shown.terminated.any() else ", not ended by the world"),
        highlight=False,
    )
    return 0


def _report(path: Path) -> None:
    from .reports import read_run, summary, summary_table, to_rich, write_report
    from .reports.tables import table_console

    rows = summary(read_run(path))
    console = table_console()
    if rows:
        console.print(to_rich(summary_table(rows)))
    else:
        console.print("no memory is finished yet")
    console.print(f"report: {write_report(path)}", soft_wrap=True, highlight=False)


@app.command(name="list")
def list_(markdown: bool = False) -> int:
    """Name the worlds, memories, tasks and agents, with one line and the source of each.

    Args:
        markdown: print the page docs/memories.md instead: every memory with its equation, sizes and source.
    """
    if markdown:
        from .reports.memory_table import markdown as page

        print(page(), end="")
        return 0
    from rich.console import Console
    from rich.table import Table

    from .agents import AGENTS
    from .memories import MEMORIES
    from .tasks import TASKS
    from .worlds import WORLDS

    console = Console()
    registries = {"worlds": WORLDS, "memories": MEMORIES, "tasks": TASKS, "agents": AGENTS}
    for plural, registry in registries.items():
        table = Table(title=plural, title_justify="left", box=None, pad_edge=False, title_style="bold")
        for column in ("name", "what it is", "source"):
            table.add_column(column)
        for entry in registry:
            table.add_row(entry.name, entry.summary, entry.source)
        console.print(table, "")
    from .worlds.model_files import shipped

    console.print(f"[bold]problems[/], for run, analyse and solve: {', '.join(shipped())}", highlight=False)
    return 0


@app.command
def check(layer: Positional[str]) -> int:
    """Run the promises that every memory of this library keeps, on one of them or on a class of your own.

    Args:
        layer: a class as `module:Class`, where the present folder is importable, or one in `linmem list`.
    """
    from rich.console import Console

    from .memories import learned_layers
    from .memories.base import AbstractMemory
    from .memories.promises import PROMISES

    module_name, _, class_name = layer.partition(":")
    sys.path.insert(0, os.getcwd())
    layers = learned_layers()
    try:
        if layer in layers:
            cls = type(layers[layer](4, jax.random.key(0)))
        else:
            cls = getattr(importlib.import_module(module_name), class_name)
    except Exception as error:  # whatever happens while a module of somebody's is imported
        hint = f"name a class as module:Class, or one of {', '.join(layers)}"
        raise UsageError(f"cannot load '{layer}' ({error}); {hint}") from error
    if not (isinstance(cls, type) and issubclass(cls, AbstractMemory)):
        raise UsageError(f"'{layer}' is not a subclass of linmem.AbstractMemory")
    if missing := sorted(getattr(cls, "__abstractmethods__", ())):
        raise UsageError(f"'{layer}' does not define {', '.join(missing)}")
    try:
        cls.example(jax.random.key(0), 3)
    except Exception as error:  # the same would break every promise
        raise UsageError(f"{layer}.example(key, 3) raises {type(error).__name__}: {error}") from error
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
@_sensible
def solve(
    model: Positional[str],
    time: float = 60.0,
    gap: float = 0.01,
    save: Path | None = None,
) -> int:
    """Bound the optimal value of a problem from both sides, and keep a policy that earns the lower bound.

    Shows the bounds while they move. Ctrl-C keeps the best so far.

    Args:
        model: a .POMDP or POMDPX file, or a shipped problem (see `linmem list`).
        time: seconds after which to stop.
        gap: the relative gap, of the larger bound in size, at which to stop.
        save: write the policy to this .npz file: alpha vectors and their actions, as plain arrays.
    """
    from rich.console import Console

    from .experiments.solve import line, save_policy
    from .experiments.solve import solve as solve_in_time
    from .worlds.model_files import read_model

    console, problem = Console(soft_wrap=True), read_model(model)
    policy, bounds, seconds, interrupted = solve_in_time(problem, time, gap, console)
    console.print(line(bounds, seconds), highlight=False)
    if save is not None:
        save_policy(save, problem, policy, bounds)
        console.print(f"policy: {save}", highlight=False)
    return 130 if interrupted else 0


@app.command
@_sensible
def gap(
    model: Positional[str],
    memory: tuple[str, ...] = ("none", "s5", "gru", "belief"),
    seeds: int = 4,
    steps: int = 600_000,
    time: float = 60.0,
    episodes: int = 2000,
    seed: int = 0,
    out: Path = Path("runs"),
    json: Path | None = None,
) -> int:
    """Say what share of the value of memory on a problem each memory's trained agents capture.

    Solves the problem, finds the best policy without memory, trains agents and plays them. Ctrl-C keeps what
    was done; the same command goes on from there.

    Args:
        model: a .POMDP or POMDPX file, or a shipped problem (see `linmem list`).
        memory: the memories (see `linmem list`).
        seeds: agents of each memory.
        steps: environment steps that each is trained for.
        time: seconds after which solving stops.
        episodes: episodes played by each trained agent.
        seed: from which all random numbers follow.
        out: where run folders are made.
        json: write the numbers of every seed to this file.
    """
    from .evidence.memory_gap import gap as measure

    return measure(model, memory, seeds, steps, time, episodes, seed, out, json)


@app.command
def analyse(model: Positional[str]) -> int:
    """Say whether linear memory is enough for a model, with reasons, bounds, and the filter to use.

    Args:
        model: a world that has tables (see `linmem list`), a .POMDP or POMDPX file, or a .npz file with
            arrays `transition` (n, n), `emission` (n, k) and `initial` (n,) of a hidden Markov model,
            distributions in rows; with `transition` (m, n, n) and `emission` (n, k) or (m, n, k) it is the
            controlled case.
    """
    from .certificates import analyse as certify
    from .worlds import resolve
    from .worlds.model_files import is_model_name, read_model

    if model.endswith(".npz"):
        print(certify(_model_from(Path(model))))
        return 0
    if is_model_name(model):
        print(certify(read_model(model).dense()))
        return 0
    tables = resolve(model).make().tables()
    if tables is None:
        raise UsageError(f"world '{model}' has no tables to analyse; name a finite one or a .npz file")
    print(certify(tables))
    return 0


def _model_from(path: Path):
    """The HMM or POMDP in a .npz file of plain arrays."""
    import numpy as np

    from .experiments.store import NOT_ARRAYS
    from .worlds import HMM, POMDP

    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        transition, emission, initial = (arrays[name] for name in ("transition", "emission", "initial"))
    except (OSError, *NOT_ARRAYS) as error:
        raise UsageError(
            f"cannot read a model from {path} ({error}); it needs transition, emission, initial"
        ) from error
    if transition.ndim == 2:
        return HMM(transition, emission, initial)
    first = arrays.get("initial_emission", emission[0] if emission.ndim == 3 and len(emission) else None)
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
        "bench": (
            "Measure speed on this machine.",
            {
                "act": "bench_act",
                "kernels": "bench_kernels",
                "layers": "bench_layers",
                "memory": "bench_memory",
                "numerics": "bench_numerics",
                "peers": "bench_peers",
                "scale": "bench_scale",
                "scan": "bench_scan",
                "solve": "bench_solve",
                "train": "bench_train",
                "worlds": "bench_worlds",
            },
        ),
        "reproduce": (
            "Repeat an experiment; exit code 1 if a stated result does not hold.",
            {
                "two-state": "two_state",
                "action-controlled": "action_controlled",
                "delta": "delta",
                "state-tracking": "state_tracking",
                "parity-rl": "parity_rl",
                "layers-rl": "layers_rl",
                "dynamics-tokens": "dynamics_tokens",
                "signature": "signature",
                "ringworld": "ringworld",
                "ringworld-choices": "ringworld_choices",
                "hippo-prophecy": "hippo_prophecy",
                "stu": "stu",
                "space-time": "space_time",
                "rtf": "rtf",
                "ffm": "ffm",
                "state-feedback": "state_feedback",
                "s4": "s4_kernel",
                "ptd": "ptd",
                "stable-ssm": "stable_ssm",
                "digits": "digits",
                "forecasting": "forecasting",
                "memory-gap": "memory_gap",
                "popgym": "popgym",
            },
        ),
    }


def _group_app(modules: dict[str, str]) -> tyro.extras.SubcommandApp:
    group = tyro.extras.SubcommandApp()
    for name, module in modules.items():
        command: Any = _sensible(importlib.import_module(f".evidence.{module}", __package__).main)
        group.command(command, name=name)
    return group


def _default_run(arguments: Sequence[str]) -> RunConfig:
    """What `run` does unless told otherwise, with the learner's settings for the world that is named."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--world", nargs="?", default=RunConfig.world, const=RunConfig.world)
    return RunConfig(ppo=ppo_of(parser.parse_known_args(arguments)[0].world))


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
    app.command(name="run")(partial(run, config=_default_run(arguments)))
    try:
        if arguments and arguments[0] in groups and len(arguments) > 1:
            about, modules = groups[arguments[0]]
            code = _group_app(modules).cli(
                prog=f"linmem {arguments[0]}", args=arguments[1:], description=about
            )
        else:
            code = app.cli(prog="linmem", args=arguments, description=_ABOUT)
    except (UnknownName, UsageError, FolderError, ValueError, FloatingPointError, ImportError) as error:
        print(f"linmem: {error}", file=sys.stderr)
        code = 2
    except BrokenPipeError:  # who read our output has left, as in `linmem list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it ends
        code = 1  # as rich ends then
    except OSError as error:
        what = f"cannot read or write {error.filename} ({error.strerror})" if error.filename else error
        print(f"linmem: {what}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("linmem: interrupted; where rows are kept, the same command goes on", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130)  # JAX's threads may still compute, and crash when Python ends under them
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print(f"linmem: more memory is needed than there is ({error}); take smaller sizes", file=sys.stderr)
        code = 2
    sys.exit(code)


_ABOUT = "Linear recurrent memory for decisions under partial observability."

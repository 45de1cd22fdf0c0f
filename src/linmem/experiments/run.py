"""Train one agent per memory and seed, evaluate it, and leave everything in a run folder.

``run`` is a generator of events; whoever iterates shows them (the command line) or not (a test). It can be
stopped, or killed, at any moment: the training state is saved at intervals and when it is asked to stop, the
records after it are taken back, and the same command goes on to the records of a run that was never stopped,
bit for bit on the same machine. (Worlds that step outside JAX begin new episodes instead.)
"""

import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Key

from ..agents import AGENTS, host, ppo
from ..agents.policy import ActorCritic
from ..agents.rollout import Slot, begin, collect
from ..measures.decoding import decode
from ..memories import MEMORIES
from ..worlds import resolve
from ..worlds.base import AbstractHostWorld, AbstractWorld
from . import snapshot
from .config import RunConfig
from .devices import Devices, agreed
from .snapshot import one_seed
from .store import Folder

CHUNKS = 80  # progress is shown, and a run can be stopped, about this many times per memory
CHECKPOINT_SECONDS = 30.0


@dataclass(frozen=True)
class Compiling:
    """A memory's training begins with compiling it."""

    memory: str
    resumed_at: int


@dataclass(frozen=True)
class Progress:
    """Some updates were done."""

    memory: str
    updates: int
    of: int
    steps: int
    seconds: float
    compile_seconds: float
    reward: float
    """Mean over seeds, in the last update."""


@dataclass(frozen=True)
class Finished:
    """A memory was trained and evaluated, or had been before (``now`` is False)."""

    memory: str
    now: bool


Event = Compiling | Progress | Finished


def chunking(updates: int) -> tuple[int, int]:
    """(updates per compiled call, calls): the calls are equal, so that one compilation serves,
    and cover ``updates``."""
    size = -(-updates // CHUNKS)
    return size, -(-updates // size)


def run(
    config: RunConfig,
    folder: Folder,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    devices: Devices | None = None,
) -> Iterator[Event]:
    """Do what of ``config`` is not yet done in ``folder``, as the only process there; ``devices`` share the
    training. Where they belong to several processes, an interruption costs what came after the last
    checkpoint.

    Raises FolderError if another process writes there or the disk refuses, and FloatingPointError if a loss
    is not finite; the last good checkpoint stays."""
    with folder.lock():
        done = folder.finished()
        _refuse(config, [name for name in config.memory if name not in done])
        for name in config.memory:
            if name not in done:
                yield from _train(config, folder, name, checkpoint_seconds, devices)
            folder.remove(_checkpoint(name))
            yield Finished(name, now=name not in done)


def _checkpoint(name: str) -> str:
    return f"state/{name}.eqx"


def _refuse(config: RunConfig, memories: list[str]) -> None:
    """Raise now, not after hours of training, what cannot be done of ``memories``, those still to do."""
    if not memories:
        return
    world = resolve(config.world).make()
    if world.tables() is None and config.snapshots:
        raise ValueError(
            f"snapshots compare memories with the exact belief, and world '{config.world}' has no tables for "
            "it; leave --snapshots out there"
        )
    if world.tables() is not None and config.evaluation_actors < 2:
        raise ValueError(
            "evaluation_actors is 1; what a memory holds is read out on half of the copies and measured on "
            "the others, so take at least 2"
        )
    for name in memories[1:]:  # the first is made at once anyway
        make = MEMORIES[name].make
        eqx.filter_eval_shape(lambda key: make(world, config.ppo.memory_size, key), jax.random.key(0))  # noqa: B023


def _initial(config: RunConfig, name: str) -> tuple[AbstractWorld, jax.stages.Lowered, Key[Array, " seeds"]]:
    """The world, what makes the training state of all seeds before the first update, and its keys."""
    world = resolve(config.world).make()
    size, calls = chunking(config.updates)
    # The memory's name enters the key, so that its records do not depend on what else is run.
    key = jax.random.fold_in(jax.random.key(config.seed), zlib.crc32(name.encode()))
    make = MEMORIES[name].make
    agent = AGENTS[config.agent].make
    return (
        world,
        agent.lower_init(config.ppo, world, make, size * calls, config.seeds),
        jax.random.split(key, config.seeds),
    )


def load_policy(folder: Folder, name: str) -> ActorCritic:
    """The trained policies of one memory; every leaf has a leading seed axis."""
    form = _form(_initial(folder.config(), name)[1]).policy
    return folder.load_tree(f"params/{name}.eqx", form)


def _form(lowered: jax.stages.Lowered) -> ppo.State:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), lowered.out_info)


def _train(
    config: RunConfig, folder: Folder, name: str, checkpoint_seconds: float, devices: Devices | None
) -> Iterator[Event]:
    size, calls = chunking(config.updates)
    agent = AGENTS[config.agent].make
    world, lowered, keys = _initial(config, name)
    form = _form(lowered)
    saved = _checkpoint(name)
    # A session's clock and step count begin where the session before it was interrupted.
    before, steps = np.zeros(()), np.zeros((), np.int64)
    resumed = (folder.path / saved).exists()
    if resumed:
        state, before, steps = folder.load_tree(saved, (form, before, steps))
    first_call = int(state.update[0]) // size if resumed else 0
    folder.rewind(name, first_call * size)
    yield Compiling(name, resumed_at=first_call * size)

    began = time.perf_counter()
    with ThreadPoolExecutor(1) as pool:  # the first state compiles beside the training that will take it
        first = None if resumed else pool.submit(lambda: lowered.compile(agent.INIT_OPTIONS)(keys))
        train = agent.compile_train(config.ppo, world, size * calls, size, form, devices and devices.mesh)
        state = state if first is None else first.result()
        state = devices.place(state) if devices else state
    compile_seconds = time.perf_counter() - began
    seconds, last_save = float(before), time.perf_counter()
    steps = int(steps)
    roll, model = roller(world, config.evaluation_actors, config.evaluation_steps), world.tables()
    due = snapshot.due(config, folder, name, size, calls)

    def local(tree):
        return devices.local(tree) if devices else tree

    def save(state: ppo.State) -> None:
        folder.save_tree(saved, (local(state), np.asarray(seconds), np.asarray(steps)))

    def compare(policy: ActorCritic, update: int, steps: int) -> None:
        if model is not None and update in due:
            policy = local(policy)
            keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 2), config.seeds)
            found = snapshot.compare(policy, model, roll(policy, keys))
            at = {"update": update, "steps": steps // config.seeds}
            folder.append({"event": "snapshot", "memory": name} | at | found)

    try:
        for call in range(first_call, calls):
            compare(state.policy, call * size, steps)
            began = time.perf_counter()
            following, metrics = jax.block_until_ready(train(state))
            metrics = jax.tree.map(np.asarray, metrics)
            failed = _first_not_finite(metrics)
            if failed is not None:
                save(state)
                raise FloatingPointError(
                    f"the loss of '{name}' is not finite in update {call * size + failed + 1}; take a "
                    f"smaller --step-size or --max-gradient. The state after update {call * size}, the last "
                    f"known to be good, is kept in {folder.path / saved}."
                )
            records, counted, spent = [], steps, seconds + time.perf_counter() - began
            for i in range(size):
                at = jax.tree.map(lambda m: m[:, i], metrics)  # noqa: B023
                counted += int(at.steps.sum())
                so_far = {"steps": counted // config.seeds, "seconds": spent}  # per seed
                records.append(
                    at._asdict() | {"event": "update", "memory": name, "update": call * size + i + 1} | so_far
                )
            folder.append(*records)
            state, steps, seconds = following, counted, spent
            reward = float(metrics.reward[:, -1].mean())
            yield Progress(name, (call + 1) * size, calls * size, steps, seconds, compile_seconds, reward)
            if agreed(time.perf_counter() - last_save > checkpoint_seconds):
                save(state)
                last_save = time.perf_counter()
    except (KeyboardInterrupt, GeneratorExit):
        if jax.process_count() == 1:  # others may not have been interrupted, and a save takes all
            save(state)
        raise
    compare(state.policy, calls * size, steps)
    policy = local(state.policy)
    folder.save_tree(f"params/{name}.eqx", policy)
    folder.append(
        _evaluate(config, folder, name, world, roll, policy)
        | {
            "steps_per_second": steps / seconds,
            "compile_seconds": compile_seconds,
            "parameters": _count(policy) // config.seeds,
            "state_bytes": _state_bytes(form.policy),
        }
    )


def _first_not_finite(metrics: ppo.Metrics) -> int | None:
    """The first update of metrics (seed, update) in which any seed failed. So it has with a gradient that is
    not finite: it has spoilt the parameters, though their loss comes only with the next update."""
    good = np.isfinite(metrics.policy_loss) & np.isfinite(metrics.value_loss) & np.isfinite(metrics.gradient)
    failed = np.flatnonzero(~good.all(axis=0))
    return int(failed[0]) if len(failed) else None


def _count(policy: ActorCritic) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(policy, eqx.is_inexact_array)))


def _state_bytes(policies: ActorCritic) -> int:
    """The size of what one agent carries from step to step."""
    state = jax.eval_shape(jax.vmap(lambda policy: policy.memory.init()), policies)
    one = jax.tree.leaves(jax.eval_shape(lambda tree: one_seed(tree, 0), state))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in one)


def _evaluate(
    config: RunConfig,
    folder: Folder,
    name: str,
    world: AbstractWorld,
    roll: "Roll",
    policy: ActorCritic,
) -> dict[str, object]:
    """Fresh episodes of every seed's trained agent, acting as it was trained to (it samples its actions)."""
    slots = roll(policy, jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 1), config.seeds))
    reward = mean_rewards(np.asarray(slots.reward), np.asarray(slots.acts))
    result: dict[str, object] = {"event": "result", "memory": name, "reward": reward}
    result["returns"], result["episodes"] = episode_returns(np.asarray(slots.returns))
    if (card := world.card()) is not None:
        result["card"] = card._asdict()
    model = world.tables()
    if model is None:
        return result | {"decoding_error": None, "total_variation": None}
    decoded = [decode(one_seed(policy, s), model, one_seed(slots, s)) for s in range(config.seeds)]
    first = jax.tree.map(lambda x: np.asarray(x)[0][:, decoded[0].held_out][:, 0], slots)
    length = first_episode(first.start)
    folder.save_arrays(
        f"episodes/{name}.npz",
        hidden=first.hidden[:length],
        belief=decoded[0].belief[:length, 0],
        decoded=decoded[0].decoded[:length, 0],
        reward=first.reward[:length],
        action=first.action[:length],
    )
    return result | {
        "decoding_error": [d.decoding_error for d in decoded],
        "total_variation": [d.total_variation for d in decoded],
    }


def mean_rewards(reward: np.ndarray, acts: np.ndarray) -> list[float]:
    """Of (seed, time, actor): each seed's mean over decisions; a slot that does not act earns nothing."""
    return [float(r[a].mean()) for r, a in zip(reward, acts, strict=True)]


def episode_returns(returns: np.ndarray) -> tuple[list[float] | None, int]:
    """Of (seed, time, actor), NaN where no episode ended: the mean of the first k of every copy, with k the
    most that all copies have, so that short episodes are not favoured; and how many episodes that are per
    seed. (None, 0) if some copy ended none."""
    ended = ~np.isnan(returns)
    each = int(ended.sum(axis=1).min())
    if each == 0:
        return None, 0
    counted = ended & (np.cumsum(ended, axis=1) <= each)
    return [float(r[c].mean()) for r, c in zip(returns, counted, strict=True)], each * returns.shape[2]


def first_episode(starts: np.ndarray) -> int:
    """How many slots the first episode has."""
    later = np.flatnonzero(starts[1:])
    return int(later[0]) + 1 if len(later) else len(starts)


Roll = Callable[[ActorCritic, Key[Array, " seeds"]], Slot]


def episodes(
    world: AbstractWorld, policy: ActorCritic, keys: Key[Array, " seeds"], actors: int, steps: int
) -> Slot:
    """Fresh episodes of all seeds' agents in ``actors`` copies: slots with leading axes (seed, time,
    actor)."""
    return roller(world, actors, steps)(policy, keys)


def roller(world: AbstractWorld, actors: int, steps: int) -> Roll:
    """``episodes`` of one world, compiled at the first of its calls."""
    if isinstance(world, AbstractHostWorld):
        return lambda policy, keys: _host_episodes(world, policy, keys, actors, steps)

    def one(policy: ActorCritic, key: jax.Array) -> Slot:
        begin_key, act_key = jax.random.split(key)
        begun = jax.vmap(begin, in_axes=(None, None, 0))(policy, world, jax.random.split(begin_key, actors))
        return collect(policy, world, begun, act_key, steps)[1]

    return jax.jit(jax.vmap(one))


def _host_episodes(world, policy, keys, actors: int, steps: int) -> Slot:
    rollout = host.Rollout(world, actors, steps)
    blank = jax.vmap(lambda policy: host.blank(policy, world, actors))(policy)
    return rollout.collect(policy, rollout.begin(blank, keys), keys)[1]

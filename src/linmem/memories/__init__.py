"""Memories by name. A maker takes (world, size, key) and gives a memory
of the world's raw steps (``Inputs``).

To add a paper's layer: one file here that states the recurrence, its ``reference`` and an ``example``; one
class in ``CONFORMING``; and, for agents to use it, one ``MEMORIES.add`` line (``_block`` makes a memory of
raw steps from a layer of vectors).
"""

from collections.abc import Callable

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

from ..core.registry import Registry
from ..worlds.base import AbstractWorld
from ..worlds.tables import POMDP
from .base import AbstractLinearMemory, AbstractMemory
from .belief import Belief, LogForward, Viterbi, identity, viterbi_path
from .deep_alf import PARTS, DeepALF, random_deep_alf
from .gru import GRU
from .linear_filter import AdaptiveLinearFilter, ExactLinearFilter, InitialStateFilter
from .none import NoMemory
from .readouts import named_readout
from .s5 import S5
from .stack import Encoded, Features, Residual
from .trace import Trace

__all__ = [
    "CONFORMING",
    "GRU",
    "MEMORIES",
    "S5",
    "AbstractLinearMemory",
    "AbstractMemory",
    "AdaptiveLinearFilter",
    "Belief",
    "DeepALF",
    "Encoded",
    "ExactLinearFilter",
    "Features",
    "InitialStateFilter",
    "LogForward",
    "NoMemory",
    "Residual",
    "Trace",
    "Viterbi",
    "identity",
    "random_deep_alf",
    "viterbi_path",
]

PAPER = "Zhao et al. 2026, arXiv:2605.31261"
ALF_DELTA = 0.05  # best of 0.03, 0.05, 0.07, 0.1, 0.15, 0.2 on our RingWorld; the paper took 0.1 on its own

CONFORMING: list[type[AbstractMemory]] = [
    NoMemory,
    Belief,
    LogForward,
    Viterbi,
    ExactLinearFilter,
    AdaptiveLinearFilter,
    InitialStateFilter,
    DeepALF,
    Trace,
    S5,
    GRU,
    Encoded,
    Residual,
]
"""Every class that promises what ``promises.py`` checks;
a memory file with a class missing here fails a test."""

MEMORIES = Registry("memory")

Maker = Callable[[AbstractWorld, int, PRNGKeyArray], AbstractMemory]


def _tables(world: AbstractWorld, memory: str) -> POMDP:
    model = world.tables()
    if model is None:
        raise ValueError(
            f"memory '{memory}' is made from a finite model, and {type(world).__name__} has no tables; "
            "take a learned memory (s5, gru, ...) there"
        )
    return model


def _belief(world: AbstractWorld, size: int, key: PRNGKeyArray) -> AbstractMemory:
    return Belief(_tables(world, "belief"))


def _belief_logits(world: AbstractWorld, size: int, key: PRNGKeyArray) -> AbstractMemory:
    return Belief(_tables(world, "belief_logits"), readout=identity)


def _lof(world: AbstractWorld, size: int, key: PRNGKeyArray, readout: str = "logits") -> AbstractMemory:
    return LogForward(_tables(world, "lof"), named_readout(readout))


def _alf(
    world: AbstractWorld, size: int, key: PRNGKeyArray, delta: float = ALF_DELTA, readout: str = "logits"
) -> AbstractMemory:
    return AdaptiveLinearFilter(_tables(world, "alf"), delta, readout=named_readout(readout))


def _deep_alf(
    world: AbstractWorld, size: int, key: PRNGKeyArray, random: str = "none", delta: float = ALF_DELTA
) -> AbstractMemory:
    """random: the parts that begin at random, with commas between; or none."""
    model = _tables(world, "deep_alf")
    drawn = frozenset() if random == "none" else frozenset(random.split(","))
    if wrong := drawn - PARTS:
        raise ValueError(f"Deep ALF has no part {sorted(wrong)}; known parts: {', '.join(sorted(PARTS))}")
    sizes = (model.n_states, model.n_actions, model.n_observations)
    return random_deep_alf(*sizes, key=key, model=model, known=PARTS - drawn, delta=delta)


def _deep_alf_random(world: AbstractWorld, size: int, key: PRNGKeyArray) -> AbstractMemory:
    model = _tables(world, "deep_alf_random")
    return random_deep_alf(model.n_states, model.n_actions, model.n_observations, key=key)


def _learned(world: AbstractWorld, size: int, key: PRNGKeyArray, memory: AbstractMemory) -> AbstractMemory:
    features = Features(world.observation_space, world.action_space)
    return Encoded(features, eqx.nn.Linear(features.size, size, key=key), memory)  # pyright: ignore[reportCallIssue]


def _block(layer: Callable[[int, PRNGKeyArray], AbstractMemory]) -> Maker:
    """A maker from a layer (size, key) of equal in and out size: encoder, then residual block.

    ``hidden`` is a size of its own; 0 takes the learner's.
    """

    def make(world: AbstractWorld, size: int, key: PRNGKeyArray, hidden: int = 0) -> AbstractMemory:
        size = hidden or size
        in_key, memory_key, block_key = jax.random.split(key, 3)
        return _learned(world, size, in_key, Residual(layer(size, memory_key), key=block_key))

    return make


def _gru(world: AbstractWorld, size: int, key: PRNGKeyArray) -> AbstractMemory:
    in_key, memory_key = jax.random.split(key)
    return _learned(world, size, in_key, GRU(size, size, key=memory_key))


def _trace(world: AbstractWorld, size: int, key: PRNGKeyArray) -> AbstractMemory:
    features = Features(world.observation_space, world.action_space)
    return Encoded(features, None, Trace(features.size))  # pyright: ignore[reportCallIssue]


def _none(world: AbstractWorld, size: int, key: PRNGKeyArray) -> AbstractMemory:
    features = Features(world.observation_space, world.action_space, action=False)
    return Encoded(features, None, NoMemory(features.size))  # pyright: ignore[reportCallIssue]


MEMORIES.add("belief", _belief, "exact Bayes belief: the log-sum-exp reading, then softmax", PAPER)
MEMORIES.add("belief_logits", _belief_logits, "the exact filter's logits, the largest always 0", PAPER)
MEMORIES.add("lof", _lof, "the exact filter's raw logits, falling without bound", PAPER)
MEMORIES.add("alf", _alf, f"adaptive linear filter of the known model, delta = {ALF_DELTA}", PAPER)
MEMORIES.add(
    "deep_alf", _deep_alf, "ALF with learnable Lambda, V, E, delta, begun from the known model", PAPER
)
MEMORIES.add("deep_alf_random", _deep_alf_random, "the same, begun at random", PAPER)
MEMORIES.add(
    "s5",
    _block(lambda size, key: S5(size, 2 * (size // 2), key=key)),
    "diagonal state space, zero-order hold, residual block",
    "Smith et al. 2023, arXiv:2208.04933",
)
MEMORIES.add("gru", _gru, "gated recurrent unit (nonlinear)", "Cho et al. 2014, arXiv:1406.1078")
MEMORIES.add(
    "trace", _trace, "exponential averages of the inputs at 5 rates", "Eberhard et al. 2025, arXiv:2503.15200"
)
MEMORIES.add("none", _none, "no memory: the present observation only", "-")

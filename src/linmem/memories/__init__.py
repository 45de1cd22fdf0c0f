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
from .belief import Belief, Viterbi, identity, viterbi_path
from .deep_alf import DeepALF, random_deep_alf
from .diagonal import ptd
from .dss import DSS
from .ffm import FFM
from .filter_bank import FilterBank
from .gru import GRU
from .gss import GSS
from .hiss import HiSS
from .linear_filter import AdaptiveLinearFilter, ExactLinearFilter, InitialStateFilter, from_model
from .lru import LRU
from .lssl import LSSL
from .none import NoMemory
from .prophecy import HippoProphecy
from .rtf import RTF
from .s4 import S4
from .s4d import S4D
from .s5 import S5
from .self_tuning import SelfTuningFilter
from .smr import StateMemoryReplay
from .space_time import SpaceTime
from .stack import Encoded, Features, Residual
from .state_offset import StateOffset
from .stu import STU
from .trace import Trace

__all__ = [
    "CONFORMING",
    "DSS",
    "FFM",
    "GRU",
    "GSS",
    "LRU",
    "LSSL",
    "MEMORIES",
    "RTF",
    "S4",
    "S4D",
    "S5",
    "STU",
    "AbstractLinearMemory",
    "AbstractMemory",
    "AdaptiveLinearFilter",
    "Belief",
    "DeepALF",
    "Encoded",
    "ExactLinearFilter",
    "Features",
    "FilterBank",
    "HiSS",
    "HippoProphecy",
    "InitialStateFilter",
    "NoMemory",
    "Residual",
    "SelfTuningFilter",
    "SpaceTime",
    "StateMemoryReplay",
    "StateOffset",
    "Trace",
    "Viterbi",
    "from_model",
    "identity",
    "random_deep_alf",
    "viterbi_path",
]

PAPER = "Zhao et al. 2026, arXiv:2605.31261"
ALF_DELTA = 0.05  # best of 0.03, 0.05, 0.07, 0.1, 0.15, 0.2 on our RingWorld; the paper took 0.1 on its own

CHANNEL_STATE = 16
"""State size of each channel in the layers that have one for each."""

CONFORMING: list[type[AbstractMemory]] = [
    NoMemory,
    Belief,
    Viterbi,
    ExactLinearFilter,
    AdaptiveLinearFilter,
    InitialStateFilter,
    FilterBank,
    SelfTuningFilter,
    DeepALF,
    Trace,
    S5,
    S4,
    S4D,
    DSS,
    LSSL,
    LRU,
    GRU,
    Encoded,
    Residual,
    FFM,
    GSS,
    HiSS,
    HippoProphecy,
    RTF,
    STU,
    SpaceTime,
    StateMemoryReplay,
    StateOffset,
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


def _auto(world: AbstractWorld, size: int, key: PRNGKeyArray) -> AbstractMemory:
    return from_model(_tables(world, "auto"))


def _alf(world: AbstractWorld, size: int, key: PRNGKeyArray) -> AbstractMemory:
    return AdaptiveLinearFilter(_tables(world, "alf"), ALF_DELTA)


def _alf_bank(world: AbstractWorld, size: int, key: PRNGKeyArray) -> AbstractMemory:
    return FilterBank(_tables(world, "alf_bank"))


def _alf_self_tuning(world: AbstractWorld, size: int, key: PRNGKeyArray) -> AbstractMemory:
    return SelfTuningFilter(_tables(world, "alf_self_tuning"))


def _deep_alf(world: AbstractWorld, size: int, key: PRNGKeyArray) -> AbstractMemory:
    model = _tables(world, "deep_alf")
    known = frozenset({"Lambda", "V", "E", "delta"})
    sizes = (model.n_states, model.n_actions, model.n_observations)
    return random_deep_alf(*sizes, key=key, model=model, known=known, delta=ALF_DELTA)


def _deep_alf_random(world: AbstractWorld, size: int, key: PRNGKeyArray) -> AbstractMemory:
    model = _tables(world, "deep_alf_random")
    return random_deep_alf(model.n_states, model.n_actions, model.n_observations, key=key)


def _learned(world: AbstractWorld, size: int, key: PRNGKeyArray, memory: AbstractMemory) -> AbstractMemory:
    features = Features(world.observation_space, world.action_space)
    return Encoded(features, eqx.nn.Linear(features.size, size, key=key), memory)  # pyright: ignore[reportCallIssue]


def _block(layer: Callable[[int, PRNGKeyArray], AbstractMemory]) -> Maker:
    """A maker from a layer (size, key) of equal in and out size: encoder, then residual block."""

    def make(world: AbstractWorld, size: int, key: PRNGKeyArray) -> AbstractMemory:
        in_key, memory_key, block_key = jax.random.split(key, 3)
        return _learned(world, size, in_key, Residual(layer(size, memory_key), key=block_key))

    return make


def _layer(layer: Callable[[int, PRNGKeyArray], AbstractMemory]) -> Maker:
    """A maker from a layer (size, key) that brings its own norm and residual, or needs none: encoder only."""

    def make(world: AbstractWorld, size: int, key: PRNGKeyArray) -> AbstractMemory:
        in_key, memory_key = jax.random.split(key)
        return _learned(world, size, in_key, layer(size, memory_key))

    return make


def _smr_s5(size: int, key: PRNGKeyArray) -> AbstractMemory:
    replay_key, memory_key = jax.random.split(key)
    return StateMemoryReplay(size, S5(size, 2 * (size // 2), key=memory_key), key=replay_key)


def _hiss(size: int, key: PRNGKeyArray) -> AbstractMemory:
    keys = jax.random.split(key, 4)
    low, high = (Residual(S5(size, 2 * (size // 2), key=keys[i]), key=keys[i + 1]) for i in (0, 2))
    return HiSS(low, high, 10)  # pyright: ignore[reportCallIssue]


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
MEMORIES.add("belief_logits", _belief_logits, "the exact filter's raw logits", PAPER)
MEMORIES.add(
    "auto", _auto, "the cheapest filter that theory allows for the model, or the belief", "this library"
)
MEMORIES.add("alf", _alf, f"adaptive linear filter of the known model, delta = {ALF_DELTA}", PAPER)
MEMORIES.add("alf_bank", _alf_bank, "adaptive linear filters at 9 rates, logits side by side", "this library")
MEMORIES.add(
    "alf_self_tuning", _alf_self_tuning, "the bank, weighed by how well each rate predicts", "this library"
)
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
MEMORIES.add(
    "s5_ptd",
    _block(lambda size, key: S5(size, 2 * (size // 2), key=key, init=ptd)),
    "S5 begun from a perturbed, then diagonalised HiPPO matrix",
    "Yu et al. 2023, arXiv:2310.01698",
)
MEMORIES.add(
    "lru",
    _block(lambda size, key: LRU(size, size, key=key)),
    "linear recurrent unit: complex diagonal, begun on a ring, inputs normalised",
    "Orvieto et al. 2023, arXiv:2303.06349",
)
MEMORIES.add(
    "s4",
    _block(lambda size, key: S4(size, CHANNEL_STATE, key=key)),
    "diagonal plus low rank, a state for each channel",
    "Gu et al. 2021, arXiv:2111.00396",
)
MEMORIES.add(
    "s4d",
    _block(lambda size, key: S4D(size, CHANNEL_STATE, key=key)),
    "diagonal, a state for each channel",
    "Gu et al. 2022, arXiv:2206.11893",
)
MEMORIES.add(
    "dss",
    _block(lambda size, key: DSS(size, CHANNEL_STATE, key=key)),
    "diagonal, a state for each channel, eigenvalues shared",
    "Gupta et al. 2022, arXiv:2203.14343",
)
MEMORIES.add(
    "lssl",
    _block(lambda size, key: LSSL(size, CHANNEL_STATE, key=key)),
    "dense, a state for each channel",
    "Gu et al. 2021, arXiv:2110.13985",
)
MEMORIES.add("gru", _gru, "gated recurrent unit (nonlinear)", "Cho et al. 2014, arXiv:1406.1078")
MEMORIES.add(
    "trace", _trace, "exponential averages of the inputs at 5 rates", "Eberhard et al. 2025, arXiv:2503.15200"
)
MEMORIES.add("none", _none, "no memory: the present observation only", "-")
MEMORIES.add(
    "ffm",
    _layer(lambda size, key: FFM(size, size, 32, 4, key=key)),
    "decaying, rotating sums of 32 traces at 4 frequencies, gated",
    "Morad et al. 2023, arXiv:2310.04128",
)
MEMORIES.add(
    "gss",
    _layer(lambda size, key: GSS(size, 2 * size, max(1, size // 4), 16, key=key)),
    "narrow diagonal state space that gates a wide branch",
    "Mehta et al. 2022, arXiv:2206.13947",
)
MEMORIES.add(
    "rtf",
    _block(lambda size, key: RTF(size, 16, key=key)),
    "rational transfer function of order 16 per channel, residual block",
    "Parnichkun et al. 2024, arXiv:2405.06147",
)
MEMORIES.add(
    "space_time",
    _block(lambda size, key: SpaceTime(size, 16, key=key)),
    "companion-matrix state space of order 16 per channel, residual block",
    "Zhang et al. 2023, arXiv:2303.09489",
)
MEMORIES.add(
    "prophecy",
    _block(lambda size, key: HippoProphecy(size, 16, 50)),
    "HiPPO-LegT of the last 50 inputs, begun as a predictor of the next, residual block",
    "Arangath Joseph et al. 2024, arXiv:2407.09375",
)
MEMORIES.add(
    "stu",
    _block(lambda size, key: STU(size, 8, 64, key=key)),
    "8 fixed spectral filters over the last 64 inputs, learned mixing, residual block",
    "Agarwal et al. 2024, arXiv:2312.06837",
)
MEMORIES.add(
    "smr_s5",
    _block(_smr_s5),
    "S5 behind a gate of the last 4 inputs, residual block",
    "Qi et al. 2024, arXiv:2405.17534",
)
MEMORIES.add(
    "hiss",
    _layer(_hiss),
    "S5 over chunks of 10 steps, S5 over the chunks",
    "Bhirangi et al. 2024, arXiv:2402.10211",
)

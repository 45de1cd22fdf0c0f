"""Memories by name. A maker takes (world, size, key) and gives a memory
of the world's raw steps (``Inputs``).

To add a paper's layer: one file here that states the recurrence, its ``reference`` and an ``example``; one
class in ``CONFORMING``; and, for agents to use it, one ``MEMORIES.add`` line (``_block`` makes a memory of
raw steps from a layer of vectors).
"""

from collections.abc import Callable

import jax
from jaxtyping import PRNGKeyArray

from ..core.registry import Registry
from ..worlds.base import AbstractWorld
from ..worlds.spaces import Discrete
from ..worlds.tables import POMDP
from .base import AbstractLinearMemory, AbstractMemory
from .belief import Belief, LogForward, Viterbi, identity, viterbi_path
from .beside import Beside
from .deep_alf import PARTS, DeepALF, random_deep_alf
from .deltanet import DeltaNet
from .deltaproduct import DeltaProduct
from .diagonal import ptd
from .dss import DSS
from .ffm import FFM
from .filter_bank import FilterBank
from .fixed_point_rnn import FixedPointRNN
from .gated_deltanet import GatedDeltaNet
from .gla import GLA
from .gru import GRU
from .gss import GSS
from .hiss import HiSS
from .learned_trace import PERIODS, LearnedTrace
from .linear_filter import AdaptiveLinearFilter, ExactLinearFilter, InitialStateFilter, from_model
from .longhorn import Longhorn
from .lru import LRU
from .lssl import LSSL
from .mamba import Mamba
from .mamba2 import Mamba2
from .mlstm import MLSTM
from .none import NoMemory
from .normalised import Normalised
from .prophecy import HippoProphecy
from .readouts import floored, named_readout
from .rtf import RTF
from .rwkv7 import RWKV7
from .s4 import S4
from .s4d import S4D
from .s5 import S5
from .s7 import S7
from .sd_ssm import SDSSM
from .self_tuning import SelfTuningFilter
from .slice import (
    BlockSLiCE,
    ComplexSLiCE,
    DiagonalSLiCE,
    HadamardSLiCE,
    LowRankSLiCE,
    SparseSLiCE,
)
from .smr import StateMemoryReplay
from .space_time import SpaceTime
from .stack import Encoded, Features, Layer, Learned, Residual
from .state_offset import StateOffset
from .stu import STU
from .trace import Trace
from .window import Window

__all__ = [
    "CONFORMING",
    "DSS",
    "FFM",
    "GLA",
    "GRU",
    "GSS",
    "LRU",
    "LSSL",
    "MEMORIES",
    "MLSTM",
    "RTF",
    "RWKV7",
    "S4",
    "S4D",
    "S5",
    "S7",
    "SDSSM",
    "STU",
    "AbstractLinearMemory",
    "AbstractMemory",
    "AdaptiveLinearFilter",
    "Belief",
    "Beside",
    "BlockSLiCE",
    "ComplexSLiCE",
    "DeepALF",
    "DeltaNet",
    "DeltaProduct",
    "DiagonalSLiCE",
    "Encoded",
    "ExactLinearFilter",
    "Features",
    "FilterBank",
    "FixedPointRNN",
    "GatedDeltaNet",
    "HadamardSLiCE",
    "HiSS",
    "HippoProphecy",
    "InitialStateFilter",
    "LearnedTrace",
    "LogForward",
    "Longhorn",
    "LowRankSLiCE",
    "Mamba",
    "Mamba2",
    "NoMemory",
    "Normalised",
    "Residual",
    "SelfTuningFilter",
    "SpaceTime",
    "SparseSLiCE",
    "StateMemoryReplay",
    "StateOffset",
    "Trace",
    "Viterbi",
    "Window",
    "from_model",
    "identity",
    "learned_layers",
    "random_deep_alf",
    "viterbi_path",
]

PAPER = "Zhao et al. 2026, arXiv:2605.31261"
ALF_DELTA = 0.05  # near the best on our RingWorld (`linmem reproduce ringworld-choices --parts delta`)

CHANNEL_STATE = 16
"""State size of each channel in the layers that have one for each."""

CONFORMING: list[type[AbstractMemory]] = [
    NoMemory,
    Belief,
    LogForward,
    Viterbi,
    ExactLinearFilter,
    AdaptiveLinearFilter,
    InitialStateFilter,
    FilterBank,
    SelfTuningFilter,
    DeepALF,
    Trace,
    Window,
    Beside,
    LearnedTrace,
    S5,
    S4,
    S4D,
    DSS,
    LSSL,
    LRU,
    GRU,
    DiagonalSLiCE,
    ComplexSLiCE,
    BlockSLiCE,
    LowRankSLiCE,
    SparseSLiCE,
    HadamardSLiCE,
    SDSSM,
    Mamba,
    Longhorn,
    S7,
    FixedPointRNN,
    Mamba2,
    GLA,
    MLSTM,
    DeltaNet,
    GatedDeltaNet,
    DeltaProduct,
    RWKV7,
    Encoded,
    Residual,
    Normalised,
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
    return Belief(_tables(world, "belief_logits"), readout=floored)


def _auto(world: AbstractWorld, size: int, key: PRNGKeyArray) -> AbstractMemory:
    return from_model(_tables(world, "auto"))


def _lof(world: AbstractWorld, size: int, key: PRNGKeyArray, readout: str = "logits") -> AbstractMemory:
    return LogForward(_tables(world, "lof"), named_readout(readout))


def _alf(
    world: AbstractWorld, size: int, key: PRNGKeyArray, delta: float = ALF_DELTA, readout: str = "logits"
) -> AbstractMemory:
    return AdaptiveLinearFilter(_tables(world, "alf"), delta, readout=named_readout(readout))


def _alf_bank(world: AbstractWorld, size: int, key: PRNGKeyArray) -> AbstractMemory:
    return FilterBank(_tables(world, "alf_bank"))


def _alf_self_tuning(world: AbstractWorld, size: int, key: PRNGKeyArray) -> AbstractMemory:
    return SelfTuningFilter(_tables(world, "alf_self_tuning"))


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


def _deep_alf_random(world: AbstractWorld, size: int, key: PRNGKeyArray, states: int = 0) -> AbstractMemory:
    """states: 0 takes the world's, from its tables; with a number of one's own no tables are needed."""
    if not states:
        if (model := world.tables()) is None:
            raise ValueError(
                f"{type(world).__name__} has no tables that say how many states there are; name a number of "
                "your own: deep_alf_random@states=64"
            )
        states = model.n_states
    observations, actions = world.observation_space, world.action_space
    if not (isinstance(observations, Discrete) and isinstance(actions, Discrete)):
        raise ValueError(
            f"memory 'deep_alf_random' reads one of n observations and actions; {type(world).__name__} has "
            f"{type(observations).__name__} and {type(actions).__name__}; take another (s5, gru, ...) there"
        )
    return random_deep_alf(states, actions.n, observations.n, key=key)


def _even(size: int) -> int:
    """A state size near ``size`` that is made of pairs."""
    return max(2, 2 * (size // 2))


def _block(layer: Layer) -> Learned:
    """A maker from a layer of equal in and out size: encoder, then residual block."""
    return Learned(layer, residual=True)


def _layer(layer: Layer) -> Learned:
    """A maker from a layer that brings its own norm and residual, or needs none: encoder only."""
    return Learned(layer, residual=False)


def _signed(layer: Callable[..., AbstractMemory], negative: bool = False) -> Learned:
    """A block around a layer whose eigenvalues may be negative (``eigenvalue_range.py``), as a name can say;
    ``negative`` is what it does unasked."""
    return _block(
        lambda size, key, negative_eigenvalues=negative: layer(
            size, negative_eigenvalues=negative_eigenvalues, key=key
        )
    )


def _smr_s5(size: int, key: PRNGKeyArray) -> AbstractMemory:
    replay_key, memory_key = jax.random.split(key)
    return StateMemoryReplay(size, S5(size, _even(size), key=memory_key), key=replay_key)


def _hiss(size: int, key: PRNGKeyArray) -> AbstractMemory:
    keys = jax.random.split(key, 4)
    low, high = (Residual(S5(size, _even(size), key=keys[i]), key=keys[i + 1]) for i in (0, 2))
    return HiSS(low, high, 10)  # pyright: ignore[reportCallIssue]


def _fixed(world: AbstractWorld, reward: bool, memory: Callable[[int], AbstractMemory]) -> AbstractMemory:
    """A memory with nothing to learn, of as many inputs as a step has features, without encoder."""
    features = Features(world.observation_space, world.action_space, reward=reward)
    return Encoded(features, None, memory(features.size))  # pyright: ignore[reportCallIssue]


def _trace(world: AbstractWorld, size: int, key: PRNGKeyArray, reward: bool = False) -> AbstractMemory:
    return _fixed(world, reward, Trace)  # pyright: ignore[reportArgumentType]


def _window(
    world: AbstractWorld, size: int, key: PRNGKeyArray, length: int = 8, reward: bool = False
) -> AbstractMemory:
    return _fixed(world, reward, lambda size: Window(size, length))  # pyright: ignore[reportCallIssue]


def _window_trace(
    world: AbstractWorld,
    size: int,
    key: PRNGKeyArray,
    length: int = 4,
    decays: tuple[float, ...] = (0.9, 0.97, 0.99),
    reward: bool = False,
) -> AbstractMemory:
    def both(size: int) -> AbstractMemory:
        window, traces = Window(size, length), Trace(size, decays)  # pyright: ignore
        return Beside((window, traces))  # pyright: ignore[reportCallIssue]

    return _fixed(world, reward, both)


def _learned_trace(
    world: AbstractWorld,
    size: int,
    key: PRNGKeyArray,
    traces: int = 0,
    periods: tuple[float, ...] = PERIODS,
    reward: bool = False,
) -> AbstractMemory:
    """traces: 0 takes as many as give about ``size`` complex states. Half as many features are read out of
    them, since all that follows costs in proportion."""
    if traces < 0:
        raise ValueError(f"traces is {traces}; it must be at least 1, or 0 for about the learner's size")
    features = Features(world.observation_space, world.action_space, reward=reward)
    traces = traces or max(1, size // max(1, len(periods)))
    memory = LearnedTrace(features.size, max(1, size // 2), traces, periods, key=key)
    return Encoded(features, None, memory)  # pyright: ignore[reportCallIssue]


def _none(world: AbstractWorld, size: int, key: PRNGKeyArray) -> AbstractMemory:
    features = Features(world.observation_space, world.action_space, action=False)
    return Encoded(features, None, NoMemory(features.size))  # pyright: ignore[reportCallIssue]


MEMORIES.add("belief", _belief, "exact Bayes belief: the log-sum-exp reading, then softmax", PAPER)
MEMORIES.add(
    "belief_logits", _belief_logits, "the exact filter's logits, at most 50 below the largest, 0", PAPER
)
MEMORIES.add("lof", _lof, "the exact filter's raw logits, falling without bound, at most 50 apart", PAPER)
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
MEMORIES.add(
    "deep_alf_random", _deep_alf_random, "the same, begun at random, with as many states as wished", PAPER
)
MEMORIES.add(
    "s5",
    _block(lambda size, key: S5(size, _even(size), key=key)),
    "diagonal state space, zero-order hold, residual block",
    "Smith et al. 2023, arXiv:2208.04933",
)
MEMORIES.add(
    "s5_ptd",
    _block(lambda size, key: S5(size, _even(size), key=key, init=ptd)),
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
MEMORIES.add(
    "gru",
    _layer(lambda size, key: GRU(size, size, key=key)),
    "gated recurrent unit (nonlinear)",
    "Cho et al. 2014, arXiv:1406.1078",
)
MEMORIES.add(
    "trace", _trace, "exponential averages of the inputs at 5 rates", "Eberhard et al. 2025, arXiv:2503.15200"
)
MEMORIES.add(
    "window",
    _window,
    "the last 8 inputs side by side (frame stacking)",
    "Mnih et al. 2015, doi:10.1038/nature14236",
)
MEMORIES.add(
    "window_trace",
    _window_trace,
    "the last 4 inputs exactly, beside their averages at 3 slow rates",
    "Mozer 1994, in Time Series Prediction, SFI Studies XV",
)
MEMORIES.add(
    "learned_trace",
    _learned_trace,
    "mixtures of the raw inputs, summed up by decays that turn; all learned, all linear",
    "this library",
)
MEMORIES.add(
    "mamba",
    _signed(Mamba),
    "selective diagonal state space, decays in [0, 1]",
    "Gu and Dao 2023, arXiv:2312.00752",
)
MEMORIES.add(
    "mamba_negative",
    _block(lambda size, key: Mamba(size, negative_eigenvalues=True, key=key)),
    "the same with decays in [-1, 1]",
    "Grazzi et al. 2024, arXiv:2411.12537",
)
MEMORIES.add(
    "longhorn",
    _block(lambda size, key: Longhorn(size, key=key)),
    "state as an online learner, updated in closed form",
    "Liu et al. 2024, arXiv:2407.14207",
)
MEMORIES.add(
    "s7",
    # a step reads 2 size^2 numbers for every state
    _block(lambda size, key: S7(size, min(size, 32), key=key)),
    "selective S5 with a stable reparametrisation",
    "Soydan et al. 2024, arXiv:2410.03464",
)
MEMORIES.add(
    "sd_ssm",
    _block(lambda size, key: SDSSM(size, size, key=key)),
    "dense transitions mixed from a dictionary",
    "Terzic et al. 2024, arXiv:2412.19350",
)
MEMORIES.add(
    "fixed_point_rnn",
    _block(lambda size, key: FixedPointRNN(size, size, key=key)),
    "dense recurrence as fixed point of a diagonal one",
    "Movahedi et al. 2025, arXiv:2503.10799",
)
_SLICE = "Walker et al. 2025, arXiv:2505.17761"
MEMORIES.add(
    "slice_diagonal",
    _block(lambda size, key: DiagonalSLiCE(size, size, key=key)),
    "linear controlled equation, diagonal",
    _SLICE,
)
MEMORIES.add(
    "slice_block",
    _block(lambda size, key: BlockSLiCE(size, -(-size // 4) * 4, key=key)),
    "the same with 4 x 4 blocks",
    _SLICE,
)
MEMORIES.add(
    "slice_low_rank",
    _block(lambda size, key: LowRankSLiCE(size, size, key=key)),
    "the same, diagonal plus low rank",
    _SLICE,
)
MEMORIES.add(
    "slice_sparse",
    _block(lambda size, key: SparseSLiCE(size, size, min(4, size), key=key)),
    "the same with 4 entries a row",
    _SLICE,
)
MEMORIES.add(
    "slice_hadamard",
    _block(lambda size, key: HadamardSLiCE(size, 1 << (size - 1).bit_length(), key=key)),
    "the same, diagonal times Walsh-Hadamard",
    _SLICE,
)
MEMORIES.add("none", _none, "no memory: the present observation only", "-")
MEMORIES.add(
    "mamba2",
    _signed(Mamba2),
    "state space with one decay per head (SSD), residual block",
    "Dao and Gu 2024, arXiv:2405.21060",
)
MEMORIES.add(
    "gla",
    _signed(GLA),
    "gated linear attention: a decay per key channel, residual block",
    "Yang et al. 2023, arXiv:2312.06635",
)
MEMORIES.add(
    "mlstm",
    _signed(MLSTM),
    "matrix LSTM: exponential input gate, normaliser, residual block",
    "Beck et al. 2024, arXiv:2405.04517",
)
MEMORIES.add(
    "deltanet",
    _signed(DeltaNet),
    "delta rule, residual block",
    "Yang et al. 2024, arXiv:2406.06484",
)
MEMORIES.add(
    "gated_deltanet",
    _signed(GatedDeltaNet),
    "delta rule with a decay per head, residual block",
    "Yang et al. 2024, arXiv:2412.06464",
)
MEMORIES.add(
    "deltaproduct",
    _signed(DeltaProduct, negative=True),
    "two delta rule writes a step, residual block",
    "Siems et al. 2025, arXiv:2502.10297",
)
MEMORIES.add(
    "rwkv7",
    _block(lambda size, key: RWKV7(size, key=key)),
    "vector decay with removal along its own key, residual block",
    "Peng et al. 2025, arXiv:2503.14456",
)
MEMORIES.add(
    "ffm",
    _layer(lambda size, key: FFM(size, size, 32, 4, key=key)),
    "decaying, rotating sums of 32 traces at 4 frequencies, gated",
    "Morad et al. 2023, arXiv:2310.04128",
)
MEMORIES.add(
    "ffm_geometric",
    _layer(lambda size, key: FFM(size, size, 32, 4, (4.0, 16.0, 64.0, 256.0), key=key)),
    "the same, its frequencies begun with periods of 4 to 256 steps",
    "this library",
)
MEMORIES.add(
    "gss",
    _layer(lambda size, key: GSS(size, 2 * size, max(1, size // 4), 16, key=key)),
    "narrow diagonal state space that gates a wide branch",
    "Mehta et al. 2022, arXiv:2206.13947",
)
MEMORIES.add(
    "rtf",
    _block(lambda size, key: RTF(size, 16, stable=True, key=key)),
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


def learned_layers() -> dict[str, Layer]:
    """The layers of the learned memories, by the memories' names, without encoder and residual block."""
    return {entry.name: entry.make.layer for entry in MEMORIES if isinstance(entry.make, Learned)}

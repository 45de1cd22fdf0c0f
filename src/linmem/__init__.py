"""linmem: linear recurrent memory for decisions under partial observability.

One equation, h_t = A_t h_{t-1} + b_t, read as ordinary arithmetic, as log-sum-exp, or as max-plus.
"""

from .agents import AGENTS, ActorCritic, PPOConfig
from .certificates import analyse
from .core.algebra import (
    BlockDiagonal,
    Dense,
    Diagonal,
    Element,
    LogSumExp,
    MaxPlus,
    Ordinary,
    Permutation,
    Permuted,
    Switch,
    Switched,
)
from .core.scan import scan
from .core.types import Inputs
from .experiments.config import RunConfig
from .experiments.deploy import Policy, load
from .memories import (
    GRU,
    MEMORIES,
    S5,
    AbstractLinearMemory,
    AbstractMemory,
    AdaptiveLinearFilter,
    Belief,
    DeepALF,
    ExactLinearFilter,
    InitialStateFilter,
    NoMemory,
    Trace,
    Viterbi,
    viterbi_path,
)
from .tasks import TASKS
from .worlds import HMM, POMDP, WORLDS, RingWorld

__all__ = [
    "AGENTS",
    "GRU",
    "HMM",
    "MEMORIES",
    "POMDP",
    "S5",
    "TASKS",
    "WORLDS",
    "AbstractLinearMemory",
    "AbstractMemory",
    "ActorCritic",
    "AdaptiveLinearFilter",
    "Belief",
    "BlockDiagonal",
    "DeepALF",
    "Dense",
    "Diagonal",
    "Element",
    "ExactLinearFilter",
    "InitialStateFilter",
    "Inputs",
    "LogSumExp",
    "MaxPlus",
    "NoMemory",
    "Ordinary",
    "PPOConfig",
    "Permutation",
    "Permuted",
    "Policy",
    "RingWorld",
    "RunConfig",
    "Switch",
    "Switched",
    "Trace",
    "Viterbi",
    "analyse",
    "load",
    "records",
    "scan",
    "viterbi_path",
]


def records(directory):
    """The updates of a run folder, or of all run folders below a directory, as one pandas DataFrame.

    See ``linmem.reports.records``. Figures are imported only when something is read.
    """
    from .reports import records as read

    return read(directory)

"""Filters of a known model as plain NumPy objects, one step at a time: for code that knows nothing of JAX.

    filter = NumpyFilter.alf(model, delta=0.05)
    filter.reset()
    features = filter(observation, action)        # action: the one before the observation; ignored after a
    reset

They follow the recurrences of ``linear_filter.py``, ``belief.py`` and ``trace.py`` and read their tables.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from ..worlds.tables import HMM, POMDP, refuse_outside
from .belief import Belief
from .linear_filter import AbstractPermutedFilter, AdaptiveLinearFilter, ExactLinearFilter
from .trace import Trace

Recurrence = Callable[[np.ndarray | None, object, object], np.ndarray]
"""(state, or None at a start; observation; action before it) -> state."""


class NumpyFilter:
    """A recurrence, its read-out, and its state.

    size: features given by each call. low, high: between which they lie.
    """

    def __init__(
        self,
        recurrence: Recurrence,
        readout: Callable[[np.ndarray], np.ndarray],
        size: int,
        low: float,
        high: float,
    ):
        self._recurrence, self._readout, self._state = recurrence, readout, None
        self.size, self.low, self.high = size, low, high

    @classmethod
    def alf(cls, model: HMM | POMDP, delta: float) -> "NumpyFilter":
        """The adaptive linear filter's logits (n,)."""
        return cls._permuted(AdaptiveLinearFilter(model, delta), _same, _same, -np.inf, np.inf)

    @classmethod
    def exact_linear(cls, model: HMM | POMDP) -> "NumpyFilter":
        """The belief (n,) of a model whose moves are permutations, by the exact linear filter."""
        return cls._permuted(ExactLinearFilter(model), _shifted, _softmax, 0.0, 1.0)

    @classmethod
    def _permuted(
        cls, filter: AbstractPermutedFilter, settle, readout, low: float, high: float
    ) -> "NumpyFilter":
        source, log_E, log_first = map(np.asarray, (filter.source, filter.log_emission, filter.log_first))
        keep, gain = np.asarray(filter.keep), np.asarray(filter.gain)

        def recurrence(w, o, a):
            _refuse(o, a, w, log_E)
            return settle(log_first[o] if w is None else keep * w[source[a]] + gain * log_E[o, a])

        return cls(recurrence, readout, filter.out_size, low, high)

    @classmethod
    def belief(cls, model: HMM | POMDP) -> "NumpyFilter":
        """The exact belief (n,) of any model."""
        filter = Belief(model)
        log_T, log_E, log_first = map(
            np.asarray, (filter.log_transition, filter.log_emission, filter.log_first)
        )

        def recurrence(l, o, a):
            _refuse(o, a, l, log_E)
            if l is None:
                return _shifted(log_first[o])
            return _shifted(log_E[o, a] + np.logaddexp.reduce(log_T[a] + l, axis=1))

        return cls(recurrence, _softmax, filter.out_size, 0.0, 1.0)

    @classmethod
    def trace(cls, size: int, low: float = -np.inf, high: float = np.inf) -> "NumpyFilter":
        """Exponential averages of observations (size,) that lie in [low, high]: (5 size,), for no known
        model."""
        keep = np.asarray(Trace.decays)[:, None]

        def recurrence(z, o, a):
            if np.size(o) != size:
                raise ValueError(f"observation has {np.size(o)} numbers; this trace reads {size}")
            before = np.zeros((len(keep), size)) if z is None else z
            return keep * before + (1 - keep) * np.ravel(o)

        return cls(recurrence, np.ravel, len(keep) * size, min(low, 0.0), max(high, 0.0))

    def reset(self) -> None:
        """Forget everything: the next observation is the first of an episode."""
        self._state = None

    def __call__(self, observation: object, action: object) -> Float[np.ndarray, " size"]:
        """The features after this observation; ``action`` came before it. Raises ValueError naming one that
        the model does not have."""
        self._state = self._recurrence(self._state, observation, action)
        return np.asarray(self._readout(self._state), np.float32)


def _refuse(observation: Any, action: Any, state: np.ndarray | None, log_E: np.ndarray) -> None:
    """An index that the tables do not have; NumPy would take a negative one from the end."""
    observations, actions, _ = log_E.shape
    refuse_outside("observation", observation, observations)
    if state is not None:
        refuse_outside("action", action, actions)


def _same(l: np.ndarray) -> np.ndarray:
    return l


def _shifted(l: np.ndarray) -> np.ndarray:
    """With the largest logit 0; all 0 where no state is possible, as ``AbstractReading.settle`` has it."""
    top = l.max()
    return l - top if np.isfinite(top) else np.zeros_like(l)


def _softmax(l: np.ndarray) -> np.ndarray:
    p = np.exp(l - l.max())
    return p / p.sum()

"""What a world is: something with hidden state that gives observations and rewards for actions.

A world is one copy and has no batch axis; the caller vmaps. Its ``init`` and ``step`` are pure functions of
their arguments. It does not reset itself: the rollout does, so that the final observation is never lost.
"""

import abc
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .spaces import Box, Discrete, Space
from .tables import POMDP


class Outcome(NamedTuple):
    """What one step gives back.

    observation: o_{t+1}, also at the end of an episode (then it is the final observation).
    reward:      r_t, float32.
    terminated:  the episode ended because of what happened; nothing can be earned after it.
    truncated:   the episode was cut off (a time limit); it could have gone on, so its value is bootstrapped.
    """

    observation: Any
    reward: Float[Array, ""]
    terminated: Bool[Array, ""]
    truncated: Bool[Array, ""]


class Card(NamedTuple):
    """What can be earned in a world: expected undiscounted returns of an episode.

    attainable: of the best policy.
    memoryless: of the best policy that sees nothing but the present observation.
    steps:      the longest episode.
    exact:      both are proved and attained by scripted policies; else ``attainable`` is an upper bound and
                ``memoryless`` the best that a scripted policy earns.
    """

    attainable: float
    memoryless: float
    steps: int
    exact: bool = True


class AbstractWorld(eqx.Module):
    """The contract of a world. ``observation_space`` and ``action_space`` are declared and respected."""

    observation_space: eqx.AbstractVar[Space]
    action_space: eqx.AbstractVar[Discrete | Box]

    @abc.abstractmethod
    def init(self, key: PRNGKeyArray) -> tuple[Any, Any]:
        """Begin an episode: (state, first observation)."""

    @abc.abstractmethod
    def step(self, key: PRNGKeyArray, state: Any, action: Any) -> tuple[Any, Outcome]:
        """Take one action: (next state, outcome)."""

    def tables(self) -> POMDP | None:
        """The world as finite tables, if it is finite: the source of exact filters and optimal values."""
        return None

    def hidden(self, state: Any) -> Array | None:
        """The index of the hidden state in ``tables()``, for measuring memories; None if there is none."""
        return None

    def card(self) -> Card | None:
        """What can be earned here, by which scores of different worlds compare; None if it is not known."""
        return None


class AbstractCopies(abc.ABC):
    """Several copies of a world that live outside JAX, stepped together; arrays are NumPy's, copies first.

    An episode's end is a step's ``terminated`` or ``truncated``. The next ``step`` ignores that copy's action
    and begins its next episode: it gives the first observation, reward 0 and no end. (Gymnasium calls this
    the autoreset mode NEXT_STEP.)
    """

    @abc.abstractmethod
    def reset(self, seeds: list[int]) -> Any:
        """Begin an episode in every copy, one seed each: the first observations."""

    @abc.abstractmethod
    def step(self, actions: np.ndarray) -> Outcome:
        """One step of every copy."""

    @abc.abstractmethod
    def close(self) -> None:
        """Give back what the copies hold."""


class AbstractHostWorld(AbstractWorld):
    """A world whose steps are ordinary Python: it cannot be compiled, so agents collect with
    ``agents/host.py``."""

    @abc.abstractmethod
    def copies(self, count: int) -> AbstractCopies:
        """``count`` copies."""

    def init(self, key: PRNGKeyArray) -> tuple[Any, Any]:
        raise TypeError(f"{type(self).__name__} steps outside JAX; take its copies(count) and step those")

    def step(self, key: PRNGKeyArray, state: Any, action: Any) -> tuple[Any, Outcome]:
        raise TypeError(f"{type(self).__name__} steps outside JAX; take its copies(count) and step those")

"""What the theorems ask of the emissions, with a witness where they do not get it.

| Assumption | asks                                                                           | for         |
|------------|--------------------------------------------------------------------------------|-------------|
| 5.3        | finite initial logits; every observation possible in every recurrent state     | Theorem 5.7 |
| 5.6        | along M steps, distinct recurrent states meet distinct emission distributions  | Theorem 5.7 |
| 5.8        | every observation possible in every state; no two states with equal emissions  | Theorem 5.9 |

The logits in 5.3 are those the filter starts from, not log pi_0: they are finite because we choose them,
whatever zeros the initial distribution has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int

from .backbone import Backbone

# Two emissions that nowhere differ by more count as identical: rounding must not tell two states apart.
SAME_EMISSION = 1e-9

# An emission below the smallest normal float counts as 0: ratios of smaller ones overflow.
SMALLEST_EMISSION = np.finfo(np.float64).tiny


@dataclass(frozen=True)
class Assumption:
    """Whether an assumption holds; if not, ``witness`` names the entry or pair of states that breaks it."""

    name: str
    holds: bool
    sentence: str
    witness: Mapping[str, int] = field(default_factory=dict)


def without_backbone(name: str, state: int) -> Assumption:
    """5.3 or 5.6 where the transition has no backbone, hence no recurrent states to speak of."""
    return Assumption(
        name,
        False,
        f"no next state is likely enough after state {state} to be its successor",
        {"state": state},
    )


def positive_emissions(backbone: Backbone, emission: Float[np.ndarray, "n k"]) -> Assumption:
    """Assumption 5.3."""
    if zero := first_zero(emission, backbone.recurrent):
        return Assumption("5.3", False, _zero_sentence(**zero), zero)
    return Assumption("5.3", True, "every observation is possible in every recurrent state")


def separated_trajectories(backbone: Backbone, emission: Float[np.ndarray, "n k"]) -> Assumption:
    """Assumption 5.6, by partition refinement: at most n rounds, however long the period M."""
    states = list(backbone.recurrent)
    labels = emission_classes(emission[states])
    n_labels = labels.max() + 1
    while True:
        # Alike so far, and the successors alike so far: alike for one step more.
        pairs = np.stack([labels, labels[backbone.permutation]], axis=1)
        labels = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)
        if labels.max() + 1 == n_labels:
            break
        n_labels = labels.max() + 1
    if pair := _first_equal(labels):
        first, second = (states[i] for i in pair)
        sentence = (
            f"states {first} and {second} have the same emission at every step of their cycles, "
            "so no sequence of observations tells them apart"
        )
        return Assumption("5.6", False, sentence, {"state": first, "other_state": second})
    return Assumption("5.6", True, "every two recurrent states emit differently somewhere along their cycles")


def distinct_emissions(emissions: Float[np.ndarray, "m n k"]) -> Assumption:
    """Assumption 5.8. Where the emission depends on the action, it must hold under every action."""
    several = len(emissions) > 1
    for action, emission in enumerate(emissions):
        under = {"action": action} if several else {}
        if zero := first_zero(emission, range(len(emission))):
            return Assumption("5.8", False, _zero_sentence(**zero, **under), zero | under)
        if pair := _first_equal(emission_classes(emission)):
            sentence = f"states {pair[0]} and {pair[1]} have the same emission" + _under(under.get("action"))
            return Assumption("5.8", False, sentence, {"state": pair[0], "other_state": pair[1]} | under)
    return Assumption(
        "5.8", True, "every observation is possible in every state, and no two emissions are equal"
    )


def is_positive(emission: Float[np.ndarray, "..."]) -> Bool[np.ndarray, "..."]:
    return emission >= SMALLEST_EMISSION


def emission_classes(emission: Float[np.ndarray, "n k"]) -> Int[np.ndarray, " n"]:
    """A label per state, shared by the states whose emissions are identical."""
    labels = np.full(len(emission), -1)
    for state, row in enumerate(emission):
        if labels[state] < 0:
            alike = np.abs(emission - row).max(axis=1) <= SAME_EMISSION
            labels[alike & (labels < 0)] = state
    return np.unique(labels, return_inverse=True)[1]


def first_zero(emission: Float[np.ndarray, "n k"], states: Sequence[int]) -> dict[str, int]:
    """The first state and observation that the state cannot emit; empty if there is none."""
    zeros = np.argwhere(~is_positive(emission[list(states)]))
    return {"state": states[zeros[0, 0]], "observation": int(zeros[0, 1])} if len(zeros) else {}


def _first_equal(labels: Int[np.ndarray, " n"]) -> tuple[int, int] | None:
    """The first position that shares its label, and the next one that does."""
    for position, label in enumerate(labels):
        alike = np.flatnonzero(labels == label)
        if len(alike) > 1:
            return position, int(alike[1])
    return None


def _zero_sentence(state: int, observation: int, action: int | None = None) -> str:
    return f"state {state} never emits observation {observation}" + _under(action) + ": its logit is -inf"


def _under(action: int | None = None) -> str:
    return "" if action is None else f" under action {action}"

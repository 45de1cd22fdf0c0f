"""The deterministic backbone of a transition matrix (Definition 5.1): transition = D + eps Q.

| paper | code           | shape  | meaning                                                                |
|-------|----------------|--------|------------------------------------------------------------------------|
| D     | successor      | (n,)   | D moves s to successor[s], the likeliest next state                    |
| Q     | perturbation   | (n, n) | what is left, divided by eps; its rows sum to 0                        |
| eps   | eps            |        | the largest mass that a row of the transition puts off the backbone    |
| q_min | q_min          |        | most negative entry of Q: -1 by this choice of eps, or 0 when eps = 0  |
| P     | permutation    | (c,)   | D on the recurrent states, as positions in ``recurrent``               |
| M     | period         |        | order of P: the least common multiple of the cycle lengths             |

The paper fixes the product eps Q only. With eps as above the two-state model [[eps, 1-eps], [1-eps, eps]] has
the eps it is written with, and Q = [[1, -1], [-1, 1]].
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True, eq=False)
class Backbone:
    """A deterministic map and how far a transition matrix is from it; the table above names the fields.

    cycles:    the recurrent classes of the map, each in the order it is walked, from its smallest state.
    transient: the states on no cycle.
    """

    successor: Int[np.ndarray, " n"]
    eps: float
    q_min: float
    cycles: tuple[tuple[int, ...], ...]
    transient: tuple[int, ...]
    period: int
    perturbation: Float[np.ndarray, "n n"]

    @property
    def matrix(self) -> Float[np.ndarray, "n n"]:
        return np.eye(len(self.successor))[self.successor]

    @property
    def is_permutation(self) -> bool:
        return not self.transient

    @cached_property
    def recurrent(self) -> tuple[int, ...]:
        return tuple(sorted(state for cycle in self.cycles for state in cycle))

    @property
    def permutation(self) -> Int[np.ndarray, " c"]:
        return np.searchsorted(self.recurrent, self.successor[list(self.recurrent)])


def mass_off_backbone(transition: Float[np.ndarray, "n n"]) -> Float[np.ndarray, " n"]:
    """Per state, the probability of any but the likeliest next state."""
    return _off_backbone(transition).sum(axis=1)


def backbone_of(transition: Float[np.ndarray, "n n"]) -> Backbone:
    """The backbone of a row-stochastic matrix; where next states tie, the first is taken."""
    n = len(transition)
    successor = transition.argmax(axis=1)
    # Summed from the small entries: 1 - max would lose an eps below 1e-16.
    perturbation = _off_backbone(transition)
    eps = float(perturbation.sum(axis=1).max())
    if eps > 0:
        perturbation /= eps
        perturbation[np.arange(n), successor] = -perturbation.sum(axis=1)
    cycles = _cycles(successor)
    on_cycle = {state for cycle in cycles for state in cycle}
    return Backbone(
        successor=successor,
        eps=eps,
        q_min=-1.0 if eps > 0 else 0.0,
        cycles=cycles,
        transient=tuple(state for state in range(n) if state not in on_cycle),
        period=math.lcm(*map(len, cycles)),
        perturbation=perturbation,
    )


def _off_backbone(transition: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    off = transition.copy()
    off[np.arange(len(off)), off.argmax(axis=1)] = 0
    return off


def _cycles(successor: Int[np.ndarray, " n"]) -> tuple[tuple[int, ...], ...]:
    recurrent = np.arange(len(successor))
    # The image shrinks until the map permutes it: what is left are the cycles.
    while len(image := np.unique(successor[recurrent])) < len(recurrent):
        recurrent = image
    cycles, seen = [], set()
    for start in recurrent.tolist():
        cycle, state = [], start
        while state not in seen:
            seen.add(state)
            cycle.append(state)
            state = int(successor[state])
        if cycle:
            cycles.append(tuple(cycle))
    return tuple(cycles)

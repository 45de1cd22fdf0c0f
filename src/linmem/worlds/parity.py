"""Parity: a hidden bit is flipped by observed events, and must be reported at every step.

    event_t ~ Bernoulli(flip),    bit_t = bit_{t-1} xor event_t,    bit_{-1} = 0

| what        | here                                                                                    |
|-------------|-----------------------------------------------------------------------------------------|
| hidden      | the bit; with the event it makes the 4 states, ``2 * bit + event``                      |
| observed    | the event: 0 nothing, 1 flip                                                            |
| actions     | report 0 or 1; a report changes nothing                                                 |
| reward      | 1 if the report is the present bit, else -1                                             |
| end         | truncated after ``length`` reports                                                      |
| best        | 1 per step, by any memory that counts modulo two (``best``)                             |
| memoryless  | (1 - (1 - 2 flip)^length) / (2 flip) per episode at best: 1 for flip = 1/2,             |
|             | earned at the first step, where the bit is the event (``best_memoryless``, per step)    |

A recurrence whose transitions have eigenvalues in [0, 1] only cannot count modulo two (R. Grazzi et al. 2024,
arXiv:2411.12537): this is their parity task in a loop of acting and learning.
"""

import equinox as eqx
import numpy as np

from .base import Card
from .table_world import AbstractTabled, TableWorld
from .tables import POMDP


class Parity(AbstractTabled):
    """The world above; ``discount`` is for the tables only."""

    world: TableWorld
    flip: float = eqx.field(static=True)
    length: int = eqx.field(static=True)

    def __init__(self, flip: float = 0.5, length: int = 64, discount: float = 0.99):
        if not 0 < flip < 1:
            raise ValueError(f"flip is {flip}; it must lie strictly between 0 and 1, or nothing is hidden")
        self.world = TableWorld(_tables(flip, discount), episode_length=length)
        self.flip, self.length = flip, length

    @property
    def best(self) -> float:
        """Largest mean reward per step."""
        return 1.0

    @property
    def best_memoryless(self) -> float:
        """Largest mean reward per step of a policy that knows the present event only."""
        # E[(-1)^bit_t | event_t] = (1 - 2 flip)^t times 1 or -1: one report for each event is best at all t,
        # or at all even t; its gain is the sum over t
        return float(abs(np.sum((1 - 2 * self.flip) ** np.arange(self.length)))) / self.length

    def card(self) -> Card:
        return Card(self.best * self.length, self.best_memoryless * self.length, self.length)


def _tables(flip: float, discount: float) -> POMDP:
    transition, emission, reward = np.zeros((2, 4, 4)), np.zeros((4, 2)), np.zeros((2, 4))
    law = np.array([1 - flip, flip])
    for bit in (0, 1):
        for event in (0, 1):
            state = 2 * bit + event
            emission[state, event] = 1
            for report in (0, 1):
                reward[report, state] = 1 if report == bit else -1
                for following in (0, 1):
                    transition[report, state, 2 * (bit ^ following) + following] = law[following]
    initial = np.zeros(4)
    initial[[0, 3]] = law  # the first event flips a bit that was 0
    return POMDP(transition, emission, reward, initial, discount)

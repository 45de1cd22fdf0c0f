"""Two hard cases of learning theory: a lock whose state is seen through noise, and a state that is revealed
bit by bit.

| what       | CombinationLock                                | Revealing                                    |
|------------|------------------------------------------------|----------------------------------------------|
| hidden     | how many digits were right in a row, or that   | one of two states, equally likely, the same  |
|            | one was wrong                                  | for a whole episode                          |
| observed   | 0 or 1: whether all was right so far, wrong    | 0 or 1: the state, with probability          |
|            | with probability ``noise``                     | (1 + alpha) / 2; 2 when the answer is due    |
| actions    | a digit                                        | name the state; only the last one counts     |
| reward     | 1 if all of ``length`` digits were right       | 1 if it is the state, else -1                |
| end        | after ``length`` digits                        | after ``looks`` looks and the answer         |
| best       | 1: the code does not change, and latent moves  | 2 P(majority of the looks is right) - 1      |
|            | are deterministic; one must count the digits   | (ties count half)                            |
| memoryless | product over digits a of (n_a / length)^n_a,   | 0                                            |
|            | where a occurs n_a times in the code           |                                              |

The lock's best memoryless policy draws digits as often as they occur: while all is right, observations are
alike at all places of the code. ``alpha`` is the smallest singular value of the emission of the two states:
what is revealed in one look falls with it, and the looks needed grow as 1 / alpha^2.

Sources: M. Uehara et al., "Computationally Efficient PAC RL in POMDPs with Latent Determinism and Conditional
Embeddings", 2022, arXiv:2206.12081 (the class of the lock). F. Chen et al., "Lower Bounds for Learning in
Revealing POMDPs", 2023, arXiv:2302.01333 (alpha). Departures: the smallest instances with that structure, not
those of the papers' proofs.
"""

import equinox as eqx
import numpy as np
import scipy

from .base import Card
from .table_world import AbstractTabled, TableWorld
from .tables import POMDP


class CombinationLock(AbstractTabled):
    """A lock of ``length`` digits out of ``digits``; ``code`` is the seed of its code."""

    world: TableWorld
    combination: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self, length: int = 6, digits: int = 3, noise: float = 0.2, code: int = 0, discount: float = 0.99
    ):
        if length < 1 or digits < 2:
            raise ValueError(f"length is {length} and digits {digits}; a lock has at least 1 of at least 2")
        if not 0 <= noise <= 0.5:
            raise ValueError(f"noise is {noise}; it lies between 0 and 1/2")
        drawn = np.random.default_rng(code).integers(digits, size=length)
        self.combination = tuple(drawn.tolist())
        model = _lock_tables(drawn, digits, noise, discount)
        self.world = TableWorld(model, terminal=np.arange(2 * length + 1) == 2 * length)

    def card(self) -> Card:
        length = len(self.combination)
        share = np.bincount(self.combination) / length
        memoryless = np.prod([share[digit] for digit in self.combination])
        return Card(1.0, float(memoryless), length)


def _lock_tables(code: np.ndarray, digits: int, noise: float, discount: float) -> POMDP:
    """States ``place`` while all is right, ``length + place`` after a mistake, then the end."""
    length = len(code)
    n, end = 2 * length + 1, 2 * length
    transition, reward = np.zeros((digits, n, n)), np.zeros((digits, n))
    for place, right in enumerate(code):
        last = place == length - 1
        for digit in range(digits):
            good = digit == right
            transition[digit, place, end if last else place + 1 + (0 if good else length)] = 1
            transition[digit, length + place, end if last else length + place + 1] = 1
            reward[digit, place] = float(last and good)
    transition[:, end, end] = 1
    right = np.arange(n) < length
    emission = np.where(right[:, None], [1 - noise, noise], [noise, 1 - noise])
    return POMDP(transition, emission, reward, np.eye(n)[0], discount)


class Revealing(AbstractTabled):
    """A state to be named after ``looks`` looks, each of which reveals ``alpha`` of it."""

    world: TableWorld
    alpha: float = eqx.field(static=True)
    looks: int = eqx.field(static=True)

    def __init__(self, alpha: float = 0.4, looks: int = 5, discount: float = 0.99):
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha is {alpha}; it lies above 0, at most 1")
        if looks < 1:
            raise ValueError(f"looks is {looks}; it must be at least 1")
        model = _revealing_tables(alpha, looks, discount)
        self.world = TableWorld(model, terminal=np.arange(model.n_states) == model.n_states - 1)
        self.alpha, self.looks = alpha, looks

    def card(self) -> Card:
        right = np.arange(self.looks + 1)  # looks that showed the state
        chance = scipy.stats.binom.pmf(right, self.looks, (1 + self.alpha) / 2)
        best = float(chance @ np.sign(2 * right - self.looks))
        return Card(best, 0.0, self.looks + 1)


def _revealing_tables(alpha: float, looks: int, discount: float) -> POMDP:
    """State ``2 * time + which`` for times 0 to looks, at the last of which the answer is due; then the
    end."""
    end = 2 * (looks + 1)
    transition, emission = np.zeros((2, end + 1, end + 1)), np.zeros((end + 1, 3))
    reward, initial = np.zeros((2, end + 1)), np.zeros(end + 1)
    initial[:2] = 1 / 2
    for state in range(end):
        time, which = divmod(state, 2)
        transition[:, state, min(state + 2, end)] = 1
        if time == looks:
            emission[state, 2] = 1
            reward[:, state] = -1
            reward[which, state] = 1
        else:
            emission[state, which] = (1 + alpha) / 2
            emission[state, 1 - which] = (1 - alpha) / 2
    transition[:, end, end] = 1
    emission[end, 2] = 1
    return POMDP(transition, emission, reward, initial, discount)

"""A latent MDP: each episode is played in one of several MDPs, and nobody says in which.

| what       | here                                                                                        |
|------------|---------------------------------------------------------------------------------------------|
| hidden     | the context, one of ``contexts``, equally likely, the same for a whole episode              |
| observed   | the state of the MDP: 0 at the start, 1 after a hit, 2 after a miss                         |
| actions    | one for each context; that of the present context hits with probability ``hit``, each other |
|            | with 1 - ``hit``                                                                            |
| reward     | 1/``length`` for a hit                                                                      |
| end        | truncated after ``length`` steps                                                            |
| best       | with hit = 1: try one after another, then stay: (length - (contexts - 1) / 2) / length      |
| memoryless | found by optimising the three laws of actions, one for each state                           |

It is the smallest case in which the context decides what an action does and must be found out by acting.

Source of the problem class: J. Kwon, Y. Efroni, C. Caramanis, S. Mannor, "RL for Latent MDPs", 2021,
arXiv:2102.04939; R. Zhou, R. Wang, S. Du, "Horizon-Free and Variance-Dependent Reinforcement Learning for
Latent Markov Decision Processes", 2022, arXiv:2210.11604. The instance is this library's.
"""

import equinox as eqx
import numpy as np
import scipy
from jaxtyping import Float

from .base import Card
from .table_world import AbstractTabled, TableWorld
from .tables import POMDP

STATES = START, HIT, MISS = range(3)


class LatentMDP(AbstractTabled):
    """The world above; ``discount`` is for the tables only."""

    world: TableWorld
    contexts: int = eqx.field(static=True)
    hit: float = eqx.field(static=True)
    length: int = eqx.field(static=True)

    def __init__(self, contexts: int = 5, hit: float = 1.0, length: int = 20, discount: float = 0.99):
        if contexts < 2:
            raise ValueError(f"contexts is {contexts}; nothing is hidden with less than 2")
        if not 0.5 < hit <= 1:
            raise ValueError(f"hit is {hit}; it lies above 1/2, or no action is right, and at most 1")
        if length < contexts:
            raise ValueError(f"length is {length}; to try all {contexts} actions takes as many steps")
        self.world = TableWorld(_tables(contexts, hit, length, discount), episode_length=length)
        self.contexts, self.hit, self.length = contexts, hit, length

    def card(self) -> Card:
        """With hit < 1 the best is a bound: that of an agent who knows the context."""
        known = self.hit == 1
        best = (self.length - (self.contexts - 1) / 2) / self.length if known else self.hit
        return Card(best, _best_reactive(self.tables(), self.contexts, self.length), self.length, exact=False)


def _tables(contexts: int, hit: float, length: int, discount: float) -> POMDP:
    """State ``3 * context + state of the MDP``."""
    n = 3 * contexts
    transition, emission = np.zeros((contexts, n, n)), np.tile(np.eye(3), (contexts, 1))
    for action in range(contexts):
        for context in range(contexts):
            chance = hit if action == context else 1 - hit
            rows = slice(3 * context, 3 * context + 3)
            transition[action, rows, 3 * context + HIT] = chance
            transition[action, rows, 3 * context + MISS] = 1 - chance
    reward = np.where(np.arange(n) % 3 == HIT, 1 / length, 0.0)
    initial = np.where(np.arange(n) % 3 == START, 1 / contexts, 0.0)
    return POMDP(transition, emission, reward, initial, discount)


def reactive_value(model: POMDP, law: Float[np.ndarray, "observations actions"], length: int) -> float:
    """What a policy earns in ``length`` steps that draws its action by the present observation's law, where
    the observation tells the state's class without doubt."""
    seen = model.emission[0].argmax(axis=1)
    moves = np.einsum("sa,ast->st", law[seen], model.transition)
    gains = np.einsum("sa,ast,ast->s", law[seen], model.transition, model.reward)
    state, total = model.initial, 0.0
    for _ in range(length):
        total += float(state @ gains)
        state = state @ moves
    return total


def _best_reactive(model: POMDP, contexts: int, length: int, starts: int = 8) -> float:
    """The best found from several beginnings: stay after a hit, or anything."""
    rng = np.random.default_rng(0)

    def loss(logits):
        return -reactive_value(model, scipy.special.softmax(logits.reshape(3, contexts), axis=1), length)

    return -min(scipy.optimize.minimize(loss, 2 * rng.normal(size=3 * contexts)).fun for _ in range(starts))

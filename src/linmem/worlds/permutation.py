"""Permutation world: a hidden Markov model that nearly permutes its states, as a world to name the state in.

The model is random but fixed by ``model_seed``. It has what the theory of linear filters speaks of and
nothing else: moves do not depend on the action, so one transition matrix P serves all steps and the exact
filter's modes are P's eigenvalues, roots of unity of its cycles' lengths.

Source: the near-deterministic models T = P + eps Q of Y. Zhao, O. Eberhard, M. Khammassi, A. H. Sayed, M.
Muehlebach, 2026, arXiv:2605.31261, Theorem 5.7; the world around them is this library's.
"""

import numpy as np

from .table_world import AbstractTabled, TableWorld
from .tables import POMDP, check_dense


class PermutationWorld(AbstractTabled):
    """Name the hidden state: action a earns 1 if a is the state in which it is taken, else 0. An episode
    begins in any state and ends by time alone. The best policy names the most probable state of the belief
    and earns one minus the Bayes decoder's error per step; a guess earns 1 / states.

    states:         how many there are, and as many actions.
    observations:   how many there are. Each state's probabilities of them are drawn from a Dirichlet
                    distribution with this ``concentration``: the smaller, the more an observation tells.
    eps:            probability that a move goes to any state instead, each equally likely.
    episode_length: steps until truncation.
    model_seed:     of the permutation and the emissions.
    """

    world: TableWorld

    def __init__(
        self,
        states: int = 8,
        observations: int = 4,
        concentration: float = 1.0,
        eps: float = 0.02,
        episode_length: int = 100,
        model_seed: int = 0,
    ):
        if states < 2 or observations < 2:
            raise ValueError(f"states is {states} and observations {observations}; each must be at least 2")
        check_dense(states, states)
        if not 0 <= eps <= 1:
            raise ValueError(f"eps is {eps}; probabilities lie in [0, 1]")
        if not concentration > 0:
            raise ValueError(f"concentration is {concentration}; it must be above 0")
        rng = np.random.default_rng(model_seed)
        moves = np.eye(states)[rng.permutation(states)]
        emission = rng.dirichlet(np.full(observations, concentration), states)
        pomdp = POMDP(
            transition=np.tile((1 - eps) * moves + eps / states, (states, 1, 1)),
            emission=emission,
            reward=np.eye(states),  # by the action and the state left
            initial=np.full(states, 1 / states),
            discount=0.99,
        )
        self.world = TableWorld(pomdp, episode_length)

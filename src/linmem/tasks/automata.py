"""State tracking: tokens move a finite automaton, and the label of every position is what its state says.

    state_t = transition[token_t, state_{t-1}],    target_t = reading[state_t]

| task             | tokens            | label after each prefix                                |
|------------------|-------------------|--------------------------------------------------------|
| parity           | 0, 1              | whether the number of 1s is odd                        |
| even pairs       | 0, 1              | whether the number of changes 01 and 10 is even        |
| cycle navigation | stay, +1, -1      | the place on a ring of 5                               |
| word problem     | group elements    | their product                                          |
| random automaton | random maps       | the state                                              |

Sources: G. Deletang et al., "Neural Networks and the Chomsky Hierarchy", 2022, arXiv:2207.02098 (the first
three); W. Merrill, J. Petty, A. Sabharwal, "The Illusion of State in State-Space Models", 2024,
arXiv:2404.08819 (word problems); A. Terzic et al., 2024, arXiv:2412.19350 (random automata).
Departures: these papers label the whole sequence, where we label every prefix of it.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from .base import AbstractTask, Sample
from .groups import Permutation, cyclic, multiplication


class Automaton(AbstractTask):
    """An automaton that starts in state 0 and reads uniformly random tokens.

    transition: (n_tokens, states), the state that a token leads to from each state.
    reading:    (states,), the label of each state; by default the state itself.
    """

    transition: Int[np.ndarray, "tokens states"]
    reading: Int[np.ndarray, " states"]
    shortest: int = 1

    def __init__(self, transition: np.ndarray, reading: np.ndarray | None = None):
        transition = np.asarray(transition, np.int32)
        states = transition.shape[1]
        if transition.min() < 0 or transition.max() >= states:
            raise ValueError(
                f"transition leads to states {transition.min()} to {transition.max()}; "
                f"there are 0 to {states - 1}"
            )
        self.transition = transition
        self.reading = np.arange(states, dtype=np.int32) if reading is None else np.asarray(reading, np.int32)
        if self.reading.shape != (states,) or self.reading.min() < 0:
            raise ValueError(
                f"reading is {self.reading.tolist()}; it holds a label, 0 or more, of each of {states} states"
            )

    @property
    def n_tokens(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return len(self.transition)

    @property
    def n_targets(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return int(self.reading.max()) + 1

    def draw(self, key: PRNGKeyArray, length: int, own: Int[Array, ""]) -> Sample:
        tokens = jax.random.randint(key, (length,), 0, self.n_tokens)
        return Sample(tokens, self.label(tokens), jnp.ones(length, bool))

    def label(self, tokens: Int[Array, " length"]) -> Int[Array, " length"]:
        """The label of every prefix."""
        transition, reading = jnp.asarray(self.transition), jnp.asarray(self.reading)

        def step(state, token):
            state = transition[token, state]
            return state, reading[state]

        return jax.lax.scan(step, jnp.zeros((), jnp.int32), tokens)[1]


def parity() -> Automaton:
    return Automaton(multiplication(cyclic(2)))


def even_pairs() -> Automaton:
    """The number of changes is even if the first token equals the last: states (), 00, 01, 10, 11."""
    return Automaton(np.array([[1, 1, 1, 3, 3], [4, 2, 2, 4, 4]]), np.array([1, 1, 0, 0, 1]))


def cycle_navigation(places: int = 5) -> Automaton:
    here = np.arange(places)
    return Automaton(np.stack([here, (here + 1) % places, (here - 1) % places]))


def word_problem(elements: Sequence[Permutation], tokens: Sequence[Permutation] | None = None) -> Automaton:
    """The product of ``tokens`` (default: all elements) in the group of ``elements``, the identity first."""
    return Automaton(multiplication(elements, tokens))


def random_automaton(seed: int, states: int = 6, tokens: int = 3, *, commutative: bool = False) -> Automaton:
    """Tokens as random permutations of the states, so that nothing is ever forgotten, with every state in
    reach.

    Commutative: random different powers of one cycle through all states in random order. Otherwise uniformly
    random permutations, of which some two do not commute.
    """
    if not 2 <= tokens <= states or (not commutative and states < 3):
        raise ValueError(
            f"an automaton of {states} states and {tokens} tokens was asked; take 2 to {states} tokens, "
            "and at least 3 states if they shall not commute"
        )
    rng = np.random.default_rng(seed)
    if commutative:
        order = rng.permutation(states)
        place = np.argsort(order)
        powers = np.concatenate([[1], rng.permutation([0, *range(2, states)])[: tokens - 1]])
        return Automaton(np.stack([order[(place + power) % states] for power in powers]))
    while True:
        maps = np.stack([rng.permutation(states) for _ in range(tokens)])
        if _some_do_not_commute(maps) and len(_reached(maps)) == states:
            return Automaton(maps)


def _some_do_not_commute(maps: np.ndarray) -> bool:
    return any((p[q] != q[p]).any() for p in maps for q in maps)


def _reached(maps: np.ndarray) -> set[int]:
    """The states that words lead to from state 0."""
    found, fresh = {0}, {0}
    while fresh:
        fresh = {int(p[state]) for p in maps for state in fresh} - found
        found |= fresh
    return found

"""POPGym's card games: what was dealt is hidden as soon as the next card comes. N is the number of cards.

| world           | hidden                   | observed                     | action                       |
|-----------------|--------------------------|------------------------------|------------------------------|
| RepeatFirst     | the first suit           | suit dealt                   | the first suit               |
| RepeatPrevious  | the last k suits         | suit dealt                   | the suit k - 1 deals ago     |
| Autoencode      | all suits                | phase, suit dealt (watching) | the suits, last first        |
| CountRecall     | how often each was dealt | value dealt, value asked for | how often it was dealt       |
| HigherLower     | what is left in the deck | rank dealt                   | 0: next is higher, 1: lower  |
| Concentration   | faces of the table       | faces up, else a code        | card to turn                 |

| world           | reward                                                | best attainable, best memoryless |
|-----------------|-------------------------------------------------------|----------------------------------|
| RepeatFirst     | +-1/(N - 1)                                           | 1, about -1/2: repeat the card   |
| RepeatPrevious  | +-1/(N - k), 0 before                                 | 1, about -1/2: any other suit    |
| Autoencode      | +-1/N while playing                                   | 1, about -1/2: repeat the suit   |
| CountRecall     | +-1/(N - 1)                                           | 1, below 0: the likeliest count  |
| HigherLower     | +-1/N, 0 if equal                                     | who counts, 84/169: against 6    |
| Concentration   | 2/N a pair, else -1/L for each card turned in vain    | below 1; .45 of colours, -.82 of |
|                 |                                                       | ranks: turn any                  |

``card`` gives the numbers, which depend on the level. Who counts in HigherLower knows how many cards of each
rank are left, and says what most of them are. In Concentration one who knows the table earns 1, and
memoryless is who turns any card that is not shown.

All end when the deck does; Concentration when all is up, and it is cut off after L = ceil(2N - N/(2N - 1)).

A deck is shuffled by drawing each next card from the cards left, when it is dealt: the same distribution,
and a new episode costs nothing. The draw is apart from the rule (``deal``, ``turn``), so that a rule can be
played with any deck.

Source: S. Morad, R. Kortvelesy, M. Bettini, S. Liwicki, A. Prorok, "POPGym: Benchmarking Partially Observable
Reinforcement Learning", 2023, arXiv:2303.01859, and the package `popgym`, which defines them.
"""

import functools
import math
from collections import Counter
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from .base import AbstractWorld, Card, Outcome
from .levels import at_level
from .spaces import Discrete, MultiDiscrete

SUITS, RANKS, CARDS = 4, 13, 52
KINDS = {"colors": 2, "suits": SUITS, "ranks": RANKS}
"""What tells cards apart, and how many there are of it in a deck of 52."""

Kind = Int[Array, ""]
Left = Int[Array, " kinds"]


def draw(key: PRNGKeyArray, left: Left) -> Kind:
    """The kind of a card drawn from those left; kind 0 if none is."""
    place = jax.random.randint(key, (), 0, jnp.maximum(left.sum(), 1))
    return jnp.sum(jnp.cumsum(left) <= place, dtype=jnp.int32) % len(left)


def full(kinds: int, cards: int) -> Left:
    return jnp.full(kinds, cards // kinds, jnp.int32)


def _check(decks: int) -> None:
    if decks < 1:
        raise ValueError(f"decks is {decks}; a game needs at least 1")


def _scored(right: Bool[Array, ""], scale: float) -> Array:
    return jnp.where(right, scale, -scale).astype(jnp.float32)


def _outcome(observation, reward, terminated, truncated: Any = False) -> Outcome:
    return Outcome(
        observation, jnp.asarray(reward, jnp.float32), jnp.asarray(terminated), jnp.asarray(truncated)
    )


class Dealt(NamedTuple):
    """left: cards of each kind in the deck.  memory: what the rule needs.  t: steps taken."""

    left: Left
    memory: Array
    t: Int[Array, ""]


class AbstractDeck(AbstractWorld):
    """One card a step from one deck of N cards; a game states its rule in ``open`` and ``deal``."""

    decks: int = eqx.field(static=True)
    kinds: eqx.AbstractClassVar[int]

    def __check_init__(self):
        _check(self.decks)

    @property
    def cards(self) -> int:
        return CARDS * self.decks

    def open(self, card: Kind) -> Array:
        """The rule's memory after the first card."""
        raise NotImplementedError

    def deal(self, state: Dealt, action: Kind, card: Kind) -> tuple[Dealt, Outcome]:
        """The step in which ``card`` is dealt after ``action``."""
        raise NotImplementedError

    def begin(self, card: Kind) -> tuple[Dealt, Kind]:
        left = full(self.kinds, self.cards).at[card].add(-1)
        return Dealt(left, self.open(card), jnp.zeros((), jnp.int32)), card

    def init(self, key):
        return self.begin(draw(key, full(self.kinds, self.cards)))

    def step(self, key, state, action):
        return self.deal(state, action, draw(key, state.left))

    def _after(self, state: Dealt, card: Kind, memory: Array) -> Dealt:
        return Dealt(state.left.at[card].add(-1), memory, state.t + 1)


class RepeatFirst(AbstractDeck):
    """Name the suit of the first card at every step."""

    kinds = SUITS
    observation_space = Discrete(SUITS)
    action_space = Discrete(SUITS)

    def __init__(self, decks: int = 1):
        self.decks = decks

    def open(self, card):
        return card

    def deal(self, state, action, card):
        reward = _scored(action == state.memory, 1 / (self.cards - 1))
        return self._after(state, card, state.memory), _outcome(card, reward, state.t == self.cards - 2)

    def card(self) -> Card:
        n = self.cards
        same = (n / SUITS - 1) / (n - 1)  # the chance that another card has the first one's suit
        return Card(1.0, (1 + (n - 2) * (2 * same - 1)) / (n - 1), n - 1)


class RepeatPrevious(AbstractDeck):
    """Name the suit that was dealt k - 1 deals before the present one.

    k = 1 is the present card: so the package's code counts, against its docstring.
    """

    kinds = SUITS
    observation_space = Discrete(SUITS)
    action_space = Discrete(SUITS)
    k: int = eqx.field(static=True)

    def __init__(self, decks: int = 1, k: int = 4):
        if not 1 <= k < CARDS * decks:
            raise ValueError(f"k is {k}; it must be at least 1 and less than the {CARDS * decks} cards")
        self.decks, self.k = decks, k

    def open(self, card):
        return jnp.zeros(self.k, jnp.int32).at[0].set(card)

    def deal(self, state, action, card):
        oldest = state.memory[(state.t + 1) % self.k]
        reward = jnp.where(
            state.t + 1 >= self.k, _scored(action == oldest, 1 / (self.cards - self.k)), jnp.float32(0)
        )
        memory = state.memory.at[(state.t + 1) % self.k].set(card)
        return self._after(state, card, memory), _outcome(card, reward, state.t == self.cards - 2)

    def card(self) -> Card:
        n = self.cards
        other = n / SUITS / (n - 1)  # the chance that another card has a certain other suit
        return Card(1.0, 1.0 if self.k == 1 else 2 * other - 1, n - 1)


class Autoencode(AbstractDeck):
    """Watch the deck, then name its suits, the last one first.

    The observation is (phase, suit): phase 1 while watching; when the last card comes, 0, and playing begins.
    """

    kinds = SUITS
    observation_space = MultiDiscrete((2, SUITS), (2,))
    action_space = Discrete(SUITS)

    def __init__(self, decks: int = 1):
        self.decks = decks

    def begin(self, card):
        state, _ = super().begin(card)
        return state, self._seen(True, card)

    def open(self, card):
        return jnp.zeros(self.cards, jnp.int8).at[0].set(card.astype(jnp.int8))

    def _seen(self, watching, card):
        return jnp.stack([jnp.asarray(watching, jnp.int32), card.astype(jnp.int32)])

    def deal(self, state, action, card):
        n = self.cards
        watching = state.t < n - 1
        play = 2 * n - 2 - state.t  # the place in the deck of the card to name
        kept = state.memory.at[jnp.where(watching, state.t + 1, n)].set(card.astype(jnp.int8), mode="drop")
        reward = jnp.where(watching, 0.0, _scored(action == state.memory[jnp.clip(play, 0, n - 1)], 1 / n))
        seen = self._seen(state.t + 1 < n - 1, jnp.where(watching, card, 0))
        left = jnp.where(watching, state.left.at[card].add(-1), state.left)
        return Dealt(left, kept, state.t + 1), _outcome(seen, reward, state.t == 2 * n - 2)

    def card(self) -> Card:
        n = self.cards
        # The last card is seen when playing begins, later suit 0. Who repeats what is seen names the cards of
        # suit 0, and the last card if it has another suit.
        right = n / SUITS + (1 - 1 / SUITS)
        return Card(1.0, 2 * right / n - 1, 2 * n - 1)


class HigherLower(AbstractDeck):
    """Say whether the next card's rank will be higher (0) or lower (1)."""

    kinds = RANKS
    observation_space = Discrete(RANKS)
    action_space = Discrete(2)

    def __init__(self, decks: int = 1):
        self.decks = decks

    def open(self, card):
        return card

    def deal(self, state, action, card):
        higher = card > state.memory
        reward = jnp.where(card == state.memory, 0.0, _scored(higher == (action == 0), 1 / self.cards))
        return self._after(state, card, card), _outcome(card, reward, state.t == self.cards - 2)

    def card(self) -> Card:
        n, each = self.cards, self.cards // RANKS
        gains = [_higher_or_lower(each * (RANKS - 1 - rank), each * rank, n - 1) for rank in range(RANKS)]
        against_the_middle = sum(abs(RANKS - 1 - 2 * rank) for rank in range(RANKS)) * each / RANKS / n
        return Card(float(np.mean(gains)) * (n - 1) / n, against_the_middle, n - 1)


def _higher_or_lower(higher: int, lower: int, n: int) -> float:
    """E |H - L| / m, the mean over m = 1 ... n of cards left: of n cards there are ``higher`` and ``lower``
    ones, and a random m of them, with H and L, are left."""
    total = 0.0
    unequal = np.arange(higher + lower + 1)[:, None]  # H + L
    of_them = np.arange(higher + 1)  # H
    given = scipy.stats.hypergeom.pmf(of_them, higher + lower, higher, unequal)
    gap = (given * abs(2 * of_them - unequal)).sum(axis=1)
    for m in range(1, n + 1):
        total += float(scipy.stats.hypergeom.pmf(unequal[:, 0], n, higher + lower, m) @ gap) / m
    return total / n


class Counted(NamedTuple):
    """left: values and queries left, rows.  query: what is asked for now.  t: steps taken."""

    left: Int[Array, "2 kinds"]
    query: Kind
    t: Int[Array, ""]


class CountRecall(AbstractWorld):
    """Say how often the value asked for has been dealt so far. Values and queries have a deck each."""

    decks: int = eqx.field(static=True)
    kinds: int = eqx.field(static=True)
    observation_space: MultiDiscrete
    action_space: Discrete

    def __init__(self, decks: int = 1, kind: str = "colors"):
        _check(decks)
        self.decks, self.kinds = decks, _kinds(kind)
        self.observation_space = MultiDiscrete((self.kinds, self.kinds), (2,))
        self.action_space = Discrete(CARDS * decks // self.kinds + 1)

    def begin(self, value: Kind, query: Kind) -> tuple[Counted, Array]:
        each = CARDS * self.decks // self.kinds
        left = jnp.full((2, self.kinds), each, jnp.int32).at[jnp.arange(2), jnp.stack([value, query])].add(-1)
        return Counted(left, query, jnp.zeros((), jnp.int32)), jnp.stack([value, query])

    def deal(self, state: Counted, action: Kind, value: Kind, query: Kind) -> tuple[Counted, Outcome]:
        """The step in which ``value`` is dealt, and ``query`` asked for, after ``action``."""
        n = CARDS * self.decks
        dealt = n // self.kinds - state.left[0, state.query]
        seen = jnp.stack([value, query])
        left = state.left.at[jnp.arange(2), seen].add(-1)
        outcome = _outcome(seen, _scored(action == dealt, 1 / (n - 1)), state.t == n - 2)
        return Counted(left, query, state.t + 1), outcome

    def init(self, key):
        both = jax.vmap(draw)(jax.random.split(key), jnp.stack([full(self.kinds, CARDS * self.decks)] * 2))
        return self.begin(both[0], both[1])

    def step(self, key, state, action):
        both = jax.vmap(draw)(jax.random.split(key), state.left)
        return self.deal(state, action, both[0], both[1])

    def card(self) -> Card:
        n = CARDS * self.decks
        each, dealt = n // self.kinds, np.arange(n - 1)[:, None]  # cards dealt before the present one
        counts = np.arange(each + 1)
        # Of n - 1 other cards: one less of the kind asked for, if the present card is one.
        same = scipy.stats.hypergeom.pmf(counts - 1, n - 1, each - 1, dealt).mean(axis=0).max()
        other = scipy.stats.hypergeom.pmf(counts, n - 1, each, dealt).mean(axis=0).max()
        return Card(1.0, float(2 * (same + (self.kinds - 1) * other) / self.kinds - 1), n - 1)


class Table(NamedTuple):
    """left: faces not yet seen.  faces: of each place, -1 if never turned.  up: matched.
    first: place turned before this one, -1 if none.  t: steps taken."""

    left: Left
    faces: Int[Array, " N"]
    up: Bool[Array, " N"]
    first: Int[Array, ""]
    t: Int[Array, ""]


class Concentration(AbstractWorld):
    """Turn cards two by two; equal ones stay up."""

    decks: int = eqx.field(static=True)
    kinds: int = eqx.field(static=True)
    observation_space: MultiDiscrete
    action_space: Discrete

    def __init__(self, decks: int = 1, kind: str = "colors"):
        _check(decks)
        self.decks, self.kinds = decks, _kinds(kind)
        if CARDS // self.kinds % 2:
            raise ValueError(
                f"kind is '{kind}', of which a deck has an odd number each; take colors or ranks"
            )
        n = CARDS * decks
        self.observation_space = MultiDiscrete((self.kinds + 1,) * n, (n,))
        self.action_space = Discrete(n)

    @property
    def limit(self) -> int:
        """L, after which an episode is cut off."""
        n = CARDS * self.decks
        return math.ceil(2 * n - n / (2 * n - 1))

    def init(self, key):
        n = CARDS * self.decks
        state = Table(
            full(self.kinds, n),
            jnp.full(n, -1, jnp.int32),
            jnp.zeros(n, bool),
            jnp.int32(-1),
            jnp.zeros((), jnp.int32),
        )
        return state, jnp.full(n, self.kinds, jnp.int32)

    def step(self, key, state, action):
        return self.turn(state, action, draw(key, state.left))

    def turn(self, state: Table, action: Int[Array, ""], face: Kind) -> tuple[Table, Outcome]:
        """Turn the card at ``action``, which shows ``face`` if it was never turned before."""
        n, fail = CARDS * self.decks, 1 / self.limit
        new = state.faces[action] < 0
        faces = jnp.where(new & (jnp.arange(n) == action), face, state.faces)
        left = jnp.where(new, state.left.at[face].add(-1), state.left)
        second = state.first >= 0
        shown = state.up | (jnp.arange(n) == action) | (jnp.arange(n) == state.first)
        already = state.up[action]
        match = second & ~already & (faces[action] == faces[state.first]) & (action != state.first)
        reward = jnp.where(
            match,
            2 / n,
            jnp.where(already, -fail * (1 + second), jnp.where(second, -2 * fail, 0.0)),
        )
        up = jnp.where(match, shown, state.up)
        first = jnp.where(already | second, -1, action).astype(jnp.int32)
        over = up.all()
        outcome = _outcome(
            jnp.where(shown, faces, self.kinds), reward, over, (state.t >= self.limit - 1) & ~over
        )
        return Table(left, faces, up, first, state.t + 1), outcome

    def card(self) -> Card | None:
        n = CARDS * self.decks
        earned = _turned_by_chance(n, self.kinds, self.limit)
        return None if earned is None else Card(1.0, earned, self.limit, exact=False)


FEW_STATES = 100_000


@functools.cache
def _turned_by_chance(n: int, kinds: int, limit: int) -> float | None:
    """Expected return of turning any two of the cards that are not shown, until ``limit`` cards are turned;
    None if there are too many ways for the cards to lie to follow them all."""
    each, turns, pay, fine = n // kinds, limit // 2, 2 / n, 2 / limit
    if turns * math.comb(kinds + each // 2, kinds) > FEW_STATES:
        return None

    @functools.cache
    def earned(turns: int, left: tuple[int, ...], shown: tuple[int, ...]) -> float:
        """left: cards still down of each kind that is, sorted. shown: of the two kinds that were turned in
        vain just now, and are still shown, the number left."""
        if not turns or not left:
            return 0.0
        total, hidden, sizes = 0.0, sum(left) - len(shown), Counter(left)
        for first, many in sizes.items():
            total += (many * first - shown.count(first)) / hidden * after(turns, left, sizes, first)
        return total

    def after(turns, left, sizes, first):
        """The same when a card was turned of whose kind ``first`` were left."""
        others, rest = sum(left) - 1, list(left)
        rest.remove(first)
        paired = tuple(sorted(rest + [first - 2] * (first > 2)))
        total = (first - 1) / others * (pay + earned(turns - 1, paired, ()))
        for second, many in sizes.items():
            many -= second == first  # another kind
            if many:
                missed = earned(turns - 1, left, tuple(sorted((first, second))))
                total += many * second / others * (missed - fine)
        return total

    return earned(turns, (each,) * kinds, ())


def _kinds(kind: str) -> int:
    if kind not in KINDS:
        raise ValueError(f"kind is '{kind}'; known: {', '.join(KINDS)}")
    return KINDS[kind]


def repeat_first(level: str = "easy") -> RepeatFirst:
    return RepeatFirst(at_level(level, 1, 8, 16))


def repeat_previous(level: str = "easy") -> RepeatPrevious:
    return RepeatPrevious(*at_level(level, (1, 4), (2, 32), (3, 64)))


def autoencode(level: str = "easy") -> Autoencode:
    return Autoencode(at_level(level, 1, 2, 3))


def count_recall(level: str = "easy") -> CountRecall:
    return CountRecall(*at_level(level, (1, "colors"), (2, "suits"), (4, "ranks")))


def higher_lower(level: str = "easy") -> HigherLower:
    return HigherLower(at_level(level, 1, 2, 3))


def concentration(level: str = "easy") -> Concentration:
    return Concentration(*at_level(level, (1, "colors"), (2, "colors"), (1, "ranks")))

"""The worlds after POPGym play as the package does: the same cards, boards and actions give the same
observations, rewards and ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from popgym.envs import (
    autoencode,
    battleship,
    concentration,
    count_recall,
    higher_lower,
    labyrinth_escape,
    labyrinth_explore,
    minesweeper,
    multiarmed_bandit,
    noisy_position_only_cartpole,
    position_only_cartpole,
    position_only_pendulum,
    repeat_first,
    repeat_previous,
    velocity_only_cartpole,
)

from linmem.worlds import balance, boards, cards, labyrinth
from linmem.worlds.bandit import MultiarmedBandit
from linmem.worlds.levels import LEVELS

SEED = 5


def compare(theirs, first, ours_first, advance, actions, form=int):
    """Play ``actions`` in both until the package's episode ends; ``advance(action)`` steps ours."""
    np.testing.assert_allclose(np.asarray(ours_first), np.asarray(first), rtol=1e-5, atol=1e-6)
    for count, action in enumerate(actions, 1):
        seen, reward, terminated, truncated, _ = theirs.step(form(action))
        outcome = advance(action)
        np.testing.assert_allclose(np.ravel(outcome.observation), np.ravel(seen), rtol=1e-4, atol=1e-5)
        assert float(outcome.reward) == pytest.approx(float(reward), rel=1e-4, abs=1e-7)
        assert (bool(outcome.terminated), bool(outcome.truncated)) == (
            terminated,
            truncated and not terminated,
        )
        if terminated or truncated:
            return count
    raise AssertionError("the package's episode did not end")


class Player:
    """A world's state, moved by a compiled step."""

    def __init__(self, state, step):
        self.state, self._step = state, jax.jit(step)

    def __call__(self, action, *drawn):
        self.state, outcome = self._step(self.state, jnp.int32(action), *(jnp.int32(d) for d in drawn))
        return outcome


DECKS = {
    "repeat_first": (repeat_first.RepeatFirst, cards.repeat_first, "suits_idx"),
    "repeat_previous": (repeat_previous.RepeatPrevious, cards.repeat_previous, "suits_idx"),
    "autoencode": (autoencode.Autoencode, cards.autoencode, "suits_idx"),
    "higher_lower": (higher_lower.HigherLower, cards.higher_lower, "ranks_idx"),
}


@pytest.mark.parametrize("level", LEVELS[:2])
@pytest.mark.parametrize("name", DECKS)
def test_a_game_with_one_deck_plays_as_the_package_does(name, level):
    theirs_cls, ours_make, kind = DECKS[name]
    theirs = {c.__name__: c for c in theirs_cls.__subclasses__()}[theirs_cls.__name__ + level.title()]()
    first, _ = theirs.reset(seed=SEED)
    world = ours_make(level)
    state, ours_first = world.begin(jnp.int32(np.ravel(first)[-1]))
    player, rng = Player(state, world.deal), np.random.default_rng(0)
    deck = iter(_dealing(theirs, kind))

    def advance(action):
        return player(action, next(deck, 0))

    n = int(world.action_space.n)
    actions = rng.integers(0, n, 4 * world.cards)
    assert compare(theirs, first, ours_first, advance, actions) in (world.cards - 1, 2 * world.cards - 1)


def _dealing(env, kind):
    """The kinds of the cards that the package will deal after the first, in order."""
    return getattr(env.deck, kind)[_order(env.deck)]


def _order(deck):
    probe = deck.clone()
    player = next(iter(probe.hands))
    order = []
    while len(probe):
        probe.deal(player, 1)
        order.append(probe[player][-1])
    return np.array(order, int)


@pytest.mark.parametrize("level", LEVELS)
def test_count_recall_plays_as_the_package_does(level):
    theirs = getattr(count_recall, f"CountRecall{level.title()}")()
    first, _ = theirs.reset(seed=SEED)
    world = cards.count_recall(level)
    values, queries = (theirs.deck_idx_type[_order(d)] for d in (theirs.value_deck, theirs.query_deck))
    state, ours_first = world.begin(*(jnp.int32(x) for x in first))
    player, both = Player(state, world.deal), iter(zip(values, queries, strict=True))
    rng = np.random.default_rng(0)
    actions = rng.integers(0, world.action_space.n, 52 * world.decks)
    compare(theirs, first, ours_first, lambda a: player(a, *next(both)), actions)


@pytest.mark.parametrize("level", LEVELS)
def test_concentration_plays_as_the_package_does(level):
    theirs = getattr(concentration, f"Concentration{level.title()}")()
    first, _ = theirs.reset(seed=SEED)
    world = cards.concentration(level)
    state, ours_first = world.init(jax.random.key(0))
    player, rng = Player(state, world.turn), np.random.default_rng(0)
    faces = np.asarray(theirs.state)
    pairs = [np.flatnonzero(faces == kind) for kind in range(world.kinds)]
    known = [int(i) for kind in pairs for i in kind]  # matches, so that cards stay up
    actions = [a if rng.integers(4) else int(rng.integers(len(faces))) for a in known * 8]
    compare(theirs, first, ours_first, lambda a: player(a, faces[a]), actions)


@pytest.mark.parametrize("level", LEVELS)
def test_battleship_plays_as_the_package_does(level):
    theirs = getattr(battleship, f"Battleship{level.title()}")()
    first, _ = theirs.reset(seed=SEED)
    world = boards.battleship(level)
    state, ours_first = world.begin(jnp.asarray(theirs.board.ravel() > 0))
    player = Player(state, lambda s, a: world.step(jax.random.key(0), s, a))
    for actions in (np.random.default_rng(0).integers(0, world.size**2, 400), range(world.size**2)):
        theirs.reset(seed=SEED)
        player.state = state
        compare(theirs, first, ours_first, player, actions, lambda a: divmod(int(a), world.size))


@pytest.mark.parametrize("level", LEVELS)
def test_minesweeper_plays_as_the_package_does(level):
    theirs = getattr(minesweeper, f"MineSweeper{level.title()}")()
    first, _ = theirs.reset(seed=SEED)
    world = boards.minesweeper(level)
    mine = theirs.hidden_grid.ravel() == 1
    state, ours_first = world.begin(jnp.asarray(mine))
    player = Player(state, lambda s, a: world.step(jax.random.key(0), s, a))
    safe, tile = list(np.flatnonzero(~mine)), np.flatnonzero(mine)
    for actions in (safe, [safe[0]] * 99, [*safe[:3], safe[0], tile[0]]):
        theirs.reset(seed=SEED)
        player.state = state
        compare(theirs, first, ours_first, player, actions, lambda a: divmod(int(a), world.size))


@pytest.mark.parametrize(
    "theirs, ours",
    [
        (position_only_cartpole.PositionOnlyCartPoleMedium(), balance.position_cartpole("medium")),
        (velocity_only_cartpole.VelocityOnlyCartPoleEasy(), balance.velocity_cartpole()),
    ],
    ids=("positions", "velocities"),
)
def test_a_cart_pole_moves_as_the_package_s_does(theirs, ours):
    first, _ = theirs.reset(seed=SEED)
    state = balance.Cart(jnp.asarray(theirs.state, jnp.float32), jnp.int32(0))
    player = Player(state, lambda s, a: ours.step(jax.random.key(0), s, a))
    compare(theirs, first, np.asarray(state.x)[0::2], player, [0, 1, 1] * 99)


def test_a_pendulum_swings_as_the_package_s_does():
    theirs, ours = position_only_pendulum.PositionOnlyPendulumHard(), balance.position_pendulum("hard")
    first, _ = theirs.reset(seed=SEED)
    angle, spin = (jnp.float32(x) for x in theirs.state)
    state = balance.Swing(angle, spin, jnp.int32(0))
    step = jax.jit(lambda s, a: ours.step(jax.random.key(0), s, a))

    def advance(action):
        nonlocal state
        state, outcome = step(state, jnp.asarray([action], jnp.float32))
        return outcome

    actions = 3 * np.sin(np.arange(100.0))  # beyond the limits of the torque, too
    compare(
        theirs, first, [np.cos(angle), np.sin(angle)], advance, actions, lambda a: np.array([a], np.float32)
    )


def test_noise_has_the_package_s_size_and_stays_in_the_space():
    theirs, ours = (
        noisy_position_only_cartpole.NoisyPositionOnlyCartPoleHard(),
        balance.noisy_cartpole("hard"),
    )
    keys = jax.random.split(jax.random.key(0), 4000)
    seen = np.asarray(jax.vmap(ours.init)(keys)[1])
    package = np.stack([theirs.reset(seed=s)[0] for s in range(1500)])
    np.testing.assert_allclose(seen.std(0), package.std(0), rtol=0.08)
    assert (abs(seen) <= theirs.observation_space.high + 1e-6).all()


def test_a_bandit_pays_as_often_as_its_odds_say_and_as_much_as_the_package_s():
    theirs, ours = multiarmed_bandit.MultiarmedBanditEasy(), MultiarmedBandit()
    theirs.reset(seed=SEED)
    odds = jnp.asarray(theirs.bandits)
    state, _ = ours.init(jax.random.key(0))
    state = state._replace(odds=odds)
    keys = jax.random.split(jax.random.key(1), 20_000)
    for arm in (0, 3):
        paid = jax.vmap(lambda k, arm=arm: ours.step(k, state, jnp.int32(arm))[1])(keys)
        rate = float(paid.observation.mean())
        assert abs(rate - odds[arm]) < 4 * float(jnp.sqrt(odds[arm] * (1 - odds[arm]) / 20_000)) + 1e-6
        np.testing.assert_allclose(paid.reward, np.where(paid.observation == 1, 1, -1) / 200, rtol=1e-6)
    _, reward, terminated, truncated, _ = theirs.step(0)
    assert abs(reward) == 1 / 200
    assert (terminated, truncated) == (False, False)
    last = state._replace(t=jnp.int32(199))
    assert bool(ours.step(keys[0], last, jnp.int32(0))[1].truncated)


def test_a_deck_drawn_card_by_card_holds_as_many_of_each_kind_as_a_real_one():
    left = cards.full(cards.RANKS, 52)

    def deal(left, key):
        card = cards.draw(key, left)
        return left.at[card].add(-1), card

    last, dealt = jax.lax.scan(deal, left, jax.random.split(jax.random.key(0), 52))
    assert (last == 0).all()
    assert (np.bincount(np.asarray(dealt)) == 4).all()


def test_each_next_card_is_as_likely_as_its_share_of_the_cards_left():
    left = jnp.array([3, 0, 1, 4])
    cards_drawn = jax.vmap(lambda k: cards.draw(k, left))(jax.random.split(jax.random.key(0), 40_000))
    share = np.bincount(np.asarray(cards_drawn), minlength=4) / 40_000
    np.testing.assert_allclose(share, np.asarray(left) / 8, atol=0.012)


def scripted(world, policy, memory, copies=64):
    """Mean return of ``policy(memory, observation) -> (memory, action)`` over one episode of each copy."""

    def play(key):
        first, rest = jax.random.split(key)
        state, seen = world.init(first)

        def step(carry, key):
            state, seen, memory, alive = carry
            memory, action = policy(memory, seen)
            state, outcome = world.step(key, state, action)
            reward = jnp.where(alive, outcome.reward, 0)
            alive &= ~(outcome.terminated | outcome.truncated)
            return (state, outcome.observation, memory, alive), reward

        start = (state, seen, memory, jnp.asarray(True))
        return jax.lax.scan(step, start, jax.random.split(rest, 210))[1].sum()

    return float(jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(2), copies)).mean())


def test_who_remembers_earns_all_that_the_card_says():
    def first(memory, seen):
        memory = jnp.where(memory < 0, seen, memory)
        return memory, memory

    assert scripted(cards.repeat_first(), first, jnp.int32(-1)) == pytest.approx(1, abs=1e-4)

    def previous(memory, seen):
        memory = jnp.concatenate([seen[None], memory[:-1]])
        return memory, memory[3]

    assert scripted(cards.repeat_previous(), previous, jnp.zeros(4, jnp.int32)) == pytest.approx(1, abs=1e-4)

    def backwards(memory, seen):
        suits, count, played = memory
        watched = count < 52
        suits = jnp.where(watched, suits.at[count % 52].set(seen[1]), suits)
        action = jnp.where(seen[0] == 0, suits[51 - played], 0)
        return (suits, count + watched, played + (seen[0] == 0)), action

    start = (jnp.zeros(52, jnp.int32), jnp.int32(0), jnp.int32(0))
    assert scripted(cards.autoencode(), backwards, start) == pytest.approx(1, abs=1e-4)

    def count(memory, seen):
        memory = memory.at[seen[0]].add(1)
        return memory, memory[seen[1]]

    assert scripted(cards.count_recall(), count, jnp.zeros(2, jnp.int32)) == pytest.approx(1, abs=1e-4)


def test_who_forgets_earns_what_the_card_says():
    def always(memory, seen):
        return memory, jnp.int32(0)

    assert scripted(cards.repeat_first(), always, jnp.int32(0), 512) == pytest.approx(-0.5, abs=0.13)
    assert scripted(cards.autoencode(), always, jnp.int32(0)) == pytest.approx(-0.5, abs=1e-4)

    def middle(memory, seen):
        return memory, (seen > 6).astype(jnp.int32)

    assert scripted(cards.higher_lower(), middle, jnp.int32(0), 512) == pytest.approx(0.5, abs=0.06)


def test_every_ship_lies_whole_and_apart_from_the_others():
    world = boards.battleship()
    ships = np.asarray(jax.vmap(lambda k: world.init(k)[0].ship)(jax.random.split(jax.random.key(0), 64)))
    assert (ships.sum(1) == 12).all()


def test_sizes_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"ships is \(\); name at least one"):
        boards.Battleship(8, ())
    with pytest.raises(ValueError, match="arms is 10 and steps 0"):
        MultiarmedBandit(steps=0)
    for game in (cards.RepeatFirst, cards.CountRecall, cards.Concentration):
        with pytest.raises(ValueError, match="decks is 0"):
            game(0)


def test_an_unknown_level_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="level is 'hrad'; known: easy, medium, hard"):
        cards.repeat_first("hrad")


@pytest.mark.parametrize("level", LEVELS[:2])
@pytest.mark.parametrize("package, explore", [(labyrinth_escape, False), (labyrinth_explore, True)])
def test_a_labyrinth_plays_as_the_package_does(package, explore, level):
    name = f"Labyrinth{'Explore' if explore else 'Escape'}{level.title()}"
    with pytest.warns(DeprecationWarning):
        theirs = getattr(package, name)()
    first, _ = theirs.reset(seed=SEED)
    world = labyrinth.Labyrinth(2 * theirs.maze_dims[0], explore, mazes=1)
    wall = jnp.asarray(theirs.maze.grid == 1).at[theirs.maze.start].set(True).at[theirs.maze.end].set(True)
    start, goal = (jnp.asarray(door, jnp.int32) for door in (theirs.maze.start, theirs.maze.end))
    state, ours_first = world.begin(wall, start, goal)
    player, rng = Player(state, lambda s, a: world.step(jax.random.key(0), s, a)), np.random.default_rng(0)
    # At random, then a hand on the wall, so that the goal is reached, and all is seen.
    grid, at, heading, tour = np.asarray(state.wall), None, 0, [int(a) for a in rng.integers(0, 4, 60)]

    def actions():
        nonlocal at, heading
        yield from tour
        while True:
            at = tuple(map(int, player.state.at))
            for direction in labyrinth.turns(heading):
                to = tuple(int(x) for x in np.clip(at + labyrinth.MOVES[direction], 0, len(grid) - 1))
                if not grid[to] and to != at:
                    break
            heading = direction
            yield direction

    steps = compare(theirs, first, ours_first, player, actions())
    assert steps > 60


def test_a_labyrinth_is_cut_off_when_the_package_s_is():
    with pytest.warns(DeprecationWarning):
        theirs = labyrinth_escape.LabyrinthEscapeEasy()
    first, _ = theirs.reset(seed=SEED)
    world = labyrinth.Labyrinth(10, mazes=1)
    wall = jnp.asarray(theirs.maze.grid == 1).at[theirs.maze.start].set(True).at[theirs.maze.end].set(True)
    state, ours_first = world.begin(
        wall, jnp.asarray(theirs.maze.start, jnp.int32), jnp.asarray(theirs.maze.end, jnp.int32)
    )
    player = Player(state, lambda s, a: world.step(jax.random.key(0), s, a))
    assert compare(theirs, first, ours_first, player, [0] * 1100) == world.card().steps

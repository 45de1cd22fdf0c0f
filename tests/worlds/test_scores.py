"""What a world's card says can be earned is earned by scripted policies, with memory and without."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linmem.worlds import WORLDS, balance, boards, cards
from linmem.worlds.bandit import MultiarmedBandit
from linmem.worlds.chains import PAID_AFTER, DiscountingChain, MemoryChain
from linmem.worlds.labyrinth import MOVES, Labyrinth, hunt_and_kill, turns
from linmem.worlds.latent_mdp import HIT, LatentMDP, reactive_value
from linmem.worlds.locks import CombinationLock, Revealing
from linmem.worlds.tmaze import EAST, NORTH, SOUTH, WEST, TMaze


def returns(world, policy, memory=(), copies=512, steps=None):
    """Returns of ``policy(memory, observation, key) -> (memory, action)`` in one episode of each copy."""

    def play(key):
        first, rest = jax.random.split(key)
        state, seen = world.init(first)

        def step(carry, key):
            state, seen, memory, alive = carry
            act, move = jax.random.split(key)
            memory, action = policy(memory, seen, act)
            action = jnp.asarray(action)
            if action.ndim == 0:  # a choice, not a torque
                action = action.astype(jnp.int32)
            state, outcome = world.step(move, state, action)
            reward = jnp.where(alive, outcome.reward, 0)
            alive &= ~(outcome.terminated | outcome.truncated)
            return (state, outcome.observation, memory, alive), reward

        start = (state, seen, memory, jnp.asarray(True))
        keys = jax.random.split(rest, steps or world.card().steps)
        (*_, alive), rewards = jax.lax.scan(step, start, keys)
        return rewards.sum(), alive

    earned, alive = jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(7), copies))
    assert steps is not None or not alive.any(), "an episode is longer than its card says"
    return np.asarray(earned, np.float64)


def agrees(earned, expected):
    error = earned.std() / np.sqrt(len(earned))
    assert abs(earned.mean() - expected) < 4 * error + 1e-5, (earned.mean(), expected, error)


def fixed(act):
    """A policy without memory."""
    return lambda memory, seen, key: (memory, act(seen))


# Cards


def test_who_repeats_the_card_earns_repeat_first_s_memoryless_score():
    world = cards.repeat_first()
    agrees(returns(world, fixed(lambda seen: seen), copies=8192), world.card().memoryless)


def test_who_names_another_suit_earns_repeat_previous_s_memoryless_score():
    world = cards.repeat_previous()
    agrees(returns(world, fixed(lambda seen: (seen + 1) % 4), copies=8192), world.card().memoryless)
    assert cards.RepeatPrevious(k=1).card().memoryless == 1
    agrees(returns(cards.RepeatPrevious(k=1), fixed(lambda seen: seen), copies=8), 1)


def test_who_repeats_the_suit_shown_earns_autoencode_s_memoryless_score():
    world = cards.autoencode()
    agrees(returns(world, fixed(lambda seen: seen[1])), world.card().memoryless)


@pytest.mark.parametrize("kind", ["colors", "ranks"])
def test_no_fixed_counts_beat_count_recall_s_memoryless_score_and_the_best_earn_it(kind):
    world, episodes = cards.CountRecall(1, kind), 3000
    rng = np.random.default_rng(0)
    deck = np.arange(52) % world.kinds
    right = {True: np.zeros(52 // world.kinds + 1), False: np.zeros(52 // world.kinds + 1)}
    for _ in range(episodes):
        values, queries = rng.permutation(deck)[:51], rng.permutation(deck)[:51]
        dealt = np.cumsum(np.eye(world.kinds, dtype=int)[values], axis=0)[np.arange(51), queries]
        for same in (True, False):
            right[same] += np.bincount(dealt[(values == queries) == same], minlength=len(right[same]))
    share = sum(counts.max() for counts in right.values()) / episodes / 51
    assert world.card().memoryless == pytest.approx(2 * share - 1, abs=4 * 2 / np.sqrt(51 * episodes) / 7)
    best = {same: int(counts.argmax()) for same, counts in right.items()}
    policy = fixed(lambda seen: jnp.where(seen[0] == seen[1], best[True], best[False]))
    agrees(returns(world, policy, copies=4096), world.card().memoryless)


def test_who_counts_the_cards_earns_higher_lower_s_attainable_score():
    world = cards.higher_lower()
    ranks = jnp.arange(13)

    def count(left, seen, key):
        left = left.at[seen].add(-1)
        higher, lower = (jnp.sum(jnp.where(side, left, 0)) for side in (ranks > seen, ranks < seen))
        return left, higher < lower

    earned = returns(world, count, jnp.full(13, 4), copies=16384)
    agrees(earned, world.card().attainable)
    agrees(returns(world, fixed(lambda seen: seen > 6), copies=16384), world.card().memoryless)
    assert earned.mean() > world.card().memoryless + 0.02


def test_of_three_cards_the_attainable_score_of_higher_lower_is_that_of_all_orders():
    # 2 higher and 1 lower card than the present one, and one equal: all orders of the next three draws.
    gain = cards._higher_or_lower(2, 1, 4)
    total = 0.0
    for m in range(1, 5):
        left = [sum(cards_left) for cards_left in itertools.combinations((1, 1, -1, 0), m)]
        total += np.mean(np.abs(left)) / m
    assert gain == pytest.approx(total / 4)


@pytest.mark.parametrize("world", [cards.Concentration(1, "colors"), cards.Concentration(1, "ranks")])
def test_who_turns_any_hidden_card_earns_concentration_s_memoryless_score(world):
    def anything(memory, seen, key):
        return memory, jax.random.categorical(key, jnp.where(seen == world.kinds, 0.0, -jnp.inf))

    agrees(returns(world, anything, copies=4096), world.card().memoryless)


# Boards


def test_who_shoots_at_random_earns_battleship_s_memoryless_score():
    world = boards.Battleship(5, (2, 3))
    anywhere = lambda memory, seen, key: (memory, jax.random.randint(key, (), 0, 25))  # noqa: E731
    agrees(returns(world, anywhere, copies=8192), world.card().memoryless)


@pytest.mark.parametrize("among", [3, 15, 16])
def test_who_asks_for_any_of_some_tiles_earns_what_minesweeper_says_of_chance(among):
    world = boards.minesweeper()
    some = lambda memory, seen, key: (memory, jax.random.randint(key, (), 0, among))  # noqa: E731
    agrees(returns(world, some, copies=16384), world.by_chance(among))
    assert world.card().memoryless >= world.by_chance(among)


@pytest.mark.parametrize("world", [boards.battleship(), boards.minesweeper()])
def test_who_knows_the_board_earns_all_of_it(world):
    state, _ = world.init(jax.random.key(3))
    tiles = np.flatnonzero(state.ship if isinstance(world, boards.Battleship) else ~state.mine)
    total, over = 0.0, False
    for tile in tiles:
        assert not over
        state, outcome = world.step(jax.random.key(0), state, jnp.int32(tile))
        total, over = total + float(outcome.reward), bool(outcome.terminated)
    assert over and total == pytest.approx(world.card().attainable)


# Balance


@pytest.mark.parametrize(
    "world, k",
    [
        (balance.position_cartpole(), -0.5),
        (balance.position_cartpole("hard"), -0.5),
        (balance.noisy_cartpole("easy"), -0.2),
        (balance.velocity_cartpole("medium"), 0.2),
    ],
)
def test_a_rule_on_what_is_seen_balances_as_long_as_the_card_says(world, k):
    push = fixed(lambda seen: seen[1] + k * seen[0] > 0)
    earned = returns(world, push, copies=1024, steps=world.card().steps)
    assert earned.mean() == pytest.approx(world.card().memoryless, rel=0.08)


@pytest.mark.parametrize("world", [balance.position_pendulum("hard"), balance.noisy_pendulum("medium")])
def test_a_torque_against_the_sine_swings_as_well_as_the_card_says(world):
    against = fixed(lambda seen: jnp.clip(-20 * seen[1:], -2, 2))
    earned = returns(world, against, copies=2048, steps=world.card().steps)
    assert earned.mean() == pytest.approx(world.card().memoryless, abs=4 * earned.std() / 2048**0.5 + 0.005)


def test_value_iteration_on_a_grid_estimates_what_the_pendulum_s_card_says_can_be_attained():
    angles, spins = np.linspace(-np.pi, np.pi, 121), np.linspace(-8, 8, 101)
    angle, spin = np.meshgrid(angles, spins, indexing="ij")
    moves = []
    for torque in np.linspace(-2, 2, 9):
        after = np.clip(spin + (15 * np.sin(angle) + 3 * torque) * 0.05, -8, 8)
        at = np.stack(
            [((angle + after * 0.05 + np.pi) % (2 * np.pi)) / (2 * np.pi) * 120, (after + 8) / 16 * 100]
        )
        low = np.minimum(at.astype(int), [[[119]], [[99]]])
        reward = 1 - (angle**2 + 0.1 * spin**2 + 0.001 * torque**2) / (16.2736044 / 2)
        moves.append((*low, *(at - low), reward))
    value, begun = np.zeros_like(angle), abs(spins) <= 1
    for steps in range(1, 201):
        value = np.max(
            [
                reward
                + (1 - x) * ((1 - y) * value[i, j] + y * value[i, j + 1])
                + x * ((1 - y) * value[i + 1, j] + y * value[i + 1, j + 1])
                for i, j, x, y, reward in moves
            ],
            axis=0,
        )
        if steps in balance.SEEN_SWING:
            estimate = value[:-1, begun].mean() / steps
            assert balance.SEEN_SWING[steps] - 0.02 < estimate < balance.SEEN_SWING[steps]


def test_who_sees_the_velocity_comes_near_what_the_pendulum_s_card_says_can_be_attained():
    """Pump energy until it is that of standing, then balance; not the best policy."""
    world, earned = balance.position_pendulum(), []

    def play(key):
        def step(state, _):
            angle, spin = (state.angle + np.pi) % (2 * np.pi) - np.pi, state.spin
            energy = spin**2 / 2 + 15 * (jnp.cos(angle) - 1)
            pump = jnp.where(energy < 0, 2.0, -2.0) * jnp.where(spin >= 0, 1.0, -1.0)
            hold = -10 * angle - 2 * spin
            torque = jnp.where((abs(angle) < 0.4) & (abs(spin) < 2), hold, pump)
            state, outcome = world.step(key, state, torque[None])
            return state, outcome.reward

        return jax.lax.scan(step, world.init(key)[0], length=world.steps)[1].sum()

    earned = jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(0), 1024)).mean()
    assert world.card().attainable - 0.1 < earned < world.card().attainable


# T-maze


def turning(goes):
    """Read the sign, walk east, take the arm; ``goes`` says where to walk before the sign is known."""

    def policy(north, seen, key):
        sign, junction = (seen[1] == 1) & (seen[0] + seen[2] == 1), (seen == jnp.array([0, 1, 0])).all()
        north = jnp.where(sign, seen[2] == 1, north)
        arm = jnp.where(north == 1, NORTH, SOUTH)
        return north, jnp.where(junction, arm, jnp.where(north < 0, goes, EAST))

    return policy


@pytest.mark.parametrize("world", [TMaze(4), TMaze(4, noise=True), TMaze(5, active=True)])
def test_who_reads_the_sign_earns_all_of_the_t_maze_and_who_does_not_the_memoryless_score(world):
    earned = returns(world, turning(WEST), jnp.int32(-1), 64)
    np.testing.assert_allclose(earned, world.card().attainable)
    blind = fixed(lambda seen: jnp.where((seen == jnp.array([0, 1, 0])).all(), NORTH, EAST))
    agrees(returns(world, blind, copies=4096), world.card().memoryless)


def test_no_memoryless_policy_of_a_small_t_maze_beats_the_card():
    world, actions = TMaze(2, limit=6), range(4)
    best = -np.inf
    for goal_signs in itertools.product(actions, repeat=4):  # at sign south, sign north, corridor, junction
        total = 0.0
        for north in (False, True):
            cell = 0
            for _ in range(6):
                action = goal_signs[int(north)] if cell == 0 else goal_signs[2 if cell == 1 else 3]
                if cell == 2 and action in (NORTH, SOUTH):
                    total += 4 if (action == NORTH) == north else -0.1
                    break
                there = min(max(cell + (action == EAST) - (action == WEST), 0), 2)
                total -= 0.1 * (there == cell)
                cell = there
        best = max(best, total / 2)
    assert best == pytest.approx(world.card().memoryless)


def test_walls_of_the_t_maze_cost_and_noise_stays_in_the_corridor():
    world = TMaze(3, noise=True)
    state, seen = world.init(jax.random.key(0))
    assert sorted(map(float, seen)) == [0, 1, 1] and seen[1] == 1
    bumped, outcome = world.step(jax.random.key(1), state, jnp.int32(NORTH))
    assert outcome.reward == pytest.approx(-0.1) and bumped.cell == 0
    _, outcome = world.step(jax.random.key(1), state, jnp.int32(EAST))
    assert outcome.reward == 0 and outcome.observation[1] == 0 and 0 < outcome.observation[0] < 1
    with pytest.raises(ValueError, match="limit is 3; the goal is 4 steps away"):
        TMaze(3, limit=3)


# bsuite


def bsuite_chain(length, bits, query, actions):
    """The package's memory chain, as its source defines it: [(observation, reward, over)] after the first
    observation."""

    def observation(t):
        shown = [1 - t / length, query if t == length - 1 else 0]
        return shown + [2.0 * b - 1 if t == 0 else 0.0 for b in bits]

    steps, t = [], 0
    for action in actions:
        seen, t = observation(t), t + 1
        over = t - 1 == length
        steps.append((seen, (1.0 if action == bits[query] else -1.0) if over else 0.0, over))
    return observation(0), steps


@pytest.mark.parametrize("length, bits", [(1, 1), (5, 3)])
def test_the_memory_chain_plays_as_bsuite_s(length, bits):
    world = MemoryChain(length, bits)
    state, seen = world.init(jax.random.key(2))
    actions = np.random.default_rng(0).integers(0, 2, length + 1)
    theirs, steps = bsuite_chain(length, [int(b) for b in state.bits], int(state.query), actions)
    np.testing.assert_allclose(seen, theirs, atol=1e-6)
    for action, (theirs, reward, over) in zip(actions, steps, strict=True):
        state, outcome = world.step(jax.random.key(0), state, jnp.int32(action))
        np.testing.assert_allclose(outcome.observation, theirs, atol=1e-6)
        assert (float(outcome.reward), bool(outcome.terminated)) == (reward, over)


def test_who_remembers_the_context_earns_1_in_the_memory_chain_and_who_does_not_0():
    world = MemoryChain(6, 3)

    def recall(memory, seen, key):
        bits, query = memory
        bits = jnp.where((seen[2:] != 0).any(), seen[2:], bits)
        query = jnp.maximum(query, seen[1].astype(jnp.int32))
        return (bits, query), bits[query] > 0

    earned = returns(world, recall, (jnp.zeros(3), jnp.int32(0)), 256)
    assert (earned == world.card().attainable).all()
    agrees(returns(world, fixed(lambda seen: 1), copies=4096), world.card().memoryless)


def test_the_discounting_chain_pays_once_and_best_on_its_bonus():
    for bonus, chain in itertools.product((0, 3), range(5)):
        world = DiscountingChain(bonus)
        state, _ = world.init(jax.random.key(0))
        rewards = []
        for t in range(100):
            state, outcome = world.step(jax.random.key(0), state, jnp.int32(chain if t == 0 else t % 5))
            rewards.append(float(outcome.reward))
            assert bool(outcome.terminated) == (t == 99)
            np.testing.assert_allclose(outcome.observation, [chain, (t + 1) / 100], rtol=1e-6)
        worth = 1.1 if chain == bonus else 1.0
        assert sum(rewards) == rewards[PAID_AFTER[chain] - 1] == pytest.approx(worth)
    assert world.card().attainable == world.card().memoryless == 1.1


# Latent MDPs and locks


def test_who_tries_one_context_after_another_earns_all_of_a_latent_mdp():
    world = LatentMDP(4, length=9)

    def search(trying, seen, key):
        trying = trying + (seen == 2)
        return trying, trying

    agrees(returns(world, search, jnp.int32(0), 4096), world.card().attainable)


def test_the_memoryless_score_of_a_latent_mdp_is_that_of_the_best_of_a_grid_of_policies():
    world = LatentMDP(2, length=6)
    grid = np.linspace(0, 1, 11)
    laws = ([[p, 1 - p] for p in choice] for choice in itertools.product(grid, repeat=3))
    values = {tuple(map(tuple, law)): reactive_value(world.tables(), np.array(law), 6) for law in laws}
    best = max(values, key=values.get)
    # a softmax comes near certain actions, and does not reach them
    assert world.card().memoryless >= values[best] - 1e-4
    assert world.card().memoryless == pytest.approx(values[best], abs=0.01)
    law = jnp.log(jnp.asarray(best) + 1e-30)
    drawn = returns(world, lambda m, seen, key: (m, jax.random.categorical(key, law[seen])), copies=8192)
    agrees(drawn, values[best])


def test_who_knows_the_context_earns_what_a_noisy_latent_mdp_allows():
    world = LatentMDP(3, hit=0.8, length=10)
    model = world.tables()
    assert world.card().attainable == 0.8
    hits = model.transition[1, 3 + HIT, 3 + HIT]  # context 1, its own action
    assert hits == 0.8 and model.transition[0, 3, 3 + HIT] == pytest.approx(0.2)


def test_who_counts_opens_the_lock_and_who_draws_digits_as_often_as_they_occur_earns_the_memoryless_score():
    world = CombinationLock(4, 2, noise=0.1, code=2)
    code = jnp.asarray(world.combination)
    assert len(set(world.combination)) == 2
    earned = returns(world, lambda t, seen, key: (t + 1, code[t]), jnp.int32(0), 64)
    assert (earned == world.card().attainable).all()
    law = jnp.log(jnp.bincount(code, length=2) / 4)
    draws = returns(world, lambda m, seen, key: (m, jax.random.categorical(key, law)), copies=8192)
    agrees(draws, world.card().memoryless)


def test_no_other_shares_of_digits_open_the_lock_more_often():
    world = CombinationLock(5, 2, code=1)
    ones = sum(world.combination)
    assert 0 < ones < 5
    shares = np.linspace(0, 1, 1001)
    assert (shares**ones * (1 - shares) ** (5 - ones)).max() == pytest.approx(
        world.card().memoryless, rel=1e-4
    )


@pytest.mark.parametrize("looks", [4, 7])
def test_who_follows_the_majority_of_looks_earns_the_attainable_score(looks):
    world = Revealing(0.5, looks)

    def majority(sum_of, seen, key):
        sum_of = sum_of + jnp.where(seen == 2, 0, 2 * seen - 1)
        return sum_of, sum_of > 0

    agrees(returns(world, majority, jnp.int32(0), 8192), world.card().attainable)
    agrees(returns(world, fixed(lambda seen: 1), copies=4096), world.card().memoryless)
    emission = world.tables().emission[0][:2, :2]
    assert np.linalg.svd(emission)[1].min() == pytest.approx(0.5)


# Labyrinths


def test_every_maze_is_a_tree_of_all_its_cells():
    for seed in range(20):
        wall = hunt_and_kill(5, np.random.default_rng(seed))
        assert not wall[1::2, 1::2].any() and wall[::2, ::2].all() and wall[[0, -1]].all()
        # 25 cells are joined without a circle by exactly 24 openings
        assert int((~wall).sum()) == 25 + 24
        seen, queue = {(1, 1)}, [(1, 1)]
        while queue:
            at = queue.pop()
            for move in MOVES:
                to = (at[0] + int(move[0]), at[1] + int(move[1]))
                if not wall[to] and to not in seen:
                    seen.add(to)
                    queue.append(to)
        assert len(seen) == 49


ORDERS = jnp.array([turns(heading) for heading in range(4)])


def right_hand(memory, seen, key):
    """A wall at the right hand; of the squares shown and the last action only."""
    view, last = seen[:9].reshape(3, 3), seen[9]
    # At the first step the start is in the middle of a side of what is shown, or in its middle.
    top, left = view[0, 1] == 2, view[1, 0] == 2
    down_or_right = jnp.where(top, 3, 1)
    inner = jnp.where(view[0, 1] == 0, 2, 0)
    first = jnp.where(top | left, down_or_right, inner)
    around = jnp.array([view[1, 0], view[1, 2], view[0, 1], view[2, 1]])
    order = ORDERS[jnp.minimum(last, 3)]
    open_ = (around[order] == 0) | (around[order] == 3)
    return memory, jnp.where(last == 4, first, order[jnp.argmax(open_)])


@pytest.mark.parametrize("explore", [False, True])
def test_a_hand_on_the_wall_earns_the_labyrinth_s_memoryless_score(explore):
    world = Labyrinth(6, explore, mazes=64)
    card = world.card()
    earned = returns(world, right_hand, copies=2048, steps=120)
    # the card's own sample is 200 mazes
    assert earned.mean() == pytest.approx(card.memoryless, abs=4 * earned.std() * np.sqrt(1 / 200 + 1 / 2048))
    assert (earned <= 1).all() and card.memoryless < card.attainable <= 1


def test_no_card_says_that_less_can_be_attained_than_without_memory():
    known = {entry.name: entry.make().card() for entry in WORLDS}
    for name, card in known.items():
        if card is not None:
            assert card.attainable >= card.memoryless and card.steps >= 1, name
    assert sum(card is not None for card in known.values()) >= 15


@pytest.mark.parametrize("arms, steps", [(10, 200), (3, 40)])
def test_who_stays_with_arm_0_after_a_hit_earns_the_bandit_s_memoryless_score(arms, steps):
    world = MultiarmedBandit(arms, steps)

    def stay(memory, seen, key):
        return memory, jnp.where(seen == 1, 0, jax.random.randint(key, (), 0, arms))

    agrees(returns(world, stay, copies=8192), world.card().memoryless)
    assert world.card().memoryless > 0.05

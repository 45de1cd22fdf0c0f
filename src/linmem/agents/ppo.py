"""Recurrent PPO: collect with a memory, learn by unrolling it, as plain functions.

Details that change results, numbered as they are marked in the code:

 1. The memory is re-run in every epoch from the state in which the rollout began, over whole rollouts:
    minibatches split the actors, never time. (M. Pleines et al. 2022, arXiv:2205.11104; C. Lu et al. 2023,
    arXiv:2303.03982.) That first state was made by earlier parameters; it is kept as it is and carries no
    gradient.
 2. Truncated episodes bootstrap from their final observation, terminated ones do not (F. Pardo et al. 2018,
    arXiv:1712.00378); see ``rollout.py`` for how.
 3. Advantages are normalised per minibatch, over real decisions only.
 4. The clipped surrogate of J. Schulman et al. 2017, arXiv:1707.06347, eq. 7.
 5. The value is regressed on advantage + old value, both from the rollout, with squared error and no clipping
    (M. Andrychowicz et al. 2021, arXiv:2006.05990, finds clipping does not help).
 6. One Adam with eps = 1e-5 for all parameters, the gradient clipped by its global norm (S. Huang et al.
    2022, "The 37 Implementation Details of PPO", details 3 and 11). The step size falls linearly to 0 over
    the run, if wished.
 7. Heads begin orthogonal, the actor's last layer at 0.01: the first policy is uniform (ibid., detail 2).
 8. Several seeds are one computation, vmapped; they share nothing but the compiled code.
 9. Continuous actions are Gaussian with a learned spread that does not depend on the step, begun wide,
    and are clipped to the box only where they are executed (Andrychowicz et al. 2021; Huang et al. 2022, the
    details for continuous actions).
10. If wished: observations are normalised (``memories/normalised.py``) by what was seen before the rollout,
    rewards are divided by the spread of their discounted sums so far, and the critic sees the world's hidden
    state, which the actor does not (L. Pinto et al. 2018, arXiv:1710.06542), or shares nothing with the
    actor: its memory is its own, and its gradient is clipped alone.

The agent never asks which memory it holds.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from ..core.algebra import Diagonal, Element
from ..core.moments import Moments, merge, no_moments
from ..core.scan import scan
from ..memories.base import AbstractMemory
from ..memories.normalised import Normalised
from ..worlds.base import AbstractHostWorld, AbstractWorld
from . import host
from .policy import ActorCritic
from .returns import advantages
from .rollout import Actor, Slot, begin, blank_memory, collect
from .spread import by_actor, everywhere, spread

MakeMemory = Callable[[AbstractWorld, int, PRNGKeyArray], AbstractMemory]


@dataclass(frozen=True)
class PPOConfig:
    """Settings of the learner; they are the same for every memory."""

    actors: int = 64
    """copies of the world"""
    unroll: int = 128
    """steps of each copy between two updates"""
    epochs: int = 4
    """passes over each rollout"""
    minibatches: int = 8
    """parts the actors are split into, in each pass"""
    step_size: float = 3e-3
    """Adam's step size at the beginning"""
    anneal: bool = True
    """let the step size fall linearly to 0 over the run"""
    discount: float = 0.99
    """of future rewards, per step"""
    reward_scale: float = 1.0
    """rewards are divided by it before anything is learned from them; values are then in these units"""
    trace: float = 0.95
    """lambda of the advantage estimates"""
    clip: float = 0.2
    """largest change of an action's probability ratio that is rewarded"""
    entropy_cost: float = 0.01
    """weight of the policy's entropy in the objective"""
    value_cost: float = 0.5
    """weight of the value error"""
    max_gradient: float = 2.0
    """largest global norm of a gradient"""
    memory_size: int = 64
    """width of learned memories and of the heads"""
    normalise_observations: bool = False
    """shift and scale numbers that are observed by their mean and spread so far; choices stay as they are"""
    normalise_rewards: bool = False
    """divide rewards, before reward_scale, by the spread so far of the discounted sum of past ones"""
    privileged_critic: bool = False
    """let the critic, which does not act, see the world's hidden state too"""
    separate_critic: bool = False
    """give the critic a memory of its own, as large as the actor's, and a gradient clipped alone"""

    def __post_init__(self):
        for name in ("actors", "unroll", "epochs", "minibatches", "memory_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.actors % self.minibatches:
            raise ValueError(
                f"minibatches is {self.minibatches} and actors {self.actors}; minibatches split the actors, "
                "so the number of actors must be a multiple of it"
            )
        if not self.reward_scale > 0:
            raise ValueError(f"reward_scale is {self.reward_scale}; it must be positive")
        for name in ("max_gradient", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive, and finite")
        for name in ("step_size", "entropy_cost", "value_cost"):  # a step size of 0 leaves agents as they are
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more, and finite")
        for name in ("discount", "trace"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it lies in [0, 1]")


class State(NamedTuple):
    """What the next update needs. critic: states of the critic's own memory, per actor; None without one."""

    policy: ActorCritic
    optimiser: optax.OptState
    actors: Actor
    key: PRNGKeyArray
    update: Int[Array, ""]
    earning: "Earning | None" = None
    critic: Any = None


class Earning(NamedTuple):
    """What rewards are normalised by. sums: the discounted sum of an episode's rewards so far, per actor.
    moments: of all such sums so far."""

    sums: Float[Array, " actors"]
    moments: Moments


class Metrics(NamedTuple):
    """What a person wants to see of one update.

    reward:            mean reward per decision in the rollout; NaN if it holds none
    episode_return:    mean undiscounted return of the episodes that ended in it; NaN if none did
    episodes:          how many did
    steps:             decisions made (slots that only hold a final observation do not count)
    policy_loss:       clipped surrogate, negated
    value_loss:        mean squared error of the value
    entropy:           of the policy, in nats; falls from log(actions) as it becomes certain (of continuous
                       actions it is a density's, and falls below 0)
    divergence:        mean of (ratio - 1) - log ratio, an estimate of KL(old || new); above 0.05 steps are
                       too large
    clipped:           share of decisions whose ratio left [1 - clip, 1 + clip]
    gradient:          global norm before clipping
    explained:         1 - Var(return - value) / Var(return) on the rollout; 1 is a perfect critic,
                       0 a constant one
    """

    reward: Float[Array, ""]
    episode_return: Float[Array, ""]
    episodes: Int[Array, ""]
    steps: Int[Array, ""]
    policy_loss: Float[Array, ""]
    value_loss: Float[Array, ""]
    entropy: Float[Array, ""]
    divergence: Float[Array, ""]
    clipped: Float[Array, ""]
    gradient: Float[Array, ""]
    explained: Float[Array, ""]


def optimiser(config: PPOConfig, updates: int) -> optax.GradientTransformation:
    """Adam for a run of ``updates`` updates (detail 6)."""
    steps = updates * config.epochs * config.minibatches
    size = optax.linear_schedule(config.step_size, 0.0, steps) if config.anneal else config.step_size
    clip = optax.clip_by_global_norm(config.max_gradient)
    if config.separate_critic:  # clipped together, large errors of the value would shorten the policy's steps
        clip = optax.partition({"actor": clip, "critic": clip}, _whose)
    return optax.chain(clip, optax.adam(size, eps=1e-5))


def _whose(policy: ActorCritic) -> ActorCritic:
    """Of each parameter: "actor" or "critic"."""
    names = jax.tree.map(lambda _: "actor", policy)
    return eqx.tree_at(
        lambda p: (p.critic, p.critic_memory), names, replace_fn=lambda p: jax.tree.map(lambda _: "critic", p)
    )


def init(
    config: PPOConfig, world: AbstractWorld, make_memory: MakeMemory, updates: int, key: PRNGKeyArray
) -> State:
    """The state before the first of ``updates`` updates."""
    memory_key, policy_key, actor_key, key = jax.random.split(key, 4)

    def make(key: PRNGKeyArray) -> AbstractMemory:
        memory = make_memory(world, config.memory_size, key)
        return Normalised.around(memory, world.observation_space) if config.normalise_observations else memory

    critic_memory = make(jax.random.fold_in(memory_key, 1)) if config.separate_critic else None
    policy = ActorCritic(
        make(memory_key),
        world.action_space,
        config.memory_size,
        _hidden_states(world) if config.privileged_critic else None,
        critic_memory,
        key=policy_key,
    )
    actor_keys = jax.random.split(actor_key, config.actors)
    if isinstance(world, AbstractHostWorld):
        actors = host.blank(policy, world, config.actors)  # filled when its copies begin
    else:
        actors = jax.vmap(begin, in_axes=(None, None, 0))(policy, world, actor_keys)
    learned = eqx.filter(policy, eqx.is_inexact_array)
    earning = Earning(jnp.zeros(config.actors), no_moments(())) if config.normalise_rewards else None
    opt_state = optimiser(config, updates).init(learned)
    critic = None if critic_memory is None else blank_memory(critic_memory, config.actors)
    return State(policy, opt_state, actors, key, jnp.zeros((), jnp.int32), earning, critic)


def _hidden_states(world: AbstractWorld) -> int:
    model = world.tables()
    if model is None:
        raise ValueError(
            f"a privileged critic sees hidden states, and {type(world).__name__} has no tables of them; "
            "leave --privileged-critic out there"
        )
    return model.n_states


def update(
    config: PPOConfig, world: AbstractWorld, updates: int, state: State, mesh: Mesh | None = None
) -> tuple[State, Metrics]:
    """Collect one rollout and learn from it. mesh: devices to spread the actors over (``spread.py``)."""
    key, collect_key, learn_key = jax.random.split(state.key, 3)
    actors, slots = collect(state.policy, world, state.actors, collect_key, config.unroll)
    hidden = jax.vmap(world.hidden)(actors.world)
    return improve(config, updates, state._replace(key=key), actors, slots, learn_key, hidden, mesh)


def improve(
    config: PPOConfig,
    updates: int,
    state: State,
    actors: Actor,
    slots: Slot,
    learn_key: PRNGKeyArray,
    hidden: Int[Array, " actors"] | None = None,
    mesh: Mesh | None = None,
) -> tuple[State, Metrics]:
    """Learn from the rollout ``slots`` (time, actors), which began in ``state`` and left the actors as
    ``actors``, in the hidden states ``hidden``."""
    first_memory = state.actors.memory, state.critic
    if state.critic is None:
        critic, past = None, slots.value
        _, _, last = jax.vmap(state.policy.step)(actors.memory, actors.inputs, actors.start, hidden)
    else:  # it did not act; its values are those of the parameters that did
        watch = jax.vmap(state.policy.watch, in_axes=(0, 1, 1, 1), out_axes=(0, 1))
        critic, past = watch(state.critic, slots.inputs, slots.start, slots.hidden)
        _, (last,) = watch(critic, *jax.tree.map(lambda x: x[None], (actors.inputs, actors.start, hidden)))
    values = jnp.concatenate([past, last[None]])
    rewards, earning = slots.reward / config.reward_scale, state.earning
    if earning is not None:
        earning = earn(earning, slots, config.discount)
        rewards /= jnp.sqrt(earning.moments.variance + 1e-8)
    gains = advantages(rewards, values, slots.terminated, slots.truncated, config.discount, config.trace)
    targets = gains + past  # detail 5

    policy, opt_state, losses = learn(
        config, updates, state.policy, state.optimiser, (first_memory, slots, gains, targets), learn_key, mesh
    )
    if config.normalise_observations:  # every observation once: a final one does not act
        policy = _normalised_after(policy, slots.inputs.observation)
    ended = ~jnp.isnan(slots.returns)
    metrics = Metrics(
        reward=jnp.mean(slots.reward, where=slots.acts),
        episode_return=jnp.mean(slots.returns, where=ended),
        episodes=jnp.sum(ended),
        steps=jnp.sum(slots.acts),
        explained=1 - _variance(gains, slots.acts) / _variance(targets, slots.acts),
        **losses,
    )
    return State(policy, opt_state, actors, state.key, state.update + 1, earning, critic), metrics


def _normalised_after(policy: ActorCritic, observations: Array) -> ActorCritic:
    rows = observations.reshape(-1, *observations.shape[2:])

    def after(part):
        return part.after(rows, jnp.ones(len(rows), bool)) if isinstance(part, Normalised) else part

    return jax.tree.map(after, policy, is_leaf=lambda part: isinstance(part, Normalised))


def earn(earning: Earning, slots: Slot, discount: float) -> Earning:
    """With the rewards of a rollout: G_t = discount G_{t-1} + r_t, begun anew with each episode."""
    decay = jnp.full_like(slots.reward, discount)[..., None]
    last, sums = scan(Diagonal(), Element(decay, slots.reward[..., None]), earning.sums[:, None], slots.start)
    moments = merge(earning.moments, sums[..., 0].ravel(), slots.acts.ravel())
    return Earning(last[:, 0], moments)


def learn(
    config: PPOConfig,
    updates: int,
    policy: ActorCritic,
    opt_state: optax.OptState,
    data,
    key: PRNGKeyArray,
    mesh: Mesh | None = None,
):
    """All epochs on one rollout: (policy, optimiser state, mean of each loss's parts)."""
    transform = optimiser(config, updates)
    size = config.actors // config.minibatches

    def minibatch(carry, part):
        policy, opt_state = carry
        (_, parts), gradient = eqx.filter_value_and_grad(loss, has_aux=True)(policy, config, *part)
        changes, opt_state = transform.update(gradient, opt_state)
        parts["gradient"] = optax.tree.norm(gradient)
        return (eqx.apply_updates(policy, changes), opt_state), parts

    def epoch(carry, key):
        order = jax.random.permutation(key, config.actors).reshape(config.minibatches, size)
        # all minibatches at once: devices that share the actors then exchange them once an epoch
        first_memory, *timed = data
        memory = spread(jax.tree.map(lambda x: x[order], first_memory), 1, mesh)
        timed = jax.tree.map(lambda x: jnp.moveaxis(x[:, order], 1, 0), timed)
        slots, gains, targets = spread(timed, 2, mesh)
        gains = jax.vmap(normalised)(gains, slots.acts)
        return jax.lax.scan(minibatch, carry, (memory, slots, gains, targets))

    (policy, opt_state), parts = jax.lax.scan(
        epoch, (policy, opt_state), jax.random.split(key, config.epochs)
    )
    return policy, opt_state, jax.tree.map(jnp.mean, parts)


def loss(policy: ActorCritic, config: PPOConfig, first_memory, slots: Slot, gains: Array, targets: Array):
    """The objective on whole rollouts of some actors: (loss, its parts). first_memory: in which states the
    actors' memory, and the critic's own, began them. gains: advantages, normalised."""
    memory, critic = first_memory
    unroll = jax.vmap(policy.unroll, in_axes=(0, 1, 1, 1, 0), out_axes=(0, 1, 1))
    _, parameters, values = unroll(memory, slots.inputs, slots.start, slots.hidden, critic)  # detail 1
    log_ratio = policy.actions.log_prob(parameters, slots.action) - slots.log_prob
    ratio = jnp.exp(log_ratio)
    within = jnp.clip(ratio, 1 - config.clip, 1 + config.clip)
    policy_loss = -_mean(jnp.minimum(ratio * gains, within * gains), slots.acts)  # detail 4
    value_loss = _mean((values - targets) ** 2, slots.acts)
    entropy = _mean(policy.actions.entropy(parameters), slots.acts)
    total = policy_loss + config.value_cost * value_loss - config.entropy_cost * entropy
    return total, {
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy,
        "divergence": _mean(ratio - 1 - log_ratio, slots.acts),
        "clipped": _mean((jnp.abs(ratio - 1) > config.clip).astype(jnp.float32), slots.acts),
    }


def normalised(gains: Array, acts: Array) -> Array:
    """With mean 0 and variance 1 over real decisions (detail 3)."""
    return (gains - _mean(gains, acts)) / (jnp.sqrt(_variance(gains, acts)) + 1e-8)


def _mean(x: Array, where: Array) -> Array:
    """0 of nothing: a short rollout may hold only final observations, and then there is nothing to learn."""
    return jnp.sum(x, where=where) / jnp.maximum(jnp.sum(where), 1)


def _variance(x: Array, where: Array) -> Array:
    return jnp.where(jnp.any(where), jnp.var(x, where=where), 0.0)


def lower_init(
    config: PPOConfig, world: AbstractWorld, make_memory: MakeMemory, updates: int, seeds: int
) -> jax.stages.Lowered:
    """``init`` for several seeds at once (detail 8), traced but not compiled: keys (seeds,) -> State whose
    leaves have a leading seed axis. Its ``out_info`` is the form of that state."""
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), seeds))
    return jax.jit(jax.vmap(lambda key: init(config, world, make_memory, updates, key))).lower(keys)


# It runs once, so code that compiles in a third of the time beats code that runs fast.
INIT_OPTIONS: dict[str, str | bool] = {"xla_backend_optimization_level": "0"}


def seeds_init(
    config: PPOConfig, world: AbstractWorld, make_memory: MakeMemory, updates: int, keys: Key[Array, " seeds"]
) -> State:
    """The state of all seeds before the first of ``updates`` updates."""
    return lower_init(config, world, make_memory, updates, len(keys)).compile(INIT_OPTIONS)(keys)


def places(state: State, mesh: Mesh):
    """Where each leaf of the state of several seeds goes: what belongs to an actor to its device."""
    actors = lambda tree: jax.tree.map(lambda _: by_actor(mesh, 1), tree)  # noqa: E731
    placed = jax.tree.map(lambda _: everywhere(mesh), state)
    placed = placed._replace(actors=actors(state.actors), critic=actors(state.critic))
    if placed.earning is not None:
        placed = placed._replace(earning=placed.earning._replace(sums=by_actor(mesh, 1)))
    return placed


def compile_train(
    config: PPOConfig,
    world: AbstractWorld,
    updates: int,
    chunk: int,
    state: State,
    mesh: Mesh | None = None,
):
    """Compile ``chunk`` updates of all seeds:
    a function State -> (State, Metrics with leading axes (seed, update)).

    mesh: devices that share the actors; the State must then be placed on them (``places``). Raises ValueError
    for a world that steps outside JAX.
    """
    if isinstance(world, AbstractHostWorld):
        if mesh is not None:
            raise ValueError(
                f"{type(world).__name__} steps outside JAX, which one device trains; leave --devices out"
            )
        return _train_on_host(config, world, updates, chunk, state)

    def train(state):
        return jax.lax.scan(lambda s, _: update(config, world, updates, s, mesh), state, None, length=chunk)

    train = _each_seed(train)
    if mesh is None:
        return jax.jit(train).lower(state).compile()
    placed = places(state, mesh)
    jitted = jax.jit(train, in_shardings=(placed,), out_shardings=(placed, everywhere(mesh)))
    return jitted.lower(state).compile()


def _each_seed(run: Callable) -> Callable:
    """``run`` for all seeds, which lead every argument's leaves (detail 8). One seed is not vmapped: an axis
    of one makes every product of the learner a batched one, for which XLA's CPU compiler transposes first."""

    def run_all(*arguments):
        if len(jax.tree.leaves(arguments)[0]) > 1:
            return jax.vmap(run)(*arguments)
        out = run(*jax.tree.map(lambda leaf: leaf[0], arguments))
        return jax.tree.map(lambda leaf: leaf[None], out)

    return run_all


def _train_on_host(
    config: PPOConfig, world: AbstractHostWorld, updates: int, chunk: int, state: State
) -> Callable[[State], tuple[State, Metrics]]:
    """The same where the world cannot be compiled: its copies are stepped on the host, between two compiled
    functions, one to act and one to learn. The copies begin anew at the first call."""
    split = jax.jit(jax.vmap(lambda key: tuple(jax.random.split(key, 3))))
    rollout = host.Rollout(world, config.actors, config.unroll)
    learn_all = jax.jit(_each_seed(lambda *rest: improve(config, updates, *rest))).lower(
        state, state.actors, rollout.form(state.policy, state.actors), jax.eval_shape(split, state.key)[2]
    )
    learn_all = learn_all.compile()

    def train(state: State) -> tuple[State, Metrics]:
        history = []
        for _ in range(chunk):
            key, collect_key, learn_key = split(state.key)
            begun = rollout.begin(state.actors, collect_key)
            actors, slots = rollout.collect(state.policy, begun, collect_key)
            state, metrics = learn_all(state._replace(actors=begun, key=key), actors, slots, learn_key)
            history.append(metrics)
        return state, jax.tree.map(lambda *parts: jnp.stack(parts, axis=1), *history)

    return train

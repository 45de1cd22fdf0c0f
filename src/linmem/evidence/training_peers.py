"""Whole PPO training by this library and by others, on one world at equal sizes, for `linmem bench peers`.

Each contender is a function of (world, updates, seed, sizes) that gives ``Trained``; an update is a rollout
and what is learned from it. The worlds are ours in every case, compiled and vectorised, so that none waits
for its environment. Equal are: copies, unroll, epochs, minibatches, width, Adam's falling step size,
discount, lambda, clipping, entropy and value costs, gradient clipping, the scale of rewards, and what is
observed (the last action, too). Not equal, because the libraries are built so: SB3 and memorax have a memory
for the actor and one for the critic, and memorax clips their gradients apart and learns them one after the
other; in ours they share one, unless the contender is called separate.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..agents import PPOConfig, ppo
from ..core.types import Inputs
from ..memories import MEMORIES
from ..memories.stack import Features
from ..worlds import resolve
from ..worlds.base import AbstractWorld
from ..worlds.spaces import Discrete


class Sizes(NamedTuple):
    """What a training is made of."""

    actors: int = 64
    unroll: int = 128
    epochs: int = 4
    minibatches: int = 8
    width: int = 128
    reward_scale: float = 1.0
    """rewards are divided by it before anything is learned from them; those noted down are not"""

    def config(self) -> PPOConfig:
        return PPOConfig(
            actors=self.actors,
            unroll=self.unroll,
            epochs=self.epochs,
            minibatches=self.minibatches,
            step_size=STEP_SIZE,
            max_gradient=0.5,
            memory_size=self.width,
            reward_scale=self.reward_scale,
        )


STEP_SIZE = 1e-3
"""It falls linearly to 0 over a training, as in `linmem run`."""


class Trained(NamedTuple):
    """seconds: of each warm update. rewards: mean per step of each update. compile_seconds: before the first
    warm update."""

    seconds: list[float]
    rewards: list[float]
    compile_seconds: float


Contender = Callable[[str, int, int, Sizes], Trained]


def ours(memory: str, separate: bool = False) -> Contender:
    """This library with one of its memories, or one each for actor and critic.

    Raises UnknownName for a memory that is not."""
    make = MEMORIES[memory].make

    def train(world: str, updates: int, seed: int, sizes: Sizes) -> Trained:
        config, made = replace(sizes.config(), separate_critic=separate), resolve(world).make()
        began = time.perf_counter()
        keys = jax.random.split(jax.random.key(seed), 1)
        state = ppo.seeds_init(config, made, make, updates, keys)
        update = ppo.compile_train(config, made, updates, 1, state)
        compile_seconds = time.perf_counter() - began
        seconds, rewards = [], []
        for _ in range(updates):
            began = time.perf_counter()
            state, metrics = jax.block_until_ready(update(state))
            seconds.append(time.perf_counter() - began)
            rewards.append(float(metrics.reward[0, 0]))
        return Trained(seconds, rewards, compile_seconds)

    return train


class _SelfResetting:
    """A world that begins anew by itself and gives features, as the other libraries expect."""

    def __init__(self, world: AbstractWorld, reward_scale: float = 1.0):
        space = world.action_space
        if not isinstance(space, Discrete):
            raise ValueError("the peers are trained on worlds with discrete actions")
        self.world, self.actions, self.reward_scale = world, space.n, reward_scale
        self._features = Features(world.observation_space, space)
        self.size = self._features.size

    def reset(self, key):
        """(observation, state): the features of the first observation."""
        state, observation = self.world.init(key)
        inputs = Inputs(observation, jnp.zeros((), jnp.int32), jnp.zeros(()))
        return self._features(inputs, jnp.asarray(True)), state

    def step(self, key, state, action):
        """(observation, state, reward, done)."""
        step_key, reset_key = jax.random.split(key)
        state, outcome = self.world.step(step_key, state, action)
        done = outcome.terminated | outcome.truncated
        inputs = Inputs(outcome.observation, action.astype(jnp.int32), outcome.reward)
        going = self._features(inputs, jnp.asarray(False)), state
        fresh = self.reset(reset_key)
        observation, state = jax.tree.map(lambda new, old: jnp.where(done, new, old), fresh, going)
        return observation, state, outcome.reward / self.reward_scale, done


def memorax(kind: str) -> Contender:
    """memorax's PPO with its GRU or S5."""

    def train(world: str, updates: int, seed: int, sizes: Sizes) -> Trained:
        import optax
        from flax import linen as nn  # pyright: ignore[reportMissingImports]
        from gymnax.environments import spaces
        from memorax.algorithms import PPO  # pyright: ignore[reportMissingImports]
        from memorax.algorithms import PPOConfig as Config  # pyright: ignore[reportMissingImports]
        from memorax.networks import (  # pyright: ignore[reportMissingImports]
            MLP,
            FeatureExtractor,
            Network,
            heads,
        )
        from memorax.networks.sequence_models import (  # pyright: ignore[reportMissingImports]
            RNN,
            Memoroid,
            S5Cell,
        )

        copy = _SelfResetting(resolve(world).make(), sizes.reward_scale)

        class Environment:
            """As gymnax has it."""

            def reset(self, key, params):
                return copy.reset(key)

            def step(self, key, state, action, params):
                return (*copy.step(key, state, action), {})

            def action_space(self, params):
                return spaces.Discrete(copy.actions)

        equal = sizes.config()
        config = Config(
            name="PPO",
            num_envs=sizes.actors,
            num_eval_envs=1,
            num_steps=sizes.unroll,
            gamma=equal.discount,
            gae_lambda=equal.trace,
            num_minibatches=sizes.minibatches,
            update_epochs=sizes.epochs,
            normalize_advantage=True,
            clip_coef=equal.clip,
            clip_vloss=False,
            ent_coef=equal.entropy_cost,
            vf_coef=equal.value_cost,
        )
        torso = {
            "gru": lambda: RNN(cell=nn.GRUCell(features=sizes.width)),
            "s5": lambda: Memoroid(cell=S5Cell(features=sizes.width, state_size=sizes.width)),
        }[kind]()
        extractor = FeatureExtractor(observation_extractor=MLP(features=(sizes.width,)))
        step_size = optax.linear_schedule(STEP_SIZE, 0.0, updates * sizes.epochs * sizes.minibatches)
        optimiser = optax.chain(
            optax.clip_by_global_norm(equal.max_gradient), optax.adam(step_size, eps=1e-5)
        )
        actor = Network(extractor, torso, heads.Categorical(copy.actions))
        critic = Network(extractor, torso, heads.VNetwork())
        agent = PPO(config, Environment(), None, actor, critic, optimiser, optimiser)
        began = time.perf_counter()
        key, state = agent.init(jax.random.key(seed))
        seconds, rewards = [], []
        for _ in range(updates):
            before = time.perf_counter()
            key, state, steps = jax.block_until_ready(agent.train(key, state, sizes.actors * sizes.unroll))
            seconds.append(time.perf_counter() - before)
            rewards.append(float(np.mean(steps.reward)) * sizes.reward_scale)
        # its first two calls compile, each for a state of another form
        return Trained(seconds[2:], rewards, time.perf_counter() - began - sum(seconds[2:]))

    return train


def sb3(world: str, updates: int, seed: int, sizes: Sizes) -> Trained:
    """RecurrentPPO of Stable-Baselines3-contrib, with its LSTM."""
    from gymnasium import spaces
    from sb3_contrib import RecurrentPPO  # pyright: ignore[reportMissingImports]
    from stable_baselines3.common.callbacks import BaseCallback  # pyright: ignore[reportMissingImports]
    from stable_baselines3.common.vec_env import VecEnv  # pyright: ignore[reportMissingImports]

    copy = _SelfResetting(resolve(world).make(), sizes.reward_scale)
    count, equal = sizes.actors, sizes.config()
    reset = jax.jit(lambda key: jax.vmap(copy.reset)(jax.random.split(key, count)))
    step = jax.jit(
        lambda key, state, actions: jax.vmap(copy.step)(jax.random.split(key, count), state, actions)
    )

    class Copies(VecEnv):
        """All copies stepped by one compiled call."""

        def __init__(self):
            box = spaces.Box(-np.inf, np.inf, (copy.size,), np.float32)
            self.key = jax.random.key(seed)
            super().__init__(count, box, spaces.Discrete(copy.actions))

        def reset(self):
            self.key, key = jax.random.split(self.key)
            observation, self.state = reset(key)
            return np.asarray(observation)

        def step_async(self, actions):
            self.chosen = actions

        def step_wait(self):
            self.key, key = jax.random.split(self.key)
            observation, self.state, reward, done = step(key, self.state, jnp.asarray(self.chosen))
            observation, reward, done = (np.asarray(x) for x in (observation, reward, done))
            # the final observation is only asked for where an episode was cut off; here it is the next one
            infos: list[dict[str, Any]] = [
                {"terminal_observation": o} if d else {} for o, d in zip(observation, done, strict=True)
            ]
            return observation, reward, done, infos

        def close(self):
            pass

        def get_attr(self, attr_name, indices=None):
            return [None] * count

        def set_attr(self, attr_name, value, indices=None):
            pass

        def env_method(self, method_name, *method_args, indices=None, **method_kwargs):
            return [None] * count

        def env_is_wrapped(self, wrapper_class, indices=None):
            return [False] * count

    marks, rewards = [], []

    class Watch(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_start(self):
            marks.append(time.perf_counter())

        def _on_rollout_end(self):
            mean = self.model.rollout_buffer.rewards.mean()  # pyright: ignore[reportAttributeAccessIssue]
            rewards.append(float(mean) * sizes.reward_scale)

    began = time.perf_counter()
    model = RecurrentPPO(
        "MlpLstmPolicy",
        Copies(),
        learning_rate=lambda left: STEP_SIZE * left,
        n_steps=sizes.unroll,
        batch_size=count * sizes.unroll // sizes.minibatches,
        n_epochs=sizes.epochs,
        gamma=equal.discount,
        gae_lambda=equal.trace,
        clip_range=equal.clip,
        ent_coef=equal.entropy_cost,
        vf_coef=equal.value_cost,
        max_grad_norm=equal.max_gradient,
        policy_kwargs={"lstm_hidden_size": sizes.width, "net_arch": [sizes.width]},
        seed=seed,
        device="cpu",
    )
    model.learn(updates * count * sizes.unroll, callback=Watch())
    marks.append(time.perf_counter())
    return Trained(np.diff(marks).tolist(), rewards, marks[0] - began)


CONTENDERS: dict[str, Contender] = {
    "linmem gru": ours("gru"),
    "linmem s5": ours("s5"),
    "linmem ffm_geometric": ours("ffm_geometric"),
    "linmem gru separate": ours("gru", separate=True),
    "linmem s5 separate": ours("s5", separate=True),
    "linmem trace": ours("trace"),
    "linmem window_trace": ours("window_trace"),
    "linmem deep_alf_random": ours("deep_alf_random"),
    # 64 complex numbers of state, as the others' 128
    "linmem deep_alf_random@states=64": ours("deep_alf_random@states=64"),
    "memorax gru": memorax("gru"),
    "memorax s5": memorax("s5"),
    "sb3 lstm": sb3,
}
"""Who is trained if nobody is named."""


def contender(name: str) -> Contender:
    """One of ``CONTENDERS``, or `linmem MEMORY` or `linmem MEMORY separate` with any of our memories.

    Raises ValueError for another name, UnknownName for a memory that is not."""
    if name in CONTENDERS:
        return CONTENDERS[name]
    library, _, memory = name.partition(" ")
    if library != "linmem":
        raise ValueError(
            f"unknown contender '{name}'; known: {', '.join(CONTENDERS)}, and 'linmem MEMORY' with any memory"
        )
    plain = memory.removesuffix(" separate")
    return ours(plain, separate=plain != memory)


def train(name: str, world: str, updates: int, seed: int, sizes: Sizes) -> dict[str, Any]:
    """One training as a row of plain values; in a process of its own, so that none profits from another's
    caches or is slowed by its threads."""
    return contender(name)(world, updates, seed, sizes)._asdict()

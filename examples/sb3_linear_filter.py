"""Stable-Baselines3's PPO with a plain multilayer perceptron on RingWorld, with and without a linear filter.

    pip install "linmem[gym]" stable-baselines3
    python examples/sb3_linear_filter.py

The two differ in one line: the wrapper.
"""

import argparse
import time

import gymnasium
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

import linmem.worlds.as_gymnasium  # noqa: F401  registers linmem/RingWorld-v0
from linmem import RingWorld
from linmem.memories.gymnasium_wrapper import LinearFilterWrapper
from linmem.memories.numpy_filter import NumpyFilter

MODEL = RingWorld().tables()


def plain() -> gymnasium.Env:
    return gymnasium.make("linmem/RingWorld-v0")


def with_filter() -> gymnasium.Env:
    return LinearFilterWrapper(plain(), NumpyFilter.alf(MODEL, delta=0.05))


def reward_per_step(agent: PPO, make, episodes: int) -> tuple[float, float]:
    """Mean over fresh episodes, and its standard error."""
    means, env = [], make()
    for episode in range(episodes):
        observation, _ = env.reset(seed=10_000 + episode)
        rewards, over = [], False
        while not over:
            action, _ = agent.predict(observation)
            observation, reward, terminated, truncated, _ = env.step(action)
            rewards.append(reward)
            over = terminated or truncated
        means.append(np.mean(rewards))
    return float(np.mean(means)), float(np.std(means) / np.sqrt(len(means)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=50)
    options = parser.parse_args()
    torch.set_num_threads(1)  # the networks are small: more threads only wait for each other
    for name, make in (("without filter", plain), ("with linear filter", with_filter)):
        began = time.perf_counter()
        envs = make_vec_env(make, n_envs=8, seed=options.seed)
        agent = PPO(
            "MlpPolicy", envs, n_steps=128, batch_size=256, gamma=0.95, gae_lambda=0.8, ent_coef=0.01,
            learning_rate=1e-3, seed=options.seed, device="cpu",
        )  # fmt: skip
        agent.learn(options.steps)
        mean, error = reward_per_step(agent, make, options.episodes)
        print(
            f"{name:20} reward per step {mean:+.3f} ± {error:.3f}   ({time.perf_counter() - began:.0f} s)",
            flush=True,
        )


if __name__ == "__main__":
    main()

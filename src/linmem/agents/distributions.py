"""How a policy's outputs become an action: categorical for discrete actions, Gaussian for boxes.

A distribution is described by a vector of ``size`` numbers, its parameters. ``sample`` draws a *choice* from
it; ``log_prob`` is the choice's; ``execute`` is the action that the choice stands for, a member of the
action space.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..worlds.spaces import Box, Discrete, Space


class AbstractDistribution(eqx.Module):
    """The contract."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """How many parameters there are."""

    @abc.abstractmethod
    def sample(self, key: PRNGKeyArray, parameters: Float[Array, " size"]) -> Array:
        """A random choice."""

    @abc.abstractmethod
    def mode(self, parameters: Float[Array, " size"]) -> Array:
        """The most probable choice."""

    @abc.abstractmethod
    def execute(self, choice: Array) -> Array:
        """The action of the action space that a choice stands for."""

    @abc.abstractmethod
    def log_prob(
        self, parameters: Float[Array, "*batch size"], choice: Array | np.ndarray
    ) -> Float[Array, "*batch"]:
        """The logarithm of the choice's probability, or of its density."""

    @abc.abstractmethod
    def entropy(self, parameters: Float[Array, "*batch size"]) -> Float[Array, "*batch"]:
        """In nats."""


class Categorical(AbstractDistribution):
    """The parameters are logits; the choice is the action."""

    space: Discrete

    @property
    def size(self) -> int:
        return self.space.n

    def sample(self, key: PRNGKeyArray, parameters: Float[Array, " size"]) -> Int[Array, ""]:
        return jax.random.categorical(key, parameters).astype(self.space.dtype)

    def mode(self, parameters: Float[Array, " size"]) -> Int[Array, ""]:
        return jnp.argmax(parameters).astype(self.space.dtype)

    def execute(self, choice: Int[Array, "*batch"]) -> Int[Array, "*batch"]:
        return choice

    def log_prob(
        self, parameters: Float[Array, "*batch size"], choice: Int[Array | np.ndarray, "*batch"]
    ) -> Float[Array, "*batch"]:
        return jnp.take_along_axis(jax.nn.log_softmax(parameters), choice[..., None], axis=-1)[..., 0]

    def entropy(self, parameters: Float[Array, "*batch size"]) -> Float[Array, "*batch"]:
        log_probs = jax.nn.log_softmax(parameters)
        return -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)


class ClippedGaussian(AbstractDistribution):
    """The choice u (d,) is Gaussian with independent entries, whatever the box's shape; the action is u
    clipped to [-1, 1] and stretched to the box, or u itself if a bound of the box is infinite.

    The parameters (2 d,) are the means, then the logarithms of the standard deviations. Probabilities and
    entropy are those of u, before the clipping; the clipping belongs to the world. (A tanh in place of the
    clipping would have no closed entropy, and a density that is lost to rounding near the bounds.)
    """

    space: Box

    @property
    def size(self) -> int:
        return 2 * int(np.prod(self.space.shape))

    def sample(self, key: PRNGKeyArray, parameters: Float[Array, " size"]) -> Float[Array, " d"]:
        mean, log_std = jnp.split(parameters, 2)
        return mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)

    def mode(self, parameters: Float[Array, " size"]) -> Float[Array, " d"]:
        return jnp.split(parameters, 2)[0]

    def execute(self, choice: Float[Array | np.ndarray, "*batch d"]) -> Float[Array, "..."]:
        low, high = self.space.low, self.space.high
        if np.isfinite([low, high]).all():
            stretched = (low + high) / 2 + (high - low) / 2 * jnp.clip(choice, -1.0, 1.0)
        else:
            stretched = choice
        # Rounding must not leave the box.
        return jnp.clip(stretched, low, high).reshape(*choice.shape[:-1], *self.space.shape)

    def log_prob(
        self, parameters: Float[Array, "*batch size"], choice: Float[Array | np.ndarray, "*batch d"]
    ) -> Float[Array, "*batch"]:
        mean, log_std = jnp.split(parameters, 2, axis=-1)
        scaled = (choice - mean) * jnp.exp(-log_std)
        return -jnp.sum(scaled**2 / 2 + log_std + np.log(2 * np.pi) / 2, axis=-1)

    def entropy(self, parameters: Float[Array, "*batch size"]) -> Float[Array, "*batch"]:
        log_std = jnp.split(parameters, 2, axis=-1)[1]
        return jnp.sum(log_std + (1 + np.log(2 * np.pi)) / 2, axis=-1)


def distribution_of(space: Space) -> Categorical | ClippedGaussian:
    """The distribution over a world's actions. Raises ValueError for a space that has none."""
    match space:
        case Discrete():
            return Categorical(space)
        case Box():
            return ClippedGaussian(space)
    raise ValueError(f"policies act on Discrete or Box actions; this world's are {space}")

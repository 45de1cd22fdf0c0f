"""What observations and actions may be: one of n things, or an array of bounded floats."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray


class Discrete(eqx.Module):
    """The int32 scalars 0, ..., n - 1."""

    n: int = eqx.field(static=True)

    def __check_init__(self):
        if self.n < 1:
            raise ValueError(f"Discrete(n={self.n}) is empty; n must be at least 1")

    @property
    def shape(self) -> tuple[int, ...]:
        return ()

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.int32)

    def contains(self, x) -> Bool[Array, ""]:
        """Whether ``x`` has this space's shape, dtype and range."""
        if not _same_form(x, self):
            return jnp.asarray(False)
        return (x >= 0) & (x < self.n)

    def sample(self, key: PRNGKeyArray) -> Int[Array, ""]:
        """A uniformly random member."""
        return jax.random.randint(key, (), 0, self.n, dtype=self.dtype)


class Box(eqx.Module):
    """The float32 arrays of ``shape`` with every entry in [``low``, ``high``]; the bounds may be infinite."""

    shape: tuple[int, ...] = eqx.field(static=True)
    low: float = eqx.field(static=True)
    high: float = eqx.field(static=True)

    def __check_init__(self):
        if not self.low <= self.high:
            raise ValueError(f"Box has low={self.low} and high={self.high}; low must not exceed high")

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32)

    def contains(self, x) -> Bool[Array, ""]:
        """Whether ``x`` has this space's shape, dtype and range; NaN is never inside."""
        if not _same_form(x, self):
            return jnp.asarray(False)
        return jnp.all((x >= self.low) & (x <= self.high))

    def sample(self, key: PRNGKeyArray) -> Float[Array, "..."]:
        """A random member: uniform between finite bounds, else a standard normal clipped to the bounds."""
        if np.isfinite([self.low, self.high]).all():
            return jax.random.uniform(key, self.shape, self.dtype, self.low, self.high)
        return jnp.clip(jax.random.normal(key, self.shape, self.dtype), self.low, self.high)


def _same_form(x, space: Discrete | Box) -> bool:
    x = jnp.asarray(x)
    return x.shape == space.shape and x.dtype == space.dtype

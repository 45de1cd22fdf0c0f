"""Products of decays, kept as logarithms and signs so that nothing overflows and no digit is lost."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class Decay(NamedTuple):
    """Decays in [-1, 1]: ``log`` is log|a| <= 0; ``sign`` is 1.0 or -1.0, None if all are positive."""

    log: Float[Array, "*shape"]
    sign: Float[Array, "*shape"] | None = None

    def value(self) -> Float[Array, "*shape"]:
        """a itself."""
        magnitude = jnp.exp(self.log)
        return magnitude if self.sign is None else self.sign * magnitude

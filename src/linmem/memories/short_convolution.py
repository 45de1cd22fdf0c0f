"""A short causal convolution along time, one filter per channel, whose window is part of the memory's state.

    y_t = sum_{j < w} W_j * x_{t-j},        x before the last start counts as 0

| symbol | here   | shape     | meaning                                          |
|--------|--------|-----------|--------------------------------------------------|
| W      | weight | (w, c)    | filters; row j meets the input of j steps ago    |
|        | window | (w-1, c)  | state: the last w - 1 inputs, the oldest first   |

Before queries, keys and values in Mamba (arXiv:2312.00752), Mamba-2, the delta rule layers and others.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ..core.types import Start

Window = Float[Array, "past channels"]


class ShortConvolution(eqx.Module):
    """``width`` taps for each of ``channels`` channels; a memory holds the window in its own state."""

    weight: Float[Array, "width channels"]

    def __init__(self, channels: int, width: int = 4, *, key: PRNGKeyArray):
        if width < 1:
            raise ValueError(f"width is {width}; a convolution has at least 1 tap")
        bound = width**-0.5  # as PyTorch begins a convolution of one channel per group
        self.weight = jax.random.uniform(key, (width, channels), minval=-bound, maxval=bound)

    def init(self) -> Window:
        width, channels = self.weight.shape
        return jnp.zeros((width - 1, channels))

    def step(
        self, window: Window, x: Float[Array, " channels"], start: Start
    ) -> tuple[Window, Float[Array, " channels"]]:
        inputs = jnp.concatenate([jnp.where(start, 0.0, window), x[None]])
        return inputs[1:], jnp.sum(inputs * jnp.flip(self.weight, 0), axis=0)

    def unroll(
        self, window: Window, xs: Float[Array, "T channels"], starts: Bool[Array, " T"]
    ) -> tuple[Window, Float[Array, "T channels"]]:
        steps, past = len(xs), len(window)
        inputs = jnp.concatenate([window, xs])
        episode = jnp.concatenate([jnp.zeros(past, int), jnp.cumsum(starts)])
        y = self.weight[0] * xs
        for j in range(1, past + 1):
            before = slice(past - j, past - j + steps)
            same = episode[before] == episode[past:]
            y += jnp.where(same[:, None], self.weight[j] * inputs[before], 0.0)
        kept = episode[steps:] == episode[-1]
        return jnp.where(kept[:, None], inputs[steps:], 0.0), y

    def reference(self, xs: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """The sum above as a literal float64 loop from an empty window."""
        weight, out = np.asarray(self.weight, np.float64), []
        for t in range(len(xs)):
            y = np.zeros(weight.shape[1])
            for j in range(len(weight)):
                if t - j < 0 or starts[t - j + 1 : t + 1].any():
                    break
                y += weight[j] * xs[t - j]
            out.append(y)
        return np.stack(out)

"""A short causal convolution along time, one filter per channel, whose window is part of the memory's state.

    z_t = sum_{j < w} W_j * x_{t-j},        x before the last start counts as 0
    y_t = silu(z_t)                         or z_t, where a layer wants that

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
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ..core.native import library
from ..core.native.convolution import convolution
from ..core.types import Start
from .gates import np_silu

Window = Float[Array, "past channels"]


class ShortConvolution(eqx.Module):
    """``width`` taps for each of ``channels`` channels; a memory holds the window in its own state."""

    weight: Float[Array, "width channels"]
    silu: bool = eqx.field(static=True)

    def __init__(self, channels: int, width: int = 4, silu: bool = True, *, key: PRNGKeyArray):
        if width < 1:
            raise ValueError(f"width is {width}; a convolution has at least 1 tap")
        bound = width**-0.5  # as PyTorch begins a convolution of one channel per group
        self.weight = jax.random.uniform(key, (width, channels), minval=-bound, maxval=bound)
        self.silu = silu

    def init(self) -> Window:
        width, channels = self.weight.shape
        return jnp.zeros((width - 1, channels))

    def step(
        self, window: Window, x: Float[Array, " channels"], start: Start
    ) -> tuple[Window, Float[Array, " channels"]]:
        inputs = jnp.concatenate([jnp.where(start, 0.0, window), x[None]])
        return inputs[1:], self._activate(jnp.sum(inputs * jnp.flip(self.weight, 0), axis=0))

    def unroll(
        self, window: Window, xs: Float[Array, "T channels"], starts: Bool[Array, " T"]
    ) -> tuple[Window, Float[Array, "T channels"]]:
        if not len(xs):
            return window, xs
        steps, past = len(xs), len(window)
        time, early = jnp.arange(steps), min(past, steps)  # only the early ones still meet the window
        begun = jax.lax.cummax(jnp.where(starts, time, -1))  # -1: before these steps
        last = jnp.concatenate([window[early:], xs[steps - early :]])
        kept = jnp.arange(steps - past, steps) >= begun[-1]
        last = jnp.where(kept[:, None] | (begun[-1] < 0), last, 0.0)
        if library.serves(self.weight, window, xs):
            return last, convolution(self.silu, self.weight, window, xs, starts)
        y = _causal(self.weight, xs, time - jnp.maximum(begun, 0))
        met = jnp.concatenate([window, jnp.zeros_like(window)])
        tail = sum(self.weight[j] * met[past - j : past - j + early] for j in range(past + 1))
        return last, self._activate(y.at[:early].add(jnp.where(begun[:early, None] < 0, tail, 0.0)))

    def _activate(self, z):
        return jax.nn.silu(z) if self.silu else z

    def reference(self, xs: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """The sum above as a literal float64 loop from an empty window."""
        weight, out = np.asarray(self.weight, np.float64), []
        for t in range(len(xs)):
            y = np.zeros(weight.shape[1])
            for j in range(len(weight)):
                if t - j < 0 or starts[t - j + 1 : t + 1].any():
                    break
                y += weight[j] * xs[t - j]
            out.append(np_silu(y) if self.silu else y)
        return np.stack(out)


@jax.custom_vjp
def _causal(
    weight: Float[Array, "width channels"], xs: Float[Array, "T channels"], age: Int[Array, " T"]
) -> Float[Array, "T channels"]:
    """y_t = sum_j W_j x_{t-j} over j <= age_t, the steps since the episode, or the sequence, began."""
    y = weight[0] * xs
    for j in range(1, len(weight)):
        y += jnp.where((age >= j)[:, None], weight[j] * _later(xs, j), 0.0)
    return y


def _causal_fwd(weight, xs, age):
    return _causal(weight, xs, age), (weight, xs, age)


def _causal_bwd(kept, g):
    weight, xs, age = kept
    g_xs = weight[0] * g
    for j in range(1, len(weight)):
        g_xs += _later(jnp.where((age >= j)[:, None], weight[j] * g, 0.0), -j)

    def met(t, j):  # what W_j was multiplied with, and what came of it
        return jnp.where(age[t] >= j, g[t] * xs[t - j], 0.0)

    # One loop over time reads each input once. As four sums over time the same took eight times as long: XLA
    # does not vectorise sums of shifted products.
    def add(t, sums):
        return tuple(total + met(t, j) for j, total in enumerate(sums))

    # eight steps a pass: of few channels, a pass costs more than a step's sums
    zeros = tuple(jnp.zeros_like(w) for w in weight)
    g_weight = jax.lax.fori_loop(0, len(xs), add, zeros, unroll=8)
    return jnp.stack(g_weight).astype(weight.dtype), g_xs.astype(xs.dtype), None


_causal.defvjp(_causal_fwd, _causal_bwd)


def _later(x: Float[Array, "T channels"], steps: int) -> Float[Array, "T channels"]:
    """``x`` moved by so many steps, with zeros where nothing moved to."""
    return jax.lax.pad(x, jnp.zeros((), x.dtype), [(steps, -steps, 0), (0, 0, 0)])

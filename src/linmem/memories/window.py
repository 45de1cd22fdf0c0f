"""A window: the last w inputs side by side, as frame stacking gives them to a policy.

    h_t = N h_{t-1} + e_0 x_t            N moves every row down by one, and the oldest out
    y_t = (x_t, x_{t-1}, .., x_{t-w+1})  inputs before a start count as zero

| paper | here   | shape       | meaning                                     |
|-------|--------|-------------|---------------------------------------------|
| m     | length | ()          | w, the number of inputs kept                |
| h     | state  | (w - 1, in) | all of them but the present, oldest first   |

The linear recurrent memory with a nilpotent transition: all of the last w steps, nothing of those before.

Source: V. Mnih et al., "Human-level control through deep reinforcement learning", 2015,
doi:10.1038/nature14236 (four frames). O. Eberhard, M. Muehlebach, C. Vernade, 2025, arXiv:2503.15200,
compare windows with memory traces; m is their symbol.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .base import AbstractMemory


class Window(AbstractMemory):
    """Features (length * in_size,): the last ``length`` inputs (in_size,), the newest first."""

    in_size: int = eqx.field(static=True)
    length: int = eqx.field(static=True)

    def __check_init__(self):
        if self.length < 1:
            raise ValueError(f"the window's length is {self.length}; it holds at least the present input")

    @property
    def out_size(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.length * self.in_size

    def init(self):
        return jnp.zeros((self.length - 1, self.in_size))

    def step(self, state, x, start):
        state, features = self.unroll(state, x[None], start[None])
        return state, features[0]

    def unroll(self, state, xs, starts):
        past = self.length - 1
        rows = jnp.concatenate([state, xs])
        # Two inputs share an episode if as many starts came before both.
        episode = jnp.concatenate([jnp.zeros(past, int), jnp.cumsum(starts)])

        def of_episode(place, present):
            return jnp.where((episode[place] == present)[:, None], rows[place], 0.0)

        seen = [of_episode(slice(past - back, len(rows) - back), episode[past:]) for back in range(past + 1)]
        return of_episode(slice(len(rows) - past, None), episode[-1]), jnp.concatenate(seen, axis=1)

    @classmethod
    def example(cls, key, steps):
        return cls(3, 4), jax.random.normal(key, (steps, 3))  # pyright: ignore[reportCallIssue]

    def reference(self, xs, starts):
        N = np.eye(self.length, k=-1)
        h, out = np.zeros((self.length, self.in_size)), []
        for x, start in zip(np.asarray(xs, np.float64), starts, strict=True):
            h = np.zeros_like(h) if start else h
            h = N @ h
            h[0] += x
            out.append(h.ravel())
        return np.stack(out)

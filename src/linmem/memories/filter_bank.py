"""A bank of adaptive linear filters: one recurrence that forgets at several rates side by side.

    w_t^r = (1 - delta_r) P(a_{t-1}) w_{t-1}^r + delta_r log E[:, o_t]           for each rate delta_r

The right rate depends on eps, how far the moves are from deterministic. Where eps is unknown, a policy (or
any read-out) that is linear in all w^r can learn its own mixture. A filter of one rate is one of its choices;
a sum of several decays weighs old evidence in ways that one decay cannot.

| symbol   | here          | shape        | meaning                                              |
|----------|---------------|--------------|------------------------------------------------------|
| delta_r  | rates         | (r,)         | forgetting rates in (0, 1]                           |
| w^r      | h             | (r * n,)     | logits, rate after rate                              |
| P(a)     | source        | (m, r * n)   | the permutation of one filter, r times side by side  |
| log E    | log_emission  | (k, m, r * n)| the same, r times                                    |

Source: this library's; each rate is the filter of Zhao et al. 2026, arXiv:2605.31261, eq. 28 and 65
(``linear_filter.py``).
Departures: all logits start at 0. The first observation of an episode is emitted before any transition.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..worlds.tables import HMM, POMDP
from .belief import example_inputs, identity
from .linear_filter import AbstractPermutedFilter, AdaptiveLinearFilter, example_nearly_permuted

RATES = tuple(2.0 ** (0.75 * k - 6) for k in range(9))
"""From 1/64, which remembers some 64 steps, to 1, which keeps the present observation only."""


class FilterBank(AbstractPermutedFilter):
    """Features (r * n,): the logits of the adaptive linear filters at ``rates``, rate after rate.

    Raises ValueError for a rate outside (0, 1], and for the models that AdaptiveLinearFilter refuses.
    """

    rates: Float[Array, " r"]

    def __init__(self, model: HMM | POMDP, rates: Sequence[float] = RATES):
        if len(rates) == 0:
            raise ValueError("rates is empty; a bank needs at least one forgetting rate")
        for place, rate in enumerate(rates):
            if not 0 < rate <= 1:
                raise ValueError(f"rates[{place}] is {rate:g}; a bank's forgetting rates lie in (0, 1]")
        n, filters = model.n_states, [AdaptiveLinearFilter(model, rate) for rate in rates]
        self.source = jnp.concatenate([f.source + r * n for r, f in enumerate(filters)], axis=-1)
        self.log_emission = jnp.concatenate([f.log_emission for f in filters], axis=-1)
        self.log_first = jnp.concatenate([f.log_first for f in filters], axis=-1)
        self.rates = jnp.asarray(rates)
        self.keep, self.gain = jnp.repeat(1 - self.rates, n), jnp.repeat(self.rates, n)
        self.out_size, self.readout = len(rates) * n, identity

    @classmethod
    def example(cls, key, steps):
        return cls(example_nearly_permuted(key), (0.1, 0.3, 0.5, 1.0)), example_inputs(key, steps, 5, 2)

    def reference(self, xs, starts):
        log_E, log_first = np.asarray(self.log_emission, np.float64), np.asarray(self.log_first, np.float64)
        n, out = self.out_size // len(self.rates), []
        for r, delta in enumerate(np.asarray(self.rates, np.float64)):
            own, w, ws = slice(r * n, (r + 1) * n), np.zeros(n), []
            for o, a, start in zip(np.asarray(xs.observation), np.asarray(xs.action), starts, strict=True):
                P = np.eye(n)[np.asarray(self.source)[a, :n]]
                w = log_first[o, own] if start else (1 - delta) * P @ w + delta * log_E[o, a, :n]
                ws.append(w)
            out.append(np.stack(ws))
        return np.concatenate(out, axis=1)

"""The self-tuning filter: linear filters of several rates, weighed by how well they predict observations.

An adaptive linear filter is Bayes' filter with exponential forgetting: with p_t = softmax(w_t / delta),

    q_t = sum_s f_t[s] E[s, o_t],    f_t ∝ (P(a_{t-1}) p_{t-1})^(1-delta),    p_t[s] = f_t[s] E[s, o_t] / q_t

so each rate delta_r gives, before it sees o_t, a probability q_t^r for it. Its innovation, -log q_t^r, is
small if it forgets at the right rate: a filter that forgets too little is sure of the wrong state after a
slip, one that forgets too much is never sure. The rates are weighed by what they gave to all observations so
far, which is Bayes' rule with a uniform prior over the rates,

    v_t[r] = v_{t-1}[r] + log q_t^r,    b_t = sum_r softmax(v_t)[r] p_t^r,
                                        delta_hat = sum_r softmax(v_t)[r] delta_r

and b_t is the memory's belief. Neither eps nor the exponent of the theorem enters. Since the weighted
prediction's product telescopes to (1/R) sum_r prod_t q_t^r, its total innovation exceeds that of the best of
the R rates in hindsight by at most log R.

From w_t alone: as p_t already includes o_t, log q_t = -log sum_s p_t[s] / E[s, o_t].

| symbol    | here          | shape     | meaning                                                     |
|-----------|---------------|-----------|-------------------------------------------------------------|
| w_t^r     | state[0]      | (r * n,)  | the bank's logits: a linear recurrence                      |
| v_t       | state[1]      | (r,)      | log-weights of the rates, largest 0: a linear recurrence    |
| b_t       | features      | (n,)      | the weighted belief                                         |

Source: this library's, of known parts: the filters of Zhao et al. 2026, arXiv:2605.31261; models that forget,
weighed by their predictions, A. E. Raftery, M. Kárný, P. Ettler, "Online prediction under model uncertainty
via dynamic model averaging", Technometrics 52 (2010); the bound log R is that of any mixture of forecasters
under logarithmic loss, N. Cesa-Bianchi, G. Lugosi, "Prediction, Learning, and Games" (2006), chapter 9.
Departures: the first observation of an episode, before which nothing was forgotten, leaves the weights equal.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..core.algebra import Diagonal, Element, Ordinary
from ..core.scan import scan
from ..worlds.tables import HMM, POMDP
from .base import AbstractMemory
from .belief import example_inputs
from .filter_bank import RATES, FilterBank
from .linear_filter import example_nearly_permuted


class SelfTuningFilter(AbstractMemory):
    """Features (n,): the belief, averaged over ``rates`` by how well each predicted the observations.

    State: (logits of the bank (r * n,), log-weights of the rates (r,)). Raises ValueError as FilterBank does.
    """

    bank: FilterBank

    def __init__(self, model: HMM | POMDP, rates: Sequence[float] = RATES):
        self.bank = FilterBank(model, rates)

    @property
    def out_size(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.bank.out_size // len(self.bank.rates)

    def init(self):
        return self.bank.init(), jnp.zeros(self.bank.rates.shape)

    def step(self, state, x, start):
        one = jax.tree.map(lambda leaf: leaf[None], (x, start))
        state, features = self.unroll(state, *one)
        return state, features[0]

    def unroll(self, state, xs, starts):
        w, v = state
        w, ws = self.bank.unroll(w, xs, starts)
        rates = jax.lax.stop_gradient(self.bank.rates)
        log_p = jax.nn.log_softmax(ws.reshape(len(ws), len(rates), self.out_size) / rates[:, None])
        log_emission = jax.lax.stop_gradient(self.bank.log_emission)[
            xs.observation, xs.action, : self.out_size
        ]
        log_q = -jax.nn.logsumexp(log_p - log_emission[:, None], axis=-1)
        log_q = jnp.where(starts[:, None], 0.0, log_q)
        v, vs = scan(Diagonal(Ordinary(shifted=True)), Element(jnp.ones((1, len(rates))), log_q), v, starts)
        return (w, v), jnp.einsum("tr,trn->tn", jax.nn.softmax(vs), jnp.exp(log_p))

    def delta(self, state: tuple[Array, Array]) -> Float[Array, ""]:
        """The forgetting rate that the observations ask for: delta_hat."""
        return jax.nn.softmax(state[1]) @ self.bank.rates

    def believes(self, features):
        return features

    @classmethod
    def example(cls, key, steps):
        return cls(example_nearly_permuted(key), (0.1, 0.3, 0.5, 1.0)), example_inputs(key, steps, 5, 2)

    def reference(self, xs, starts):
        f = lambda a: np.asarray(a, np.float64)  # noqa: E731
        n, rates = self.out_size, f(self.bank.rates)
        source, E = np.asarray(self.bank.source)[:, :n], np.exp(f(self.bank.log_emission)[:, :, :n])
        first = np.exp(f(self.bank.log_first)[:, :n] / rates[0])
        p, v, out = np.ones((len(rates), n)) / n, np.zeros(len(rates)), []
        for o, a, start in zip(np.asarray(xs.observation), np.asarray(xs.action), starts, strict=True):
            if start:
                p = np.tile(first[o] / first[o].sum(), (len(rates), 1))
                v = np.zeros(len(rates))
            else:
                forecast = p[:, source[a]] ** (1 - rates[:, None])
                forecast /= forecast.sum(axis=1, keepdims=True)
                q = forecast @ E[o, a]
                p = forecast * E[o, a] / q[:, None]
                v = v + np.log(q)
            weight = np.exp(v - v.max())
            out.append(weight / weight.sum() @ p)
        return np.stack(out)

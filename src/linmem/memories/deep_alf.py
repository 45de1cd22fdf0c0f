"""Deep ALF: the adaptive linear filter with its transition, emission and rate made learnable.

    w_t = (1 - delta) V Lambda(a_{t-1}) V^-1 w_{t-1} + delta log E[:, o_t]

It runs on z_t = V^-1 w_t, where it is diagonal:

    z_t = (1 - delta) Lambda(a_{t-1}) z_{t-1} + delta V^-1 log E[:, o_t]

| paper     | here            | shape  | meaning                                                 |
|-----------|-----------------|--------|---------------------------------------------------------|
| Lambda(a) | angle           | (m, n) | eigenvalues exp(i angle) on the unit circle, per action |
| V         | v_real, v_imag  | (n, n) | eigenvectors that all actions share                     |
| E         | emission_logits | (n, k) | log E = log_softmax over observations                   |
| delta     | delta_logit     | ()     | delta = sigmoid(delta_logit)                            |

Source: Y. Zhao, O. Eberhard, M. Khammassi, A. H. Sayed, M. Muehlebach, 2026, arXiv:2605.31261, section 6.2.
Departures: the paper leaves the laws of the random initialisations open. Here: angles uniform on the circle,
V Haar unitary, emission logits standard normal, delta uniform in (0, 1). The features are Re w_t, V being
free to leave the set in which w_t is real. The first observation of an episode is emitted before any
transition.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Complex, Float, PRNGKeyArray

from ..core.algebra import AbstractAlgebra, Diagonal, Element
from ..core.matrices import inverse, unitary
from ..core.projection import project
from ..worlds.tables import POMDP
from .base import AbstractLinearMemory
from .belief import example_inputs
from .linear_filter import backbone_source

PARTS = frozenset({"Lambda", "V", "E", "delta"})


class DeepALF(AbstractLinearMemory):
    """Features (n,): the logits Re w_t. Reads ``Inputs`` with discrete observation and action."""

    algebra: ClassVar[AbstractAlgebra] = Diagonal()

    angle: Float[Array, "m n"]
    v_real: Float[Array, "n n"]
    v_imag: Float[Array, "n n"]
    emission_logits: Float[Array, "n k"]
    delta_logit: Float[Array, ""]

    @property
    def out_size(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.angle.shape[1]

    def init(self):
        return jnp.zeros(self.out_size, jnp.result_type(self.angle, jnp.complex64))

    def encode(self, x, start):
        delta = jax.nn.sigmoid(self.delta_logit)
        entering = inverse(jax.lax.complex(self.v_real, self.v_imag)) @ self._log_emission()
        return Element((1 - delta) * jnp.exp(1j * self.angle)[x.action], delta * entering[:, x.observation])

    def decode(self, h, x):
        return project(h.real, self.v_real.T) - project(h.imag, self.v_imag.T)

    def decode_all(self, states, xs):
        return self.decode(states, xs)

    def _log_emission(self):
        return jax.nn.log_softmax(self.emission_logits, axis=1).astype(self.init().dtype)

    @classmethod
    def example(cls, key, steps):
        return random_deep_alf(5, 2, 4, key=key), example_inputs(key, steps, observations=4, actions=2)

    def reference(self, xs, starts):
        f = lambda a: np.asarray(a, np.float64)  # noqa: E731
        V = f(self.v_real) + 1j * f(self.v_imag)
        log_E = f(self.emission_logits) - np.log(np.exp(f(self.emission_logits)).sum(1, keepdims=True))
        delta = 1 / (1 + np.exp(-f(self.delta_logit)))
        w, out = np.zeros(self.out_size, complex), []
        for o, a, start in zip(np.asarray(xs.observation), np.asarray(xs.action), starts, strict=True):
            w = np.zeros_like(w) if start else w
            P = V @ np.diag(np.exp(1j * f(self.angle)[a])) @ np.linalg.inv(V)
            w = (1 - delta) * P @ w + delta * log_E[:, o]
            out.append(w.real)
        return np.stack(out)


def random_deep_alf(
    states: int,
    actions: int,
    observations: int,
    *,
    key: PRNGKeyArray,
    model: POMDP | None = None,
    known: frozenset[str] = frozenset(),
    delta: float = 0.1,
) -> DeepALF:
    """Deep ALF with the parts named in ``known`` (of Lambda, V, E, delta) taken from ``model`` and ``delta``,
    the others at random.

    Raises ValueError if there is no state, if a part is unknown, or if the model's backbones do not commute:
    then no V serves all actions.
    """
    if states < 1:
        raise ValueError(f"Deep ALF was asked for with {states} states; it has at least 1")
    if wrong := known - PARTS:
        raise ValueError(f"Deep ALF has no part {sorted(wrong)}; known parts: {', '.join(sorted(PARTS))}")
    if not 0 <= delta <= 1:
        raise ValueError(f"delta is {delta}; the forgetting rate lies in [0, 1]")
    angle_key, v_key, e_key, delta_key = jax.random.split(key, 4)
    angle = jax.random.uniform(angle_key, (actions, states), minval=-np.pi, maxval=np.pi)
    v = unitary(v_key, states)
    logits = jax.random.normal(e_key, (states, observations))
    rate = jax.random.uniform(delta_key, minval=1e-3, maxval=1 - 1e-3)
    if known - {"delta"}:
        if model is None:
            raise ValueError(
                f"the parts {sorted(known - {'delta'})} of Deep ALF can only be taken from a model"
            )
        exact_angle, exact_v = shared_spectrum(model)
        angle = jnp.asarray(exact_angle) if "Lambda" in known else angle
        v = jnp.asarray(exact_v) if "V" in known else v
        if "E" in known:
            logits = jnp.asarray(np.log(np.maximum(_emission(model), np.finfo(np.float32).tiny)))
    rate = jnp.asarray(delta) if "delta" in known else rate
    delta_logit = jnp.log(rate) - jnp.log1p(-rate)
    return DeepALF(angle, jnp.real(v), jnp.imag(v), logits, delta_logit)  # pyright: ignore[reportCallIssue]


def _emission(model: POMDP) -> Float[np.ndarray, "n k"]:
    if (model.emission != model.emission[0]).any():
        raise ValueError("emission depends on the action; Deep ALF has one emission table")
    return model.emission[0]


def shared_spectrum(model: POMDP) -> tuple[Float[np.ndarray, "m n"], Complex[np.ndarray, "n n"]]:
    """Angles and shared eigenvectors of the model's backbones; ValueError unless they are permutations that
    commute."""
    matrices = [np.eye(model.n_states)[backbone_source(T)] for T in model.transition]
    weights = np.random.default_rng(0).normal(
        size=len(matrices)
    )  # a generic mixture has the shared eigenvectors
    mixture = sum(w * P for w, P in zip(weights, matrices, strict=True))
    v = scipy.linalg.schur(mixture, output="complex")[1]
    diagonal = [v.conj().T @ P @ v for P in matrices]
    for action, D in enumerate(diagonal):
        if not np.allclose(D, np.diag(np.diag(D)), atol=1e-8):
            raise ValueError(
                f"the permutation of action {action} does not commute with the others, so no V is shared by "
                "all actions; use AdaptiveLinearFilter, or initialise Deep ALF at random"
            )
    return np.stack([np.angle(np.diag(D)) for D in diagonal]), v

"""What depth does to the tokens of a selective state space: in one dimension all vanish or all diverge.

In the limit of many residual layers with shared parameters, the tokens x_1, ..., x_L (here numbers) move by

    dx_l/dt = mu x_l sum_{j <= l} x_j^2 Delta(x_j) exp(-a sum_{j < k <= l} Delta(x_k)),
    Delta(x) = softplus(s x),   mu = S_C S_B,   a > 0

because y_l = C_l h_l with C_l = S_C x_l, B_j = S_B x_j. The criterion: if mu < 0 all tokens go to zero, if
mu > 0 all diverge (some in finite time, others only like log t). Integrated here for random parameters.

Source: T. N. Vo, D.-T. Pham, X. T. Tong, T. M. Nguyen, "Demystifying the Token Dynamics of Deep Selective
State Space Models", 2024, arXiv:2410.03292. The equation is derived here from the layer with scalar tokens;
we know the paper's theorems by their statements only.
"""

from pathlib import Path

import numpy as np
from scipy.integrate import solve_ivp

from ..reports.tables import Table
from .conclude import Evidence, Target, conclude

LOG_TIME = 16.0
"""Integrated in the variable log(1 + t) up to this: t = 9 million, because tokens may move like log t."""
VANISHED, GROWN, BLOWN_UP = 0.05, 2.0, 1e3
"""|x(end)| below; |x(end)| / |x(0)| above; |x| at which a token has diverged and is no longer followed"""


def velocity(x: np.ndarray, mu: float, a: float, s: float) -> np.ndarray:
    """dx/dt of all tokens (L,), by the recurrence h_l = exp(-a Delta_l) h_{l-1} + Delta_l x_l^2."""
    h, out = 0.0, np.empty_like(x)
    for place, token in enumerate(x):
        delta = np.logaddexp(0, s * token)
        h = np.exp(-a * delta) * h + delta * token**2
        out[place] = mu * token * h
    return out


def outcome(x: np.ndarray, mu: float, a: float, s: float) -> str:
    """'vanish', 'diverge', or 'neither' of tokens that begin at ``x`` (none zero)."""
    first, alive, log_time = x, len(x), 0.0

    def rate(log_time, x):
        return np.exp(log_time) * velocity(x, mu, a, s)

    def blown_up(log_time, x):
        return BLOWN_UP - np.abs(x).max()

    blown_up.terminal = True
    while alive and log_time < LOG_TIME:
        run = solve_ivp(rate, (log_time, LOG_TIME), x[:alive], "LSODA", events=blown_up, rtol=1e-6, atol=1e-9)
        log_time, x = run.t[-1], run.y[:, -1]
        if run.status == 1:  # a token does not depend on later ones; later ones diverge with it
            alive = int(np.argmax(np.abs(x) >= 0.99 * BLOWN_UP))
        elif run.status != 0:
            return "neither"
    left = np.abs(x[:alive])
    if alive == len(first) and (left < VANISHED).all():
        return "vanish"
    return "diverge" if (left >= GROWN * np.abs(first[:alive])).all() else "neither"


def main(trials: int = 60, tokens: int = 5, seed: int = 0, json: Path | None = None) -> int:
    """Integrate the token dynamics for random parameters and compare with the criterion sign(S_C S_B).

    Args:
        trials: random draws of parameters and first tokens.
        tokens: how many tokens.
        seed: of all randomness.
        json: also write rows and targets to this file.
    """
    rng, rows = np.random.default_rng(seed), []
    for _ in range(trials):
        s_b, s_c, s = rng.normal(size=3)
        a, x = float(np.exp(rng.normal())), rng.choice([-1, 1], tokens) * rng.uniform(0.3, 1.5, tokens)
        mu = float(np.sign(s_b * s_c) * max(abs(s_b * s_c), 0.05))
        rows.append({"mu": mu, "a": a, "s": float(s), "outcome": outcome(x, mu, a, float(s))})
    counts = [
        [
            sign,
            *(sum(r["outcome"] == o for r in rows if (r["mu"] > 0) == (sign == "mu > 0")) for o in OUTCOMES),
        ]
        for sign in ("mu < 0", "mu > 0")
    ]
    agree = sum(r["outcome"] == ("diverge" if r["mu"] > 0 else "vanish") for r in rows)
    target = Target("the criterion decides", agree == trials, f"{agree} of {trials} draws", "all draws")
    table = Table(["criterion", *OUTCOMES], counts)
    return conclude(Evidence("dynamics-tokens", rows, table, [target]), json)


OUTCOMES = ("vanish", "diverge", "neither")

"""``analyse(model)``: how deterministic a model is, which theorem covers it, and the filter to use.

| transition of every action          | filter          | because                                           |
|-------------------------------------|-----------------|---------------------------------------------------|
| a permutation                       | exact linear    | Corollary 4.3, Theorem 4.4; actions: Cor. 4.5     |
| deterministic, some many-to-one     | initial-state   | logits over the initial state stay linear         |
| nearly deterministic, one action    | adaptive linear | Theorem 5.7, or 5.9 where it promises more        |
| near a permutation, several actions | adaptive linear | Theorem 5.9, the time-varying filter              |
| anything else                       | belief          | no theorem covers a linear filter                 |

The rate. The theorems admit delta = lambda / log(1/eps) with any 0 < lambda < xi. The leading term of the
error bound falls with lambda, so we take lambda = 0.97 xi (the paper's experiment takes 0.7 / 0.7206 = 0.971
of it), but no more than makes delta = 1/2: the theorems are about small delta, and a larger one keeps too
little of the past. The certified rate is a careful one: in every simulation of the tests a larger rate errs
less.

The bound. error <= kappa eps log(1/eps) + o(eps log(1/eps)), kappa = -q_min alpha / lambda. It speaks of eps
-> 0: at the model's own eps its leading term guides but does not bound, and from 1 on it says nothing
(vacuous).

Departures
  The rows of the tables are first divided by their sums, which may be off by rounding.
  "Nearly deterministic" has no threshold in the paper; here eps < 0.5, so that the backbone is unique.
  alpha, "sufficiently large", is taken as its infimum over the pairs of recurrent states. W bounds the
      filter's initial logits, which start at 0, and |log E| over the recurrent states only.
  The pairs are of recurrent states: the decoder of Theorem 5.7 is read as the argmax over these. The
      transient states hold mass of order eps. With one recurrent state there is no pair: xi is inf, alpha
      and kappa are 0.
  Theorem 5.9 also covers one action that is always taken. Where it applies to a model without actions it
      stands beside Theorem 5.7, because its exponent does not shrink with the period; the recommended rate
      comes from the theorem with the smaller kappa.
  Where the emission depends on the action, Assumption 5.8 and the exponent are taken for the worst action.
      The law of the first observation, which is made once, does not enter.
  Emissions that nowhere differ by more than 1e-9 count as identical.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from ..worlds.tables import HMM, POMDP
from .assumptions import (
    Assumption,
    distinct_emissions,
    is_positive,
    positive_emissions,
    separated_trajectories,
    without_backbone,
)
from .backbone import Backbone, backbone_of, mass_off_backbone
from .exponent import exponent

FRACTION_OF_XI = 0.97
LARGEST_DELTA = 0.5

PERMUTATION = "permutation"
MANY_TO_ONE = "many-to-one"
NEARLY_DETERMINISTIC = "nearly deterministic"
NEITHER = "neither"


@dataclass(frozen=True)
class Transition:
    """The transition of one action.

    kind:        'permutation', 'many-to-one', 'nearly deterministic' or 'neither'.
    eps:         the largest probability, over the states, of not moving to the likeliest next state.
    backbone:    None if the kind is 'neither'.
    assumptions: 5.3 and 5.6, for this action taken forever.
    """

    kind: str
    eps: float
    backbone: Backbone | None
    assumptions: tuple[Assumption, Assumption]


@dataclass(frozen=True)
class Certificate:
    """What a theorem promises of the adaptive linear filter.

    theorem:     '5.7' (one transition) or '5.9' (any sequence of actions).
    period:      M of the exponent.
    xi:          the exponent; 0 where the pair cannot be told apart, inf where there is no pair.
    pair:        the states that attain it (and, in 5.9, the action under which they do).
    eps, q_min:  of the transition, the largest and the smallest over the actions.
    logit_bound: W.
    alpha:       infimum of the admissible ones; None where xi = 0.
    rate:        lambda, in (0, xi).
    delta:       rate / log(1 / eps).
    kappa:       -q_min alpha / rate.
    bound:       kappa eps log(1/eps), the leading term of the bound on the decoding error.

    The last four are None where xi = 0 (no rate is admissible) or eps = 0 (no rate is needed).
    """

    theorem: str
    period: int
    xi: float
    pair: Mapping[str, int]
    eps: float
    q_min: float
    logit_bound: float
    alpha: float | None
    rate: float | None = None
    delta: float | None = None
    kappa: float | None = None
    bound: float | None = None

    @property
    def vacuous(self) -> bool:
        """Whether the leading term says nothing about an error, which is at most 1. So it is with one
        recurrent state, where it is 0: what is of order eps, the chance of a transient state, it leaves
        out."""
        return self.bound is None or self.bound >= 1 or not self.pair


@dataclass(frozen=True)
class Recommendation:
    """filter: 'exact linear', 'initial-state', 'adaptive linear' (then delta is its rate) or 'belief'."""

    filter: str
    reason: str
    delta: float | None = None


@dataclass(frozen=True)
class Analysis:
    """What ``analyse`` found. Print it, or take ``lines()`` or ``as_dict()``.

    kind:         of all transitions together: the weakest kind among them.
    transitions:  one per action; one for an HMM.
    assumptions:  those the theorems for this model rest on: 5.3, 5.6, 5.8 for one action, 5.8 for several.
    certificates: of the theorems that apply, 5.7 before 5.9.
    recommended:  the filter to use and why.
    """

    n_states: int
    n_observations: int
    n_actions: int
    kind: str
    transitions: tuple[Transition, ...]
    assumptions: tuple[Assumption, ...]
    certificates: tuple[Certificate, ...]
    recommended: Recommendation

    @property
    def xi(self) -> float | None:
        """The exponent of Theorem 5.7 for one action, of 5.9 for several; None where it does not apply."""
        return self.certificates[0].xi if self.certificates else None

    def lines(self) -> list[str]:
        """The findings as text, one aligned line each."""
        return [f"{label:<16} {text}".rstrip() for label, text in _rows(self)]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def as_dict(self) -> dict[str, Any]:
        """Strict JSON: arrays as lists, an infinite number as the string 'inf', without Q, which is large."""
        return _plain(self)


def analyse(model: HMM | POMDP, nearly: float = 0.5) -> Analysis:
    """Whether linear memory is enough for this model, by which theorem, at which rate.

    nearly: a transition that moves less mass than this off its backbone is nearly deterministic; at most 0.5,
            where the backbone stops being unique.
    """
    if not 0 < nearly <= 0.5:
        raise ValueError(f"nearly is {nearly}; it must lie in (0, 0.5], where the backbone is unique")
    transition, emissions = _normalised_tables(model)
    transitions = tuple(
        _transition(table, emission, nearly) for table, emission in zip(transition, emissions, strict=True)
    )
    distinct = distinct_emissions(emissions)
    assumptions = (*transitions[0].assumptions, distinct) if len(transitions) == 1 else (distinct,)
    certificates = tuple(_certificates(transitions, emissions))
    kind = max((each.kind for each in transitions), key=_WEAKNESS.index)
    return Analysis(
        n_states=emissions.shape[1],
        n_observations=emissions.shape[2],
        n_actions=len(transitions),
        kind=kind,
        transitions=transitions,
        assumptions=assumptions,
        certificates=certificates,
        recommended=_recommend(kind, transitions, assumptions, certificates),
    )


_WEAKNESS = (PERMUTATION, MANY_TO_ONE, NEARLY_DETERMINISTIC, NEITHER)


def _normalised_tables(
    model: HMM | POMDP,
) -> tuple[Float[np.ndarray, "m n n"], Float[np.ndarray, "m n k"]]:
    if not isinstance(model, HMM | POMDP):
        raise TypeError(f"analyse takes an HMM or a POMDP, not {type(model).__name__}")
    tables = model.transition, model.emission
    if isinstance(model, HMM):
        tables = tuple(table[None] for table in tables)
    transition, emission = (table / table.sum(axis=-1, keepdims=True) for table in tables)
    return transition, emission


def _transition(
    transition: Float[np.ndarray, "n n"], emission: Float[np.ndarray, "n k"], nearly: float
) -> Transition:
    off = mass_off_backbone(transition)
    if off.max() >= nearly:
        state = int(off.argmax())
        neither = without_backbone("5.3", state), without_backbone("5.6", state)
        return Transition(NEITHER, float(off.max()), None, neither)
    backbone = backbone_of(transition)
    if backbone.eps > 0:
        kind = NEARLY_DETERMINISTIC
    else:
        kind = PERMUTATION if backbone.is_permutation else MANY_TO_ONE
    assumptions = positive_emissions(backbone, emission), separated_trajectories(backbone, emission)
    return Transition(kind, backbone.eps, backbone, assumptions)


def _certificates(
    transitions: tuple[Transition, ...], emissions: Float[np.ndarray, "m n k"]
) -> Iterator[Certificate]:
    backbones = [each.backbone for each in transitions if each.backbone is not None]
    if len(backbones) < len(transitions):
        return
    eps, q_min = max(each.eps for each in backbones), min(each.q_min for each in backbones)
    one = len(backbones) == 1
    if one and is_positive(emissions[:, list(backbones[0].recurrent)]).all():
        yield _certificate("5.7", emissions, backbones[0].cycles, backbones[0].period, eps, q_min)
    if all(each.is_permutation for each in backbones) and is_positive(emissions).all():
        # Under any actions a pair may be met at every step: each state is followed alone, with M = 1.
        alone = tuple((state,) for state in range(emissions.shape[1]))
        uniform = _certificate("5.9", emissions, alone, 1, eps, q_min)
        if uniform.xi > 0 or not one:
            yield uniform


def _certificate(
    theorem: str,
    emissions: Float[np.ndarray, "m n k"],
    cycles: tuple[tuple[int, ...], ...],
    period: int,
    eps: float,
    q_min: float,
) -> Certificate:
    followed = [state for cycle in cycles for state in cycle]
    logit_bound = float(-np.log(emissions[:, followed].min()))
    # Actions often share their emission, which then needs looking at only once.
    kinds, action = np.unique(emissions, axis=0, return_index=True)
    found = [exponent(emission, cycles, period, logit_bound) for emission in kinds]
    worst = min(range(len(kinds)), key=lambda kind: found[kind].xi)
    pair = {}
    if hardest := found[worst].pair:
        under = {"action": int(action[worst])} if len(kinds) > 1 else {}
        pair = {"state": hardest[0], "other_state": hardest[1]} | under
    xi, alpha = found[worst].xi, max(each.alpha for each in found)
    if xi == 0 or eps == 0:
        alpha = alpha if xi > 0 else None
        return Certificate(theorem, period, xi, pair, eps, q_min, logit_bound, alpha)
    log_eps = -math.log(eps)  # log(1/eps), where 1/eps may overflow
    rate = min(FRACTION_OF_XI * xi, LARGEST_DELTA * log_eps)
    kappa = -q_min * alpha / rate
    return Certificate(
        *(theorem, period, xi, pair, eps, q_min, logit_bound, alpha),
        rate=rate,
        delta=rate / log_eps,
        kappa=kappa,
        bound=kappa * eps * log_eps,
    )


def _recommend(
    kind: str,
    transitions: tuple[Transition, ...],
    assumptions: tuple[Assumption, ...],
    certificates: tuple[Certificate, ...],
) -> Recommendation:
    if kind == PERMUTATION:
        reason = (
            "a permutation moves logits without mixing them, so the linear filter equals the Bayes filter"
        )
        return Recommendation("exact linear", reason)
    if kind == MANY_TO_ONE:
        reason = "states merge but never split, so logits over the initial state stay linear and exact"
        return Recommendation("initial-state", reason)
    if kind == NEITHER:
        action, each = next((a, t) for a, t in enumerate(transitions) if t.kind == NEITHER)
        reason = f"a state misses its likeliest successor with probability {each.eps:.3g}: no map is near"
        return Recommendation("belief", reason + _under(action, transitions))
    if any(not each.pair for each in certificates):
        reason = "one state is recurrent: the theorem says nothing of transient ones"
        return Recommendation("belief", reason)
    usable = [(each.kappa, each) for each in certificates if each.kappa is not None]
    if usable:
        _, best = min(usable, key=lambda each: each[0])
        reason = f"by Theorem {best.theorem} its error vanishes with eps as fast as the Bayes decoder's bound"
        reason += "; at this eps the bound says nothing yet" * best.vacuous
        return Recommendation("adaptive linear", reason, best.delta)
    merging = [a for a, each in enumerate(transitions) if each.backbone and not each.backbone.is_permutation]
    if len(transitions) > 1 and merging:
        reason = "with several actions the theorem needs permutations, and states merge"
        return Recommendation("belief", reason + _under(merging[0], transitions))
    broken = next(each for each in assumptions if not each.holds)
    return Recommendation("belief", f"Assumption {broken.name} fails: {broken.sentence}")


def _under(action: int, transitions: Sequence[Transition]) -> str:
    return f" under action {action}" if len(transitions) > 1 else ""


def _rows(found: Analysis) -> Iterator[tuple[str, str]]:
    counts = _count(found.n_states, "state"), _count(found.n_observations, "observation")
    yield "model", ", ".join(counts) + f", {_count(found.n_actions, 'action')}" * (found.n_actions > 1)
    for action, each in enumerate(found.transitions):
        yield "transition" + f" {action}" * (found.n_actions > 1), _describe(each)
    for each in found.assumptions:
        yield f"Assumption {each.name}", ("holds: " if each.holds else "fails: ") + each.sentence
    for each in found.certificates:
        yield f"Theorem {each.theorem}", _describe_exponent(each)
        if each.kappa is not None:
            log = f"alpha > {each.alpha:.4g}, kappa = {each.kappa:.4g}"
            yield "", f"lambda = {each.rate:.4g}, delta = {each.delta:.4g}, {log}"
            vacuous = "a bound of 1 or more" if each.pair else "transient states are left out"
            size = f"vacuous, {vacuous}" if each.vacuous else "leading term as eps -> 0"
            yield "", f"decoding error at most about kappa eps log(1/eps) = {each.bound:.3g} ({size})"
    use = found.recommended
    yield "recommended", use.filter + (f", delta = {use.delta:.4g}" if use.delta is not None else "")
    yield "", use.reason


def _describe(each: Transition) -> str:
    if each.backbone is None:
        return f"neither deterministic nor nearly so: eps = {each.eps:.4g}"
    lengths = sorted(map(len, each.backbone.cycles), reverse=True)
    parts = [
        each.kind + (f", eps = {each.eps:.4g}" if each.eps > 0 else ""),
        f"{_count(len(lengths), 'cycle')} (the longest of {_count(lengths[0], 'state')})",
        _count(len(each.backbone.transient), "transient state"),
        f"period {each.backbone.period}",
    ]
    return ", ".join(parts)


def _describe_exponent(each: Certificate) -> str:
    if not each.pair:
        return "xi = inf: no two states to confuse"
    under = f" under action {each.pair['action']}" if "action" in each.pair else ""
    pair = f"states {each.pair['state']} and {each.pair['other_state']}{under}"
    if each.xi == 0:
        return f"xi = 0: {pair} cannot be told apart, no rate is admissible"
    return f"xi = {each.xi:.6g} (the hardest pair: {pair})" + ", 0 < lambda < xi" * (each.rate is not None)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        names = [each.name for each in dataclasses.fields(value) if each.name != "perturbation"]
        return {name: _plain(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, tuple | np.ndarray):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, float) and math.isinf(value):
        return "inf"
    return value

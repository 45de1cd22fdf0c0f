"""How near a memory is to belief and theory at some moments of its training.

A snapshot trains nothing and draws from keys of its own, so a run learns the same with and without.
"""

from typing import Any

import jax
import numpy as np

from ..agents.policy import ActorCritic
from ..agents.rollout import Slot
from ..certificates import analyse
from ..measures.decoding import decode
from ..measures.spectrum import angular_distance, chance_distance, eigenvalues, theoretical
from ..worlds.tables import POMDP
from .config import RunConfig
from .store import Folder

ACTORS = 16  # of the evaluation's; half of them fit the read-out


def due(config: RunConfig, folder: Folder, name: str, size: int, calls: int) -> set[int]:
    """The numbers of updates after which a snapshot is still to be taken,
    of ``calls`` times ``size`` updates."""
    if not config.snapshots:
        return set()
    planned = np.unique(np.linspace(0, calls, config.snapshots + 1).round().astype(int)) * size
    taken = {r["update"] for r in folder.records() if r["event"] == "snapshot" and r["memory"] == name}
    return set(planned.tolist()) - taken


def compare(policies: ActorCritic, model: POMDP, slots: Slot) -> dict[str, Any]:
    """The part of a snapshot's record that is measured; lists have one entry per seed.

    policies: leaves with a leading seed axis. slots: of each in its world, axes (seed, time, actor).
    """
    slots = jax.tree.map(lambda x: x[:, :, :ACTORS], slots)
    seeds = [(one_seed(policies, s), one_seed(slots, s)) for s in range(len(slots.start))]
    decoded = [decode(policy, model, slot) for policy, slot in seeds]
    record: dict[str, Any] = {
        "decoding_error": [d.decoding_error for d in decoded],
        "bayes_error": [float(np.mean(d.belief.argmax(-1) != d.hidden)) for d in decoded],
        "total_variation": [d.total_variation for d in decoded],
    }
    theory = theoretical(model)
    spectra = [eigenvalues(policy.memory, model) for policy, _ in seeds]
    learned = [spectrum for spectrum in spectra if spectrum is not None]
    if theory is None or not learned:
        return record
    return record | {
        "eigenvalues": [_complex(spectrum) for spectrum in learned],
        "theory": _complex(theory),
        "recommended_delta": analyse(model).recommended.delta,
        "angular_distance": [angular_distance(spectrum, theory) for spectrum in learned],
        "chance_distance": chance_distance(learned[0].shape[1], theory[: len(learned[0])]),
    }


def one_seed(tree: Any, seed: int) -> Any:
    """The leaves of one seed."""
    return jax.tree.map(lambda x: x[seed], tree)


def _complex(values: np.ndarray) -> dict[str, np.ndarray]:
    return {"real": np.real(values), "imaginary": np.imag(values)}

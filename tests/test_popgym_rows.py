"""POPGym's published values beside ours: the score of a training, and what counts as reaching it."""

from dataclasses import replace

import numpy as np
import pytest

from linmem.evidence import popgym
from linmem.reports.suite import Job, Results


def job(memory: str, returns: list[float], world: str = "repeat_first") -> Job:
    floor, best = -0.5, 1.0
    scores = (np.array(returns) - floor) / (best - floor)
    return Job(
        world=world,
        memory=memory,
        seed=0,
        score=float(scores[-1]),
        episode_return=returns[-1],
        attainable=best,
        memoryless=floor,
        exact=True,
        episode=51,
        parameters=1,
        state_bytes=4,
        seconds_per_million=1.0,
        cpu_seconds=1.0,
        curve=((np.arange(len(returns)) + 1) * popgym.EPOCH, scores),
    )


def test_the_score_of_a_training_is_its_best_update_not_its_last():
    assert popgym.best_of_training(job("gru", [-0.4, 0.8, 0.3])) == pytest.approx(0.8)


def test_an_epoch_is_the_mean_of_its_updates():
    one = job("gru", [0.0, 0.8, 0.2, 0.3])
    steps = np.array([0.5, 1, 1.5, 2]) * popgym.EPOCH
    assert popgym.best_of_training(replace(one, curve=(steps, one.curve[1]))) == pytest.approx(0.4)
    assert np.isnan(popgym.best_of_training(replace(one, curve=(np.array([]), np.array([])))))


def test_a_memory_far_below_the_published_value_misses_and_one_near_it_does_not():
    jobs = (job("gru", [0.96]), job("ffm", [0.94]), job("gru", [-0.3], "autoencode"))
    results = Results(("repeat_first", "autoencode"), ("gru", "ffm"), 1, jobs, {})
    held = {target.name: target.holds for target in popgym._targets(results, 4)}
    assert held == {
        "every job is finished": False,
        "gru on repeat_first": True,
        "ffm on repeat_first": False,
        "gru on autoencode": True,
    }
    cells = popgym._table(results).rows[1]
    assert cells[0] == "autoencode" and cells[2] is None and cells[-2:] == ("-0.283", "-0.283")


def test_a_world_without_a_published_value_is_refused():
    with pytest.raises(ValueError, match="'parity' has no published value"):
        popgym.main(worlds=("parity",))

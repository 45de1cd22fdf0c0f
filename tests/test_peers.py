"""What `linmem bench peers` and `bench scale` compare is comparable, and a miss is called one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linmem.core.registry import UnknownName
from linmem.evidence import bench_peers, bench_scale, training_peers
from linmem.evidence.training_peers import _SelfResetting
from linmem.worlds import WORLDS


def test_a_self_resetting_copy_is_the_world_and_then_the_next_episode():
    """Where an episode ends, observation and state are those of a fresh copy, without a last action."""
    world = WORLDS["memory_chain@length=3"].make()
    copy = _SelfResetting(world, reward_scale=4.0)
    key, ended = jax.random.key(0), 0
    _, state = copy.reset(key)
    for t in range(12):
        action = jnp.asarray(t % copy.actions)
        step_key, reset_key = jax.random.split(jax.random.fold_in(key, t))
        expected, outcome = world.step(step_key, state, action)
        observed, state, reward, done = jax.jit(copy.step)(jax.random.fold_in(key, t), state, action)
        assert reward == outcome.reward / 4 and bool(done) == bool(outcome.terminated | outcome.truncated)
        last_action = observed[-copy.actions :]
        if done:
            ended += 1
            first, fresh = copy.reset(reset_key)
            np.testing.assert_array_equal(observed, first)
            assert not last_action.any()
            expected = fresh
        else:
            assert last_action.argmax() == action and last_action.sum() == 1
        jax.tree.map(np.testing.assert_array_equal, state, expected)
    assert ended > 1


@pytest.mark.parametrize(
    "times, share, sb3, returned, missed",
    [
        (2.6, 0.1, 31, 0.9, []),
        (2.4, 0.1, 31, 0.9, ["linmem gru beside the best JAX peer"]),
        (2.4, 0.7, 31, 0.9, []),  # the roofline is nearer
        (2.6, 0.1, 29, 0.9, ["linmem gru beside sb3-contrib"]),
        (
            2.6,
            0.1,
            31,
            0.5,
            [f"final return, linmem gru beside {peer}" for peer in ("memorax gru", "sb3 lstm")],
        ),
    ],
)
def test_a_peer_that_is_not_left_behind_is_said(times, share, sb3, returned, missed):
    returns = {"linmem gru": returned, "memorax gru": 0.8, "sb3 lstm": 0.8}
    rates = {"linmem gru": 100.0, "memorax gru": 100 / times, "sb3 lstm": 100 / sb3}
    rows = {
        name: {
            "contender": name,
            "steps_per_second": rate,
            "returns": [returns[name] - 0.01, returns[name] + 0.01],
        }
        for name, rate in rates.items()
    }
    targets = bench_peers._targets(rows, {"products": share, "update": 1.0})
    assert sorted(t.name for t in targets if not t.holds) == missed
    assert len(targets) == 4


def test_a_memory_that_no_peer_has_is_compared_with_the_fastest_of_them():
    rates = {"linmem trace": 100.0, "memorax gru": 9.0, "memorax s5": 10.0}
    rows = {n: {"contender": n, "steps_per_second": r, "returns": [r, r]} for n, r in rates.items()}
    targets = bench_peers._targets(rows, {"products": 0.1, "update": 1.0})
    assert [t.name for t in targets] == [
        "linmem trace beside the best JAX peer",
        "final return, linmem trace beside memorax s5",
    ]


def test_any_memory_of_ours_is_a_contender_and_who_is_none_is_refused(monkeypatch):
    trained = []
    with monkeypatch.context() as patched:
        patched.setattr(training_peers, "ours", lambda memory, separate: trained.append((memory, separate)))
        for name in ("lru", "deep_alf_random@states=3 separate"):
            training_peers.contender(f"linmem {name}")
    assert trained == [("lru", False), ("deep_alf_random@states=3", True)]
    monkeypatch.setattr(bench_peers, "_run", lambda *_: pytest.fail("trained"))
    for name, said in (
        ("memorax lru", "unknown contender 'memorax lru'"),
        ("linmem lrv", "did you mean 'lru'"),
    ):
        with pytest.raises((ValueError, UnknownName), match=said):
            bench_peers.main(contenders=("linmem gru", name))


def test_a_scale_of_rewards_that_is_not_positive_is_refused_before_anything_is_trained(monkeypatch):
    monkeypatch.setattr(bench_peers, "_run", lambda *_: pytest.fail("trained"))
    with pytest.raises(ValueError, match="reward_scale is 0"):
        bench_peers.main(reward_scale=0.0)


def test_devices_that_disagree_are_found_out():
    rows = [{"case": "scan", "devices": n, "sums": [1.0, 2.0]} for n in (1, 2)]
    assert bench_scale._equal(rows, "scan", 2).holds
    rows[1]["sums"] = [1.0, 2.001]
    assert not bench_scale._equal(rows, "scan", 2).holds


def test_the_prediction_is_the_model_of_the_docstring():
    row = {
        "case": "training, x",
        "devices": 1,
        "steps": 8192,
        "seconds": 1.0,
        "bytes": 1000,
        "rollout_bytes": 500,
    }
    n, bandwidth, latency = 64, 1e6, 1e-3
    ring = lambda size: 2 * (n - 1) / n * size / bandwidth + 2 * (n - 1) * latency  # noqa: E731
    took = 1.0 + 32 * ring(1000) + 4 * ring(n * 500)
    said = bench_scale._predictions([row], 1, 1, bandwidth, latency)[1]
    assert f"{n * 8192 / took:,.0f} steps/s" in said and f"{100 / took:.0f}% of 64" in said

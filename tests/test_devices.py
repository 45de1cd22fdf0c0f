"""One device and several give the same, and processes that train together leave one run folder."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from linmem.agents import PPOConfig
from linmem.experiments.config import RunConfig
from linmem.experiments.devices import choose, join
from linmem.experiments.store import Folder

TINY = "--world ringworld --memory none --seeds 2 --steps 480".split()
TINY += "--evaluation-actors 4 --evaluation-steps 20".split()
TINY += "--actors 8 --unroll 6 --minibatches 2 --epochs 2 --memory-size 4".split()


@pytest.fixture(scope="module")
def found():
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / "on_devices.py"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_scan_spread_over_time_gives_states_and_gradients_of_one_that_is_not(found):
    assert len(found["scans"]) == 12
    assert {name: gap for name, gap in found["scans"].items() if gap > 1e-12} == {}


def test_actors_spread_over_devices_learn_what_they_learn_on_one(found):
    training = found["training"]
    assert training["actors"] == 4  # of 16, on each of 4 devices
    assert training["metrics"] < 1e-4
    assert training["parameters"] < 1e-4 < 0.01 < training["moved"]


def _start(out: Path, *more: str) -> subprocess.Popen:
    command = [
        sys.executable,
        "-c",
        "from linmem.cli import main; main()",
        "run",
        *TINY,
        "--out",
        str(out),
        *more,
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-3000:]
    return output


def _together(out: Path, *more: str) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return [_start(out, "--distributed", f"{i}/2@localhost:{port}", *more) for i in range(2)]


def _rewards(out: Path) -> list[list[float]]:
    (path,) = out.iterdir()
    return [record["reward"] for record in Folder.open(path).records() if record["event"] == "update"]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What a run on two devices printed, and the rewards of its updates."""
    out = tmp_path_factory.mktemp("two")
    return _finish(_start(out, "--devices", "2")), _rewards(out)


def test_two_processes_train_one_run_and_go_on_after_both_are_killed(two, tmp_path):
    printed, rewards = two
    assert "on 2 devices" in printed
    pair = _together(tmp_path / "pair", "--checkpoint-seconds", "0")
    (folder,) = _wait(tmp_path / "pair", pair)
    for process in pair:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    outputs = [_finish(process) for process in _together(tmp_path / "pair", "--checkpoint-seconds", "0")]
    assert "report:" in outputs[0] and "report:" not in outputs[1]
    assert [path.name for path in (tmp_path / "pair").iterdir()] == [folder.name]
    got = _rewards(tmp_path / "pair")
    assert len(got) == len(rewards) == 10
    for mine, theirs in zip(got, rewards, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-4)


def _wait(out: Path, pair: list[subprocess.Popen]) -> list[Path]:
    """Until a checkpoint is written: the run folder."""
    for _ in range(3000):
        found = list(out.glob("*/state/none.eqx"))
        if found:
            return [found[0].parent.parent]
        assert all(process.poll() is None for process in pair), pair[0].communicate()[0]
        time.sleep(0.1)
    raise AssertionError("no checkpoint was written")


def test_what_cannot_be_spread_is_refused_with_the_reason():
    config = RunConfig().ppo
    with pytest.raises(ValueError, match="JAX sees 1 here"):
        choose(2, config)
    with pytest.raises(ValueError, match="at least 1"):
        join(None, 0)
    for wrong in ("two", "2/2@localhost:1", "0/2@localhost"):
        with pytest.raises(ValueError, match="0/2@localhost:9876"):
            join(wrong, 1)
    assert choose(1, PPOConfig()) is None

"""What trackers get is what the records say, also after an interruption."""

import json
import os

import pytest

from linmem.experiments import run as runs
from linmem.experiments.store import Folder
from linmem.experiments.track import AbstractTracker, Follower, TensorBoard, WeightsAndBiases
from linmem.experiments.watch import watch
from test_run import TINY, command


class Kept(AbstractTracker):
    def __init__(self):
        self.sent, self.closed = [], False

    def send(self, memory, agent, steps, numbers):
        self.sent.append((memory, agent, steps, numbers))

    def close(self):
        self.closed = True


def told(folder):
    """What the records say of every agent's updates."""
    return [
        (r["memory"], agent, r["steps"], r["value_loss"][agent])
        for r in folder.records()
        if r["event"] == "update"
        for agent in range(2)
    ]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """A run with all three trackers, stopped once on its way."""
    os.environ["WANDB_SILENT"] = "true"
    folder = Folder.create(tmp_path_factory.mktemp("runs"), TINY, "a test")
    first = Kept()
    session, follower = runs.run(TINY, folder), Follower(folder, [first])
    for _ in range(2):
        next(session)
        follower.follow()
    session.close()
    second = Kept()
    assert watch(
        TINY, folder, trackers=[second, TensorBoard(folder), WeightsAndBiases(folder, TINY, "offline")]
    )
    return folder, first, second


def test_every_update_is_sent_once_over_an_interruption(tracked):
    folder, first, second = tracked
    sent = [(m, a, steps, numbers["value_loss"]) for m, a, steps, numbers in first.sent + second.sent]
    assert sent == told(folder) and second.closed
    assert len(first.sent) == 2 and len(told(folder)) == 12


def test_what_was_not_finite_is_left_out(tracked):
    folder, _, second = tracked
    assert any(r.get("episode_return") == [None, None] for r in folder.records())
    assert all("episode_return" not in numbers for *_, numbers in second.sent)


def test_tensorboard_reads_the_numbers_of_the_records(tracked):
    from tensorboardX.proto.event_pb2 import Event

    folder = tracked[0]
    (file,) = (folder.path / "tensorboard" / "belief" / "1").glob("events.*")
    data, values = file.read_bytes(), []
    while data:  # TFRecord: length (8 bytes), its checksum (4), the event, its checksum (4)
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        values += [(event.step, v.simple_value) for v in event.summary.value if v.tag == "value_loss"]
        data = data[16 + length :]
    expected = [
        (steps, loss) for memory, agent, steps, loss in told(folder) if (memory, agent) == ("belief", 1)
    ]
    assert values == [(steps, pytest.approx(loss, rel=1e-6)) for steps, loss in expected] and len(values) == 3


def test_weights_and_biases_keeps_a_run_for_each_agent_offline(tracked):
    files = list((tracked[0].path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 4
    assert all(b"value_loss" in file.read_bytes() for file in files)


def test_a_line_that_is_still_being_written_waits(tmp_path):
    folder, kept = Folder(tmp_path), Kept()
    follower = Follower(folder, [kept])
    line = json.dumps({"event": "update", "memory": "m", "update": 1, "steps": 5, "reward": [1.5]}) + "\n"
    (tmp_path / "records.jsonl").write_text(line + line[:9])
    follower.follow()
    assert kept.sent == [("m", 0, 5, {"reward": 1.5})]
    with (tmp_path / "records.jsonl").open("a") as file:
        file.write(line[9:])
    follower.follow()
    assert len(kept.sent) == 2


def test_a_tracker_that_is_missing_or_misspelt_is_said_before_training(tmp_path, monkeypatch, capsys):
    for module, option in (("tensorboardX", ["--tensorboard"]), ("wandb", ["--wandb", "offline"])):
        monkeypatch.setitem(__import__("sys").modules, module, None)
        code, _, err = command("run", *option, "--out", str(tmp_path), capsys=capsys)
        assert code == 2 and 'pip install "linmem[track]"' in err
    assert (
        "known: online, offline" in command("run", "--wandb", "of", "--out", str(tmp_path), capsys=capsys)[2]
    )

"""A run survives kills, a second process, a full disk and a NaN: the last good checkpoint stays,
and what comes out in the end is what an undisturbed run records."""

import dataclasses
import os
import random
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import jax
import numpy as np
import pytest

from linmem.agents import PPOConfig, ppo
from linmem.experiments import run as runs
from linmem.experiments.config import RunConfig
from linmem.experiments.store import Folder, FolderError
from test_run import command, do, learning

UPDATES = 40
TINY = RunConfig(
    memory=("none", "belief"),
    seeds=2,
    steps=UPDATES * 8 * 10,
    evaluation_actors=4,
    evaluation_steps=30,
    ppo=PPOConfig(actors=8, unroll=10, epochs=1, minibatches=2, memory_size=8),
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return learning(do(TINY, tmp_path_factory.mktemp("runs")))


def ends(folder, **options):
    for _ in runs.run(TINY, folder, **options):
        pass


def test_a_run_killed_five_times_records_what_an_undisturbed_one_does(undisturbed, tmp_path):
    folder = Folder.create(tmp_path, TINY, "a test")
    records, draw = folder.path / "records.jsonl", random.Random(0)

    def written():
        return records.read_bytes().count(b"\n") if records.exists() else 0

    for moment in (
        (folder.path / "lock").exists,
        lambda: written() >= 5,
        lambda: written() >= 20,
        (folder.path / "params" / "none.eqx").exists,
        lambda: written() >= UPDATES + 10,
    ):
        resume = ["run", "--resume", folder.path, "--checkpoint-seconds", "0.02"]
        process = subprocess.Popen([sys.executable, "-m", "linmem", *resume], stdout=subprocess.DEVNULL)
        while not moment():
            assert process.poll() is None, "the run ended before it was to be killed"
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.02))
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert (folder.path / "state" / "belief.eqx").exists()  # the next resumes it, it does not begin again
    ends(folder)
    assert learning(folder) == undisturbed
    assert not list(folder.path.glob("state/*.eqx"))


def test_a_checkpoint_older_than_the_records_takes_the_later_ones_back(undisturbed, tmp_path):
    folder = Folder.create(tmp_path, TINY, "a test")
    session = runs.run(TINY, folder, checkpoint_seconds=0.0)
    for _ in range(4):
        next(session)
    checkpoint = (folder.path / "state" / "none.eqx").read_bytes()
    next(session)
    session.close()
    (folder.path / "state" / "none.eqx").write_bytes(checkpoint)
    with (folder.path / "records.jsonl").open("a") as file:
        file.write('{"event": "update", "memo')
    ends(folder)
    assert learning(folder) == undisturbed
    assert "memo\n" not in (folder.path / "records.jsonl").read_text()


def test_a_second_process_is_refused_with_the_pid_of_the_first_until_that_dies(tmp_path):
    folder = Folder.create(tmp_path, TINY, "a test")
    hold = (
        "import sys, time; from pathlib import Path; from linmem.experiments.store import Folder\n"
        "with Folder(Path(sys.argv[1])).lock(): print('held', flush=True); time.sleep(100)"
    )
    process = subprocess.Popen([sys.executable, "-c", hold, folder.path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(FolderError, match=rf"in use by process {process.pid} on "):
        next(runs.run(TINY, folder))
    process.kill()
    process.wait()
    with folder.lock():
        pass


@contextmanager
def full_disk(bytes_left):
    """No file can grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_said_in_a_sentence_and_the_last_checkpoint_stays(undisturbed, tmp_path):
    folder = Folder.create(tmp_path, TINY, "a test")
    session = runs.run(TINY, folder, checkpoint_seconds=0.0)
    for _ in range(3):
        next(session)
    saved = folder.path / "state" / "none.eqx"
    checkpoint = saved.read_bytes()
    with full_disk(len(checkpoint) // 2):
        with pytest.raises(FolderError, match=r"cannot write .*none.eqx \(File too large\).*--resume"):
            session.close()
        assert saved.read_bytes() == checkpoint
        assert [path.name for path in saved.parent.iterdir()] == ["none.eqx"]
    with full_disk(10), pytest.raises(FolderError, match=r"records.jsonl \(File too large\)"):
        ends(folder)
    ends(folder)
    assert learning(folder) == undisturbed


def test_a_nan_stops_the_run_names_the_update_and_keeps_the_state_before_it(tmp_path, monkeypatch):
    compile_train = ppo.compile_train

    def poisoned(*arguments):
        train = compile_train(*arguments)

        def fails_in_update_4(state):
            following, metrics = train(state)
            if int(state.update[0]) == 3:
                following = following._replace(policy=jax.tree.map(lambda x: x * np.nan, following.policy))
                metrics = metrics._replace(value_loss=metrics.value_loss.at[1].set(np.nan))
            return following, metrics

        return fails_in_update_4

    monkeypatch.setattr(ppo, "compile_train", poisoned)
    config = dataclasses.replace(TINY, memory=("none",))
    folder = Folder.create(tmp_path, config, "a test")
    with pytest.raises(
        FloatingPointError, match=r"loss of 'none' is not finite in update 4;.*after update 3"
    ):
        for _ in runs.run(config, folder):
            pass
    monkeypatch.undo()
    assert [record["update"] for record in folder.records()] == [1, 2, 3]
    for _ in runs.run(config, folder):  # the kept state is good: from it the run ends like another
        pass
    assert learning(folder) == learning(do(config, tmp_path / "again"))


def test_a_checkpoint_that_holds_code_is_refused(tmp_path):
    folder = Folder.create(tmp_path, TINY, "a test")
    with (folder.path / "state" / "none.eqx").open("wb") as file:
        np.save(file, np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(FolderError, match=r"cannot read .*none.eqx.*never loaded.*Delete it"):
        next(runs.run(TINY, folder))


@pytest.mark.parametrize(
    "world", ["gym:their_module:Theirs-v0", "gymnax:their_module:Theirs", "gym:json.tool:X"]
)
def test_a_folder_does_not_decide_what_module_is_imported(world, tmp_path):
    config = dataclasses.replace(TINY, world=world)
    folder = Folder.create(tmp_path, config, "a test")
    with pytest.raises(FolderError, match="may not decide what code is loaded"):
        folder.config()


def test_resume_takes_no_other_setting(tmp_path, capsys):
    folder = Folder.create(tmp_path, TINY, "a test")
    code, _, err = command("run", "--resume", str(folder.path), "--seeds", "3", capsys=capsys)
    assert code == 2 and "--resume takes every setting from" in err

"""Runs: the same configuration gives the same records, an interrupted run goes on,
and the command line speaks."""

import dataclasses
import io
import json
import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest

from linmem import cli
from linmem.agents import PPOConfig, ppo
from linmem.experiments import run as runs
from linmem.experiments.config import RunConfig, from_dict, with_discount_of_file
from linmem.experiments.settings import ppo_of
from linmem.experiments.solve import load_policy
from linmem.experiments.store import Folder, FolderError
from linmem.memories import MEMORIES
from linmem.reports import read_run, summary
from linmem.worlds import WORLDS

ROOT = Path(__file__).parents[1]
TINY = RunConfig(
    memory=("none", "belief"),
    seeds=2,
    steps=3 * 8 * 10,
    evaluation_actors=4,
    evaluation_steps=30,
    ppo=PPOConfig(actors=8, unroll=10, epochs=1, minibatches=2, memory_size=8),
)


def do(config, root):
    folder = Folder.create(root, config, "a test")
    for _ in runs.run(config, folder):
        pass
    return folder


def learning(folder):
    """Records without the clock."""
    clock = ("seconds", "steps_per_second", "compile_seconds")
    return [{k: v for k, v in record.items() if k not in clock} for record in folder.records()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return do(TINY, tmp_path_factory.mktemp("runs"))


def test_two_runs_of_one_configuration_give_the_same_records(finished, tmp_path):
    assert learning(do(TINY, tmp_path)) == learning(finished)


def test_a_run_stopped_at_any_moment_goes_on_to_the_same_records(finished, tmp_path):
    folder = Folder.create(tmp_path, TINY, "a test")
    for stop_after in (2, 4):  # events: compiling, first update, ...
        session = runs.run(TINY, folder)
        for _ in range(stop_after):
            next(session)
        session.close()
    for _ in runs.run(TINY, folder):
        pass
    assert learning(folder) == learning(finished)


def test_a_finished_run_is_not_repeated(finished):
    before = (finished.path / "records.jsonl").read_bytes()
    events = list(runs.run(TINY, finished))
    assert events == [runs.Finished("none", now=False), runs.Finished("belief", now=False)]
    assert (finished.path / "records.jsonl").read_bytes() == before


def test_what_a_memory_learns_does_not_depend_on_the_others_in_the_run(finished, tmp_path):
    alone = do(RunConfig(**{**TINY.__dict__, "memory": ("belief",)}), tmp_path)
    assert learning(alone) == [record for record in learning(finished) if record["memory"] == "belief"]


def test_trained_policies_load_and_give_the_recorded_shape(finished):
    policy = runs.load_policy(finished, "belief")
    assert policy.memory.log_transition.shape == (2, 4, 12, 12)
    world = WORLDS[TINY.world].make()
    untrained = ppo.seeds_init(
        TINY.ppo, world, MEMORIES["belief"].make, 1, jax.random.split(jax.random.key(0), 2)
    )
    assert jax.tree.structure(policy) == jax.tree.structure(untrained.policy)
    assert float(np.abs(policy.actor.out.bias).max()) > 0  # biases begin at 0 and were trained


def test_a_parameter_file_that_holds_code_is_refused(finished, tmp_path):
    folder = do(RunConfig(**{**TINY.__dict__, "memory": ("none",)}), tmp_path)
    with (folder.path / "params" / "none.eqx").open("wb") as file:
        np.save(file, np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(FolderError, match=r"cannot read .*none.eqx.*never loaded"):
        runs.load_policy(folder, "none")


def test_a_policy_that_was_lost_is_trained_anew(tmp_path):
    folder = do(RunConfig(**{**TINY.__dict__, "memory": ("none",)}), tmp_path)
    policy, before = folder.path / "params" / "none.eqx", learning(folder)
    policy.unlink()
    do(folder.config(), tmp_path)
    assert policy.exists() and learning(folder) == before


def test_lines_that_are_no_events_are_passed_over(finished, tmp_path):
    spoilt = shutil.copytree(finished.path, tmp_path / "run")
    with (spoilt / "records.jsonl").open("ab") as file:
        file.write(b'3\n{}\n\xff\n{"event": "upd')
    assert Folder.open(spoilt).records() == finished.records()


def test_the_configuration_on_disk_is_complete(finished):
    described = json.loads((finished.path / "config.json").read_text())
    assert from_dict(described["config"]) == TINY == finished.config()
    assert described["versions"]["jax"] == jax.__version__


def test_a_folder_of_an_earlier_version_takes_the_defaults_of_what_that_did_not_have(tmp_path):
    path = Folder.create(tmp_path, TINY, "a test").path
    described = json.loads((path / "config.json").read_text())
    del described["world_file"], described["config"]["snapshots"], described["config"]["ppo"]["reward_scale"]
    (path / "config.json").write_text(json.dumps(described))
    assert Folder.open(path).config() == TINY


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "\xff",
        "[]",
        '{"config": {"memory": ["none"]}}',
        '{"config": {"memory": ["none"], "ppo": {}, "stps": 3}}',
        '{"config": {"memory": ["none"], "ppo": {}, "steps": 0}}',
        '{"config": {"memory": ["none"], "ppo": {}, "world": 3}}',
    ],
)
def test_a_broken_configuration_is_named(text, tmp_path):
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(FolderError, match=r"config\.json (is not valid JSON|does not fit this version)"):
        Folder.open(tmp_path).config()


def test_the_belief_decodes_itself_without_distance(finished):
    rows = {row.memory: row for row in summary(read_run(finished.path))}
    assert rows["belief"].total_variation.mean == 0
    assert 0 < rows["belief"].decoding_error.mean < rows["none"].decoding_error.mean


def test_a_setting_that_cannot_be_is_said_before_anything_is_trained(tmp_path):
    config = RunConfig(**{**TINY.__dict__, "memory": ("none", "alf@readout=softmx")})
    folder = Folder.create(tmp_path, config, "a test")
    with pytest.raises(KeyError, match="unknown readout 'softmx'"):
        next(runs.run(config, folder))
    assert folder.records() == []


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (
            {"world": "memory_chain", "memory": ("none", "belief")},
            "'belief' .* has no tables; take a learned",
        ),
        ({"world": "memory_chain", "snapshots": 1}, "snapshots .* 'memory_chain' has no tables"),
        ({"evaluation_actors": 1}, "evaluation_actors is 1; .* take at least 2"),
    ],
)
def test_what_the_world_cannot_give_is_said_before_anything_is_trained(settings, why, tmp_path):
    config = dataclasses.replace(TINY, **{"memory": ("none",), **settings})
    folder = Folder.create(tmp_path, config, "a test")
    with pytest.raises(ValueError, match=why):
        next(runs.run(config, folder))
    assert folder.records() == []


def test_one_copy_is_enough_to_evaluate_where_no_belief_is_read_out(tmp_path):
    config = dataclasses.replace(TINY, world="memory_chain", memory=("none",), evaluation_actors=1)
    (result,) = (r for r in do(config, tmp_path).records() if r["event"] == "result")
    assert len(result["reward"]) == 2 and result["decoding_error"] is None


def test_an_unwritable_folder_is_said_in_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match=r"cannot write to .* choose a folder with --out"):
        Folder.create(tmp_path / "file", TINY, "")


def command(*arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def test_mistyped_names_list_the_known_ones_and_exit_2(capsys):
    for arguments, message in (
        (("run", "--memory", "belef"), "unknown memory 'belef'; did you mean 'belief'? known: belief"),
        (("run", "--world", "ringwrld"), "unknown world 'ringwrld'; did you mean 'ringworld'?"),
        (("run", "--agent", "dqn"), "unknown agent 'dqn'; known: ppo"),
        (("report", "/nowhere"), "/nowhere holds no config.json"),
        (("check", "json"), "name a class as module:Class"),
        (("check", "./mine.py:Layer"), "name a class as module:Class"),
        (("check", "json:JSONDecoder"), "not a subclass of linmem.AbstractMemory"),
        (("bench",), "name what to measure"),
    ):
        code, _, err = command(*arguments, capsys=capsys)
        assert code == 2 and message in err, (arguments, code, err)


def test_numbers_that_no_command_has_a_use_for_are_refused_in_a_sentence(finished, capsys):
    folder = str(finished.path)
    for arguments, message in (
        (("evaluate", folder, "--actors", "0"), "--actors is 0; it must be at least 1"),
        (("play", folder, "--steps", "-1"), "--steps is -1; it must be at least 1"),
        (("play", folder, "--seed", "-1"), "--seed is -1; it must be one of 0 to 4294967295"),
        (("solve", "tiger.POMDP", "--gap", "nan"), "--gap is nan; it must be a number, and not negative"),
        (("gap", "tiger.POMDP", "--memory"), "no memory is named; name one at least"),
        (("bench", "layers", "--steps", "256", "0"), "--steps is 0; it must be at least 1"),
        (("bench", "memory", "--seeds", "0"), "--seeds is 0; it must be at least 1"),
        (("reproduce", "signature", "--paths", "0"), "--paths is 0; it must be at least 1"),
        (("run", "--checkpoint-seconds", "nan"), "--checkpoint-seconds is nan; it must be a number"),
    ):
        code, _, err = command(*arguments, capsys=capsys)
        assert code == 2 and message in err, (arguments, code, err)


@pytest.mark.parametrize("name", ["step_size", "max_gradient", "clip", "entropy_cost", "value_cost"])
def test_a_learner_with_a_negative_or_unknown_setting_is_refused(name):
    for value in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"{name} is {value}; it must be .* finite"):
            PPOConfig(**{name: value})


def test_a_memory_of_no_size_is_refused_and_of_size_1_is_made():
    with pytest.raises(ValueError, match="hidden is -1; it must be at least 1"):
        MEMORIES["gru@hidden=-1"].make(WORLDS["ringworld"].make(), 8, jax.random.key(0))
    make = MEMORIES["s5_ptd@hidden=1"].make  # its state is a pair
    made = eqx.filter_eval_shape(lambda key: make(WORLDS["ringworld"].make(), 8, key), jax.random.key(0))
    assert made.out_size == 1


@pytest.mark.parametrize("world", ["ringworld", "tmaze", "repeat_previous@level=hard", "cheese.POMDP"])
def test_a_world_is_learned_with_the_settings_of_its_family(world, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(Folder, "create", lambda out, config, command: asked.append(config) or sys.exit(7))
    options = ("--world", world, "--epochs", "3", "--memory", "none")
    assert command("run", *options, capsys=capsys)[0] == 7
    assert command("run", f"--world={world}", *options[2:], capsys=capsys)[0] == 7
    settings = replace(ppo_of(world), epochs=3)
    assert asked == [with_discount_of_file(RunConfig(world, ("none",), ppo=settings))] * 2


def test_list_names_everything_that_can_be_chosen(capsys):
    code, out, _ = command("list", capsys=capsys)
    assert code == 0
    for name in ("ringworld", "deep_alf", "s5", "ppo", "arXiv:2208.04933"):
        assert name in out


def test_analyse_reads_a_world_or_a_file_and_refuses_what_is_neither(tmp_path, capsys):
    code, out, _ = command("analyse", "ringworld", capsys=capsys)
    assert code == 0 and "nearly deterministic" in out and "adaptive" in out
    two_state = {
        "transition": [[0.1, 0.9], [0.9, 0.1]],
        "emission": [[0.9, 0.1], [0.1, 0.9]],
        "initial": [1, 0],
    }
    np.savez(tmp_path / "model.npz", **two_state)
    code, out, _ = command("analyse", str(tmp_path / "model.npz"), capsys=capsys)
    assert code == 0 and "0.7206" in out  # the known exponent
    (tmp_path / "broken.npz").write_text("no arrays")
    for wrong in (str(tmp_path / "broken.npz"), "/nowhere.npz", "probe_delay", "ringwrld"):
        assert command("analyse", wrong, capsys=capsys)[0] == 2


def spoilt_files():
    """Every way in which a .npz file can be none."""
    whole, single = io.BytesIO(), io.BytesIO()
    np.savez_compressed(whole, transition=np.random.default_rng(0).normal(size=(20, 20)))
    np.save(single, np.eye(2))
    data = whole.getvalue()
    middle = len(data) // 2
    other = data[:middle] + bytes(byte ^ 255 for byte in data[middle : middle + 9]) + data[middle + 9 :]
    return {"empty": b"", "cut off": data[:middle], "one array": single.getvalue(), "other bytes": other}


@pytest.mark.parametrize("content", spoilt_files().values(), ids=spoilt_files())
def test_a_spoilt_file_of_arrays_is_said_in_a_sentence(content, tmp_path, capsys):
    file = tmp_path / "model.npz"
    file.write_bytes(content)
    code, _, err = command("analyse", str(file), capsys=capsys)
    assert code == 2 and f"cannot read a model from {file}" in err
    with pytest.raises(ValueError, match=r"model\.npz holds no saved policy"):
        load_policy(file)


def test_report_renders_again_without_running(finished, capsys):
    (finished.path / "report.html").unlink(missing_ok=True)
    code, out, _ = command("report", str(finished.path), capsys=capsys)
    assert code == 0 and "belief" in out
    assert (finished.path / "report.html").stat().st_size > 10_000


def test_check_names_the_promises_that_an_outside_layer_breaks(tmp_path, monkeypatch, capsys):
    (tmp_path / "their_layers.py").write_text(
        "import jax.numpy as jnp\n"
        "from linmem import Trace\n"
        "class Good(Trace):\n    pass\n"
        "class Leaky(Trace):\n"
        "    def unroll(self, state, xs, starts):\n"
        "        return super().unroll(state, xs, jnp.zeros_like(starts))\n"
    )
    (tmp_path / "unfinished.py").write_text("class Layer(:\n")
    monkeypatch.chdir(tmp_path)
    assert command("check", "their_layers:Good", capsys=capsys)[0] == 0
    code, _, err = command("check", "unfinished:Layer", capsys=capsys)
    assert code == 2 and "cannot load 'unfinished:Layer' (invalid syntax" in err
    code, out, _ = command("check", "their_layers:Leaky", capsys=capsys)
    assert code == 1
    assert re.search(r"broken nothing crosses a start", out) and re.search(r"kept +many are one by one", out)


def test_a_run_from_the_command_line_ends_with_a_table_and_a_report(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "linmem",
            "run",
            "--memory",
            "none",
            "--seeds",
            "1",
            "--steps",
            "100",
            "--out",
            tmp_path,
            "--actors",
            "8",
            "--unroll",
            "10",
            "--evaluation-actors",
            "2",
            "--evaluation-steps",
            "20",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "none: update 2/2" in done.stdout and "report: " in done.stdout
    assert list(tmp_path.glob("ringworld-*/report.html"))


def test_a_reader_that_leaves_ends_the_command_without_a_traceback():
    command = [sys.executable, "-m", "linmem", "run", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


@pytest.mark.parametrize("page", ["README.md", "docs/pomdps.md"])
def test_what_a_page_shows_in_python_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for code in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
        (tmp_path / "shown.py").write_text(code)
        runpy.run_path("shown.py")
        assert capsys.readouterr().out.strip()

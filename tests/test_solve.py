"""`linmem solve`, `linmem bench solve`, and problem files in the other commands."""

import hashlib
import json

import numpy as np
import pytest

from linmem.cli import main
from linmem.experiments.config import RunConfig, with_discount_of_file
from linmem.experiments.solve import load_policy
from linmem.experiments.store import Folder, FolderError
from test_survival import full_disk


def exit_code(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(each) for each in arguments])
    return int(stopped.value.code or 0)


def test_solve_prints_both_bounds_and_saves_a_policy_that_loads_without_code(tmp_path, capsys):
    saved = tmp_path / "new" / "tiger.npz"
    assert exit_code("solve", "tiger.POMDP", "--gap", "1e-4", "--save", saved) == 0
    assert "lower 19.37" in capsys.readouterr().out
    policy = load_policy(saved)
    assert policy.act(np.array([0.5, 0.5])) == 0 and policy.act(np.array([0.99, 0.01])) == 2
    with np.load(saved) as file:
        assert file["lower"] <= 19.3714 <= file["upper"] + 1e-4
        assert policy.value(file["initial"]) == pytest.approx(file["lower"])


@pytest.mark.parametrize("target", [".", "a_file/tiger.npz"])
def test_a_target_that_cannot_be_written_is_said_before_anything_is_solved(target, tmp_path, capsys):
    (tmp_path / "a_file").write_text("")
    assert exit_code("solve", "tiger.POMDP", "--save", tmp_path / target) == 2
    told = capsys.readouterr()
    assert f"linmem: cannot read or write {tmp_path}" in told.err and "states" not in told.out
    assert [path.name for path in tmp_path.iterdir()] == ["a_file"]


def test_a_full_disk_is_said_in_a_sentence_and_the_policy_that_was_there_stays(tmp_path, capsys):
    saved = tmp_path / "tiger.npz"
    saved.write_bytes(b"the policy of before")
    with full_disk(100):
        assert exit_code("solve", "tiger.POMDP", "--save", saved) == 2
    assert f"linmem: cannot read or write {saved} (File too large)" in capsys.readouterr().err
    assert saved.read_bytes() == b"the policy of before" and len(list(tmp_path.iterdir())) == 1


def test_solve_stops_when_the_time_is_over(capsys):
    assert exit_code("solve", "network.POMDP", "--gap", "0", "--time", "0.3") == 0
    assert "gap" in capsys.readouterr().out


def test_a_problem_that_is_not_there_is_told_in_one_line(capsys):
    assert exit_code("solve", "nowhere.POMDP") == 2
    assert "shipped problems: 1d.POMDP" in capsys.readouterr().err


def test_bench_solve_compares_and_goes_on_from_what_was_recorded(tmp_path):
    rows, record = tmp_path / "rows.json", tmp_path / "record.jsonl"
    options = ("--only", "1d.POMDP", "tmaze-5.POMDP", "--record", record, "--json", rows)
    assert exit_code("bench", "solve", *options) == 0
    first = json.loads(rows.read_text())
    assert len(first["rows"]) == 2 and all(target["holds"] for target in first["targets"])
    assert exit_code("bench", "solve", *options) == 0
    assert json.loads(rows.read_text()) == first and len(record.read_text().splitlines()) == 2


def test_a_bound_that_contradicts_the_reference_misses_the_target(tmp_path):
    record = tmp_path / "record.jsonl"
    options = ("--only", "tmaze-5.POMDP", "--record", record)
    assert exit_code("bench", "solve", *options) == 0
    wrong = json.loads(record.read_text()) | {"overlap": False}
    record.write_text(json.dumps(wrong) + "\n")
    assert exit_code("bench", "solve", *options) == 1


def test_analyse_takes_a_problem_file(capsys):
    assert exit_code("analyse", "tmaze-5.POMDP") == 0
    assert "15 states, 5 observations, 4 actions" in capsys.readouterr().out


def test_agents_that_learn_a_problem_file_discount_as_it_says():
    config = with_discount_of_file(RunConfig(world="tiger-75.POMDP"))
    assert config.ppo.discount == 0.75
    assert config.folder_name().startswith("tiger-75.POMDP-")
    assert with_discount_of_file(RunConfig()) == RunConfig()


def test_a_problem_file_with_another_content_gets_a_folder_of_its_own_and_the_old_one_is_refused(tmp_path):
    file = tmp_path / "small.POMDP"
    file.write_text("discount: 0.5")
    config = RunConfig(world=str(file))
    folder = Folder.create(tmp_path, config, "a test")
    assert folder.config() == config
    file.write_text("discount: 0.6")
    assert config.folder_name() != folder.path.name
    with pytest.raises(
        FolderError, match=r"small.POMDP' is not the file that .* was made with; put that one"
    ):
        folder.config()
    file.write_text("discount: 0.5")
    assert config.folder_name() == folder.path.name and folder.config() == config


@pytest.mark.parametrize("world", ["ringworld", "tiger-75.POMDP"])
def test_where_no_file_can_change_the_settings_alone_name_the_folder(world):
    config = RunConfig(world=world)
    settings = json.dumps(config.as_dict(), sort_keys=True)
    assert config.folder_name() == f"{world}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"

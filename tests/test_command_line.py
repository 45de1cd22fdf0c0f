"""What is typed wrong, interrupted, or too large is said in a sentence, before time is lost."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from linmem import AGENTS, MEMORIES, AbstractLinearMemory, Inputs, RingWorld, RunConfig
from linmem.agents import ppo
from linmem.core.registry import Entry
from linmem.evidence import rtf
from linmem.evidence.conclude import Evidence, conclude
from linmem.experiments import run as runs
from linmem.experiments.store import Folder
from linmem.memories import DeltaNet
from linmem.planning import PointBasedSolver
from linmem.reports.tables import Table, to_rich
from linmem.worlds import SparsePOMDP, read_model
from test_run import TINY, command


def test_the_agent_that_is_named_is_the_one_that_learns(monkeypatch, tmp_path):
    def refuse(*_):
        raise RuntimeError("asked to learn")

    spy = SimpleNamespace(lower_init=ppo.lower_init, compile_train=refuse, INIT_OPTIONS=ppo.INIT_OPTIONS)
    monkeypatch.setitem(AGENTS._entries, "spy", Entry("spy", spy, "learns nothing", "this test"))
    config = RunConfig(**{**TINY.__dict__, "memory": ("none",), "agent": "spy"})
    with pytest.raises(RuntimeError, match="asked to learn"):
        list(runs.run(config, Folder.create(tmp_path, config, "a test")))


def test_ctrl_c_ends_any_command_with_a_sentence():
    code = (
        "from linmem import cli; from linmem.evidence import rtf\n"
        "def interrupted(repeats: int = 1) -> int: raise KeyboardInterrupt\n"
        "rtf.main = interrupted; cli.main(['reproduce', 'rtf'])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stderr == "linmem: interrupted; where rows are kept, the same command goes on\n"


@pytest.mark.parametrize(
    "error", [MemoryError("8 TB"), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 8 TB")]
)
def test_too_little_memory_is_said_in_a_sentence(error, monkeypatch, capsys):
    def main(json: Path | None = None) -> int:
        raise error

    monkeypatch.setattr(rtf, "main", main)
    code, _, err = command("reproduce", "rtf", capsys=capsys)
    assert code == 2 and err.startswith("linmem: more memory is needed than there is (")
    assert "8 TB" in err and "smaller sizes" in err


def test_a_file_that_cannot_be_written_is_refused_before_the_work(monkeypatch, capsys, tmp_path):
    def main(json: Path | None = None) -> int:
        pytest.fail("worked")

    monkeypatch.setattr(rtf, "main", main)
    code, _, err = command("reproduce", "rtf", "--json", str(tmp_path), capsys=capsys)
    assert code == 2 and "Is a directory" in err


def test_a_folder_that_another_process_holds_is_not_discarded(tmp_path):
    folder = Folder.create(tmp_path, TINY, "a test")
    with Folder(folder.path).lock():
        folder.discard_if_empty()
        assert folder.path.exists()
    folder.discard_if_empty()
    assert not folder.path.exists()


def test_what_is_written_for_other_programs_is_json_though_a_number_is_none(tmp_path):
    rows = [{"loss": float("nan"), "best": np.float64(1.0)}]
    conclude(Evidence("a test", rows, Table(("loss",), [(float("nan"),)]), []), tmp_path / "e.json")
    text = (tmp_path / "e.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["rows"] == [{"loss": None, "best": 1.0}]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    code = (
        "import sys; from pathlib import Path; from linmem.experiments.store import write_whole\n"
        "for i in range(300): write_whole(Path(sys.argv[1]), sys.argv[2].encode() * 10_000)"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, tmp_path / "file", text]) for text in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert (tmp_path / "file").read_text() in ("a" * 10_000, "b" * 10_000)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_cannot_be_made_leaves_no_folder_and_says_why(capsys, tmp_path):
    for arguments, message in (
        (("--world", "ringworld@positions=0"), "positions is 0"),
        (("--world", "repeat_first", "--memory", "belief"), "has no tables"),
        (("--world", "repeat_first", "--memory", "deep_alf_random"), "deep_alf_random@states=64"),
        (
            ("--world", "tiger.POMDP", "--discount", "0.5"),
            "--discount is 0.5, and tiger.POMDP has one of its own",
        ),
    ):
        code, _, err = command("run", *arguments, "--out", str(tmp_path), capsys=capsys)
        assert code == 2 and message in err
        assert list(tmp_path.iterdir()) == []


def test_a_run_without_results_is_reported_as_one(capsys, tmp_path):
    folder = Folder.create(tmp_path, TINY, "a test")
    code, out, _ = command("report", str(folder.path), capsys=capsys)
    assert code == 0 and "no memory is finished yet" in out


def test_a_narrow_terminal_cuts_no_number_off():
    table = Table(("memory", "steps/s"), [("deep_alf_random@states=64", 1234567)])
    console = Console(width=24)
    with console.capture() as shown:
        console.print(to_rich(table))
    letters = "".join(c for c in shown.get() if c.isalnum() or c in "@_=,")
    assert "…" not in shown.get()
    assert sorted(letters) == sorted("memorysteps" + "s" + "deep_alf_random@states=64" + "1,234,567")


def test_a_layer_that_is_not_whole_is_told_what_is_missing(monkeypatch, capsys, tmp_path):
    (tmp_path / "half_layer.py").write_text(
        "import linmem\nclass Half(linmem.AbstractMemory):\n    out_size: int\n    def init(self): return 0\n"
    )
    monkeypatch.chdir(tmp_path)
    code, _, err = command("check", "half_layer:Half", capsys=capsys)
    assert code == 2 and "does not define example, reference, step, unroll" in err


def test_a_layer_of_the_library_is_checked_by_its_name(capsys, monkeypatch):
    seen = []

    def promise(cls):
        seen.append(cls)

    monkeypatch.setattr("linmem.memories.promises.PROMISES", [promise])
    code, out, _ = command("check", "deltanet", capsys=capsys)
    assert (code, seen) == (0, [DeltaNet]) and "1 of 1 promises kept" in out
    code, _, err = command("check", "deltanett", capsys=capsys)
    assert code == 2 and "or one of" in err and "deltanet," in err


def test_a_memory_steps_on_plain_python_values():
    memory = MEMORIES["belief"].make(RingWorld(), 0, jax.random.key(0))
    assert isinstance(memory, AbstractLinearMemory)
    plain, arrays = Inputs(1, 2, 0.0), Inputs(jnp.array(1), jnp.array(2), jnp.array(0.0))
    _, one = memory.step(memory.init(), plain, True)
    _, other = memory.step(memory.init(), arrays, jnp.asarray(True))
    np.testing.assert_array_equal(one, other)


def test_a_problem_of_plain_arrays_is_that_of_its_file():
    tiger = read_model("tiger.POMDP")
    dense = tiger.dense()
    made = SparsePOMDP.from_arrays(
        dense.transition, dense.emission, dense.reward, dense.initial, dense.discount
    )
    for mine, theirs in zip(
        (*made.transition, *made.emission), (*tiger.transition, *tiger.emission), strict=True
    ):
        np.testing.assert_array_equal(mine.toarray(), theirs.toarray())
    np.testing.assert_allclose(made.expected_reward(), tiger.expected_reward())
    assert PointBasedSolver(made).bounds() == PointBasedSolver(tiger).bounds()
    with pytest.raises(ValueError, match=r"transition\[0\] row 1 sums to"):
        SparsePOMDP.from_arrays([[[1, 0], [0.5, 0.4]]], np.eye(2), np.zeros(2), [1, 0], 0.9)

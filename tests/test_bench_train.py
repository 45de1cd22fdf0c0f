import json

from linmem.evidence import bench_train


def test_any_memory_is_timed_on_any_world(tmp_path, capsys):
    assert bench_train.main(("window@length=2",), "parity@length=3", repeats=1, json=tmp_path / "rows") == 0
    (row,) = json.loads((tmp_path / "rows").read_text())["rows"]
    assert row["memory"] == "window@length=2" and row["steps_per_second"] > 0
    assert "window@length=2" in capsys.readouterr().out

"""A suite does all its jobs once, survives a killed worker and a job that cannot be, and its page tells what
is on the disk."""

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time

import numpy as np
import pytest

from linmem import records
from linmem.evidence import bench_memory
from linmem.experiments import run as runs
from linmem.experiments.settings import FAMILIES, OTHERS, ppo_of
from linmem.experiments.store import Folder
from linmem.experiments.suite import Suite, failure, is_done, progress, work
from linmem.measures.statistics import bootstrap_mean, interquartile_mean
from linmem.reports.suite import read_suite, suite_table, write_suite
from linmem.worlds import WORLDS
from test_run import command, learning

TINY = Suite(("parity@length=8",), ("none", "trace"), seeds=2, steps=4 * 64 * 128, memory_size=8)


def read(suite, root):
    names = [job.folder_name() for job in suite.jobs()]
    return read_suite(root, names, suite.worlds, suite.memories, suite.seeds)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder of a suite one of whose workers was killed while it worked, and the pid of that worker."""
    root = tmp_path_factory.mktemp("suite")
    jobs, reasons = TINY.jobs(), []
    thread = threading.Thread(target=lambda: reasons.append(work(jobs, root, "a test", workers=2)))
    thread.start()
    lock = root / jobs[1].folder_name() / "lock"
    while not (lock.exists() and lock.read_text()):
        assert thread.is_alive()
        time.sleep(0.01)
    pid = int(lock.read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    thread.join()
    assert reasons == [{}]
    return root, pid


def test_a_killed_worker_costs_no_job_and_changes_no_record(killed, tmp_path):
    root, pid = killed
    assert pid != os.getpid()
    for job in TINY.jobs():
        assert is_done(job, root)
    job = TINY.jobs()[1]
    alone = Folder.create(tmp_path, job, "a test")
    for _ in runs.run(job, alone):
        pass
    one = [r for r in learning(Folder(root / job.folder_name())) if r["event"] != "job"]
    assert one == learning(alone)


def test_what_is_done_is_not_done_again(killed):
    root, _ = killed
    before = {path: path.stat().st_mtime_ns for path in root.glob("*/records.jsonl")}
    assert len(before) == 4
    assert work(TINY.jobs(), root, "a test", workers=2) == {}
    assert {path: path.stat().st_mtime_ns for path in root.glob("*/records.jsonl")} == before


def test_a_job_that_cannot_be_is_told_and_the_others_are_done(tmp_path, killed):
    shutil.copytree(killed[0], tmp_path / "suite")
    more = Suite((*TINY.worlds, "tmaze"), ("belief", "none"), 1, 8192, 8)
    jobs = [job for job in more.jobs() if (job.world, job.memory[0]) != ("tmaze", "none")]
    reasons = work(jobs, tmp_path / "suite", "a test", workers=2)
    bad = next(job for job in jobs if job.world == "tmaze")
    assert list(reasons) == [bad.folder_name()]
    assert "has no tables" in reasons[bad.folder_name()]
    assert failure(bad, tmp_path / "suite") == reasons[bad.folder_name()]
    assert all(is_done(job, tmp_path / "suite") for job in jobs if job != bad)
    assert progress(bad, tmp_path / "suite") == 0 and progress(jobs[0], tmp_path / "suite") == 1
    results = read(more, tmp_path / "suite")
    assert list(results.failed) == ["tmaze, belief, seed 0"]
    page = write_suite(tmp_path / "p.html", "t", results, "c", "m").read_text()
    assert "Failed: tmaze, belief, seed 0: " in page and "2 of 4 runs are finished" in page


def test_scores_lie_on_the_scale_of_the_card(killed):
    results = read(TINY, killed[0])
    card = WORLDS["parity@length=8"].make().card()
    assert (card.attainable, card.memoryless) == (8, 1)
    assert len(results.jobs) == 4
    for job in results.jobs:
        (result,) = [
            r
            for config in TINY.jobs()
            if (config.memory[0], config.seed) == (job.memory, job.seed)
            for r in Folder(killed[0] / config.folder_name()).records()
            if r["event"] == "result"
        ]
        assert job.score == pytest.approx((result["returns"][0] - 1) / 7)
        assert job.episode_return == pytest.approx(8 * result["reward"][0], rel=1e-4)
        assert result["episodes"] == 256
    trace = [job.score for job in results.jobs if job.memory == "trace"]
    assert results.cell(TINY.worlds[0], "trace") == bootstrap_mean(trace)
    assert results.overall("trace") == interquartile_mean([trace])


def test_a_memory_with_a_run_missing_is_not_compared_over_worlds(killed, tmp_path):
    shutil.copytree(killed[0], tmp_path / "suite")
    shutil.rmtree(tmp_path / "suite" / TINY.jobs()[3].folder_name())  # seed 1 of trace
    results = read(TINY, tmp_path / "suite")
    assert results.complete() == ["none"]
    rows = {row[0]: row for row in suite_table(results).rows}
    assert rows["trace"][1] is None and rows["trace"][2] is not None


def test_records_of_a_suite_are_one_data_frame(killed):
    frame = records(killed[0])
    assert len(frame) == 4 * 4 and set(frame.memory) == {"none", "trace"} and set(frame.seed) == {0, 1}
    one = frame[(frame.memory == "trace") & (frame.seed == 1)]
    told = Folder(killed[0] / TINY.jobs()[3].folder_name()).records()
    np.testing.assert_array_equal(
        one.value_loss, [r["value_loss"][0] for r in told if r["event"] == "update"]
    )
    np.testing.assert_array_equal(one["update"], np.arange(1, 5))
    assert len(records(killed[0] / TINY.jobs()[0].folder_name())) == 4


def test_the_command_shows_the_table_and_writes_rows_and_the_page(killed, tmp_path, capsys):
    shutil.copytree(killed[0], tmp_path / "memory-quick")
    small = [
        "--worlds",
        *TINY.worlds,
        "--memories",
        *TINY.memories,
        "--seeds",
        "2",
        "--steps",
        str(TINY.steps),
    ]
    arguments = ["bench", "memory", *small, "--memory-size", "8", "--out", str(tmp_path)]
    code, out, _ = command(*arguments, "--json", str(tmp_path / "rows.json"), capsys=capsys)
    assert code == 0 and "3 of 3 targets hold" in out and "4 of 4" in out
    written = json.loads((tmp_path / "rows.json").read_text())
    assert len(written["rows"]) == 4 and written["rows"][0]["world"] == "parity@length=8"
    page = (tmp_path / "memory-quick" / "report.html").read_text()
    assert page.count("<img alt=") == 3 and "http://" not in page and "https://" not in page


def test_a_suite_that_cannot_be_compared_is_refused_before_anything_is_trained(capsys, tmp_path):
    for world, why in (("probe_delay", "has no card"), ("discounting_chain", "memory is worth nothing")):
        code, _, err = command("bench", "memory", "--worlds", world, "--out", str(tmp_path), capsys=capsys)
        assert code == 2 and why in err
    assert command("bench", "memory", "--suite", "quik", capsys=capsys)[2].startswith("linmem: unknown suite")
    assert not list(tmp_path.iterdir())


def test_a_queue_without_workers_is_refused(tmp_path):
    with pytest.raises(ValueError, match="workers is 0; at least 1 process must work"):
        work(TINY.jobs(), tmp_path, "a test", workers=0)


def test_ray_is_asked_for_in_a_sentence_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ImportError, match=r'pip install "linmem\[ray\]"'):
        work(TINY.jobs(), tmp_path, "a test", workers=2, ray="auto")


def test_the_suites_name_worlds_that_have_cards_and_quick_is_within_full():
    for suite in bench_memory.SUITES.values():
        assert len(suite.jobs()) == len(suite.worlds) * len(suite.memories) * suite.seeds
    quick, full = bench_memory.SUITES["quick"], bench_memory.SUITES["full"]
    assert set(quick.worlds) < set(full.worlds) and set(quick.memories) < set(full.memories)


def test_every_world_of_a_family_is_registered_and_belongs_to_one_only():
    named = [world for family in FAMILIES for world in family.worlds]
    assert len(named) == len(set(named)) and set(named) <= set(WORLDS.names())
    assert ppo_of("parity@length=3") is ppo_of("parity") is not OTHERS and ppo_of("probe_delay") is OTHERS


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def test_the_page_works_in_a_browser_where_there_is_one(killed, tmp_path):
    page = write_suite(tmp_path / "suite.html", "A suite", read(TINY, killed[0]), "linmem bench memory", "m")
    if BROWSER is None:
        return  # the promises of the file itself are tested above
    # A frame as wide as a phone: nothing but tables scrolls sideways; a click sorts the table.
    probe = tmp_path / "probe.html"
    script = """
      const th = document.querySelectorAll('th button')[1]; th.click(); th.click();
      const rows = [...document.querySelectorAll('tbody')[0].rows].map(r => r.cells[0].textContent);
      const broken = [...document.images].filter(i => !(i.complete && i.naturalWidth > 0)).length;
      document.title = JSON.stringify([document.documentElement.scrollWidth, innerWidth, rows, broken,
        document.images.length, th.parentNode.getAttribute('aria-sort')]);
    """
    source = page.read_text()
    source = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", source)
    probe.write_text(
        source.replace("</body>", f"<script>addEventListener('load', () => {{{script}}})</script></body>")
    )
    shown = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,900", "--dump-dom",
         f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=3000", probe.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    wide, window, rows, broken, images, sort = json.loads(
        re.search(r"<title>(.*?)</title>", shown).group(1).replace("&amp;", "&")
    )
    assert wide <= window and broken == 0 and images == 3
    table = suite_table(read(TINY, killed[0]))
    by_score = sorted(table.rows, key=lambda row: row[1].mean)
    assert (sort, rows) == ("ascending", [row[0] for row in by_score])

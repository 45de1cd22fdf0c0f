"""A run folder, whole, interrupted or hostile, becomes a table, pictures and a page that tell the truth."""

import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from linmem.measures.statistics import Interval
from linmem.reports import (
    Section,
    Table,
    episode,
    final_rewards,
    learning_curves,
    read_run,
    show,
    summary,
    summary_table,
    theory,
    to_html,
    to_rich,
    write_page,
    write_report,
)

REWARDS = {"belief": [0.58, 0.57, 0.59], "s5": [0.50, 0.52, 0.54], "none": [0.08, 0.10, 0.06]}
UPDATES, STEPS, STATES = 5, 30, 4


def write_run(folder, finished=tuple(REWARDS), name="ring", rename=str, config=None, tables=True):
    """A synthetic run folder; memories not in `finished` stop after two updates, as if interrupted."""
    rng = np.random.default_rng(0)
    (folder / "episodes").mkdir(parents=True)
    settings = {
        "name": name,
        "config": {
            "world": {"name": "ringworld"},
            "memory": [rename(memory) for memory in REWARDS],
            **(config or {}),
        },
        "versions": {"jax": "0.10.2"},
        "machine": {"platform": "Linux", "cpu": "some cpu", "cores": 2},
        "created": "2026-01-01T10:00:00",
        "command": "linmem run --world ringworld",
    }
    (folder / "config.json").write_text(json.dumps(settings))
    records = []
    for memory, reward in REWARDS.items():
        for update in range(1, (UPDATES if memory in finished else 2) + 1):
            curve = [value * update / UPDATES for value in reward]
            records.append(update_record(rename(memory), update, curve))
        if memory in finished:
            result = {"reward": reward, "decoding_error": [0.1, 0.2, 0.3], "total_variation": [0.2, 0.2, 0.2]}
            if not tables:
                result |= {"decoding_error": None, "total_variation": None}
            result |= {"steps_per_second": 12345.6, "compile_seconds": 3.0, "parameters": 4321}
            records.append({"event": "result", "memory": rename(memory), **result})
        if tables:
            belief = rng.dirichlet(np.ones(STATES), STEPS)
            np.savez(
                folder / "episodes" / f"{rename(memory)}.npz",
                hidden=rng.integers(0, STATES, STEPS),
                belief=belief,
                decoded=np.roll(belief, 1, axis=1),
                reward=np.zeros(STEPS),
                action=np.zeros(STEPS, int),
            )
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def update_record(memory, update, reward):
    return {"event": "update", "memory": memory, "update": update, "steps": 100 * update, "reward": reward}


def printed(table):
    """What the terminal shows."""
    terminal = io.StringIO()
    Console(width=300, file=terminal).print(to_rich(table))
    return terminal.getvalue()


class Page(HTMLParser):
    """The tags, with their attributes, and the visible text of a page."""

    def __init__(self, path):
        super().__init__()
        self.source, self.tags, self.text = path.read_text(encoding="utf-8"), [], ""
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


# Reading


def test_a_folder_without_config_is_not_called_a_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json; is it a run folder\?"):
        read_run(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"config": 3}'])
def test_a_broken_config_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json"):
        read_run(tmp_path)


@pytest.mark.parametrize("rest", ['{"event": "upd', '{"event": "result"}', "7", "\xff\xfe"])
def test_a_half_written_line_is_ignored_and_told(tmp_path, rest):
    folder = write_run(tmp_path / "run")
    whole = read_run(folder)
    with open(folder / "records.jsonl", "ab") as file:
        file.write(rest.encode("latin-1"))
    run = read_run(folder)
    assert (run.updates, run.results) == (whole.updates, whole.results)
    assert re.search(r"Line 19 .* ignored", *run.notes) and not whole.notes
    assert run.notes[0] in Page(write_report(folder)).text


def test_updates_repeated_after_a_resume_replace_the_earlier_ones(tmp_path):
    folder = write_run(tmp_path / "run")
    with open(folder / "records.jsonl", "a") as file:
        file.write(json.dumps(update_record("s5", 4, [9.0, 9.0, 9.0])) + "\n")
    history = read_run(folder).updates["s5"]
    assert [record["update"] for record in history] == [1, 2, 3, 4]
    assert history[-1]["reward"] == [9.0, 9.0, 9.0]


def test_an_episode_with_pickled_objects_is_refused(tmp_path):
    folder = write_run(tmp_path / "run")
    path = folder / "episodes" / "s5.npz"
    arrays = dict(np.load(path)) | {"hidden": np.array([{"an": "object"}] * STEPS, dtype=object)}
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=r"s5\.npz is not an episode file"):
        read_run(folder)


def test_an_episode_whose_arrays_disagree_is_refused(tmp_path):
    folder = write_run(tmp_path / "run")
    path = folder / "episodes" / "s5.npz"
    np.savez(path, **dict(np.load(path)) | {"hidden": np.zeros(STEPS + 1, int)})
    with pytest.raises(ValueError, match=r"s5\.npz: hidden has shape \(31,\); expected \(30,\)"):
        read_run(folder)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off"])
def test_a_cut_off_episode_file_is_named(tmp_path, content):
    folder = write_run(tmp_path / "run")
    (folder / "episodes" / "s5.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"s5\.npz is not an episode file"):
        read_run(folder)


# Tables


def test_the_summary_holds_the_numbers_of_the_records(tmp_path):
    rows = {row.memory: row for row in summary(read_run(write_run(tmp_path / "run")))}
    assert list(rows) == list(REWARDS)
    for memory, rewards in REWARDS.items():
        row = rows[memory]
        assert row.reward.mean == pytest.approx(sum(rewards) / 3)
        # Three distinct equally spaced seeds: a resample is all-lowest with probability 1/27 > 2.5%.
        assert row.reward[1:] == pytest.approx((min(rewards), max(rewards)))
        assert row.decoding_error.mean == pytest.approx(0.2)
        assert row.total_variation == pytest.approx((0.2, 0.2, 0.2))
        assert (row.steps_per_second, row.parameters) == (12345.6, 4321)
    assert rows["s5"].recovered.mean == pytest.approx((0.52 - 0.08) / (0.58 - 0.08))
    assert rows["s5"].recovered.low < 0.88 < rows["s5"].recovered.high
    assert rows["belief"].recovered == (1, 1, 1) and rows["none"].recovered == (0, 0, 0)


def test_recovered_is_of_returns_where_episodes_may_end_early(tmp_path):
    run = read_run(write_run(tmp_path / "run"))
    for memory, returns in (("belief", 1.0), ("s5", 0.75), ("none", 0.0)):
        run.results[memory]["returns"] = [returns] * 3
    rows = {row.memory: row for row in summary(run)}
    assert rows["s5"].recovered.mean == pytest.approx(0.75) and rows["s5"].returns.mean == 0.75


def test_recovered_is_unknown_without_both_references(tmp_path):
    rows = summary(read_run(write_run(tmp_path / "run", finished=("belief", "s5"))))
    assert [row.recovered for row in rows] == [None, None]


def test_a_world_without_tables_has_no_belief_columns_to_show(tmp_path):
    folder = write_run(tmp_path / "run", tables=False)
    rows = summary(read_run(folder))
    assert all(row.decoding_error is None and row.total_variation is None for row in rows)
    page = Page(write_report(folder))
    assert "One episode" not in page.text and len(page.all("img")) == 2


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        (None, ("-", "")),
        ("s5", ("s5", "")),
        (4321, ("4,321", "")),
        (np.int32(4321), ("4,321", "")),
        (0.01234, ("0.0123", "")),
        (np.float32(12345.6), ("12,346", "")),
        (float("nan"), ("-", "")),
        (Interval(0.5, 0.4, 0.6), ("0.500", "[0.400, 0.600]")),
        (Interval(-0.0001, -1, 1), ("0.000", "[-1.000, 1.000]")),
        (Interval(0.5, np.nan, np.nan), ("0.500", "[-]")),
        (Interval(0.5, -np.inf, np.inf), ("0.500", "[-∞, ∞]")),
    ],
)
def test_every_kind_of_cell_is_shown_in_one_way(cell, shown):
    assert show(cell) == shown


def test_terminal_and_page_show_the_same_cells(tmp_path):
    table = summary_table(summary(read_run(write_run(tmp_path / "run"))))
    terminal, page = printed(table), to_html(table)
    for cell in (cell for row in table.rows for cell in row):
        value, interval = show(cell, table.places)
        assert value in terminal and value in page and interval in terminal and interval in page


def test_decimals_are_the_tables_choice():
    table = Table(["decoder", "error"], [["alf", Interval(0.0175, 0.0166, 0.0184)]], places=4)
    assert "0.0175 <small>[0.0166, 0.0184]</small>" in to_html(table)


# The page


def test_the_report_loads_nothing_and_describes_every_picture(tmp_path):
    page = Page(write_report(write_run(tmp_path / "run")))
    images = page.all("img")
    assert len(images) == 3
    for image in images:
        assert image["src"].startswith("data:image/svg+xml;base64,")
        assert "s5" in image["alt"] and re.search(r"\d", image["alt"])
    assert not page.all("link") and not any("src" in script for script in page.all("script"))
    assert "http://" not in page.source and "https://" not in page.source
    assert "default-src 'none'" in page.source


def test_the_report_says_what_was_run_and_how_to_repeat_it(tmp_path):
    folder = write_run(tmp_path / "run", config={"discount": 0.987})
    text = Page(write_report(folder)).text
    for words in (
        "trained on ringworld: belief, s5 and none.",
        "from 3 random seeds, for up to 500 environment steps",
        "linmem run --world ringworld",
        '"discount": 0.987',
        '"jax": "0.10.2"',
        "cores 2",
    ):
        assert words in text
    assert "not finished" not in text
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_the_words_beside_the_pictures_carry_their_numbers(tmp_path):
    run = read_run(write_run(tmp_path / "run"))
    assert "s5 goes from 0.104 to 0.520 in 500 steps" in learning_curves(run, {"optimal": 0.6}).alt
    assert "optimal lies at 0.600" in learning_curves(run, {"optimal": 0.6}).alt
    assert re.search(r"belief 0\.580 .*s5 0\.520 .*none 0\.080", final_rewards(run).alt)
    one = run.episodes["s5"]
    wrong = np.mean(one.decoded[:20].argmax(1) != one.hidden[:20])
    exact = np.mean(one.belief[:20].argmax(1) != one.hidden[:20])
    assert f"s5 {wrong:.0%} (exact belief {exact:.0%})" in episode(run, steps=20).alt


@pytest.mark.parametrize(
    ("finished", "sentence"),
    [
        (("belief",), "no final result yet for s5 and none."),
        ((), "no final result yet for belief, s5 and none."),
    ],
)
def test_an_interrupted_run_renders_and_names_what_is_missing(tmp_path, finished, sentence):
    page = Page(write_report(write_run(tmp_path / "run", finished=finished)))
    assert sentence in page.text
    assert len(page.all("table")) == len(finished)


def test_a_run_that_recorded_nothing_still_renders(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "records.jsonl").unlink()
    page = Page(write_report(folder))
    assert "nothing had been recorded" in page.text and not page.all("table")


def test_names_from_a_run_cannot_become_markup(tmp_path):
    evil = "<img src=x onerror=alert(1)>\"'&$\\frac[bold]"
    folder = write_run(
        tmp_path / "run", name=evil, rename=lambda memory: memory + evil, config={"world": evil, evil: evil}
    )
    path = write_report(folder)
    page = Page(path)
    assert all("onerror" not in attributes for attributes in page.all("img"))
    assert len(page.all("script")) == 1 and evil in page.text
    assert "s5" + evil in printed(summary_table(summary(read_run(folder))))


def test_a_failed_write_leaves_the_old_page_and_no_draft(tmp_path, monkeypatch):
    path = write_page(tmp_path / "page.html", "old", [])
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_page(path, "new", [])
    assert "old" in path.read_text() and list(tmp_path.iterdir()) == [path]


def test_the_same_run_gives_the_same_bytes(tmp_path):
    folder = write_run(tmp_path / "run")
    assert write_report(folder).read_bytes() == write_report(folder).read_bytes()


def test_a_figure_without_words_is_refused(tmp_path):
    figure, _ = final_rewards(read_run(write_run(tmp_path / "run")))
    with pytest.raises(ValueError, match="say in words"):
        Section("Learning", "text", figure=figure)


def test_a_page_of_ones_own_is_made_from_the_same_pieces(tmp_path):
    run = read_run(write_run(tmp_path / "run"))
    table = Table(["decoder", "error"], [["alf", 0.02]])
    sections = [
        Section("Numbers", "First.\n\nSecond.", table),
        Section("Picture", "Look.", None, *learning_curves(run)),
        Section("Fine print", "", fold="a < b"),
    ]
    page = Page(write_page(tmp_path / "own.html", "My page", sections))
    assert [len(page.all(tag)) for tag in ("h2", "table", "img", "details")] == [3, 1, 1, 1]
    assert "a < b" in page.text and "First.Second." in page.text


# --- snapshots ----------------------------------------------------------------------------------------------


def snapshot_record(update, distance, angle=0.25):
    modes = 0.9 * np.exp(1j * np.array([[0.0, 1.0, 2.0]]))
    spectrum = {"real": modes.real.tolist(), "imaginary": modes.imag.tolist()}
    return {
        "event": "snapshot",
        "memory": "s5",
        "update": update,
        "steps": 100 * update,
        "decoding_error": [0.3, 0.3, 0.4],
        "bayes_error": [0.2, 0.2, 0.2],
        "total_variation": [distance] * 3,
        "eigenvalues": [spectrum] * 3,
        "theory": spectrum,
        "recommended_delta": 0.02,
        "angular_distance": [angle] * 3,
        "chance_distance": 0.5,
    }


def with_snapshots(folder, records):
    with (folder / "records.jsonl").open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    return read_run(folder)


def test_snapshots_are_shown_as_distance_modes_and_spectra(tmp_path):
    run = with_snapshots(write_run(tmp_path), [snapshot_record(0, 0.5), snapshot_record(5, 0.1)])
    assert theory.excess_error_of(run.snapshots["s5"][0]) == pytest.approx([0.1, 0.1, 0.2])
    assert theory.forgetting_of(run.snapshots["s5"][0]) == pytest.approx([0.1] * 3)
    page = write_report(tmp_path).read_text()
    for said in ("s5 from 0.500 to 0.100", "recommended 0.0200", "chance for s5 0.500", "s5 0.250 rad"):
        assert said in page


def test_a_snapshot_taken_again_after_an_interruption_replaces_the_first(tmp_path):
    run = with_snapshots(write_run(tmp_path), [snapshot_record(0, 0.5), snapshot_record(0, 0.4)])
    assert [record["total_variation"][0] for record in run.snapshots["s5"]] == [0.4]


def test_updates_in_which_nobody_acted_leave_a_long_runs_curve_as_it_is(tmp_path):
    updates = [{"steps": step, "reward": [0.5, None] if step % 2 else [None, 0.25]} for step in range(900)]
    run = replace(read_run(write_run(tmp_path)), updates={"s5": updates})
    line = learning_curves(run).figure.axes[0].lines[0]
    np.testing.assert_array_equal(line.get_ydata(), np.full(300, 0.375))


def test_without_snapshots_a_report_has_no_sections_for_them(tmp_path):
    page = write_report(write_run(tmp_path)).read_text()
    assert "Nearer to the belief" not in page and "Spectra" not in page

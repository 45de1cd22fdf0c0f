"""One web page in one file: no network, no second file, readable on a phone and without scripts."""

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from matplotlib.figure import Figure

from linmem.reports import figures, theory
from linmem.reports.records import Run, read_run
from linmem.reports.tables import Table, summary, summary_table, to_html


@dataclass(frozen=True)
class Section:
    """A piece of a page, in this order: heading, text, table, figure, and a fold that opens on a click."""

    heading: str
    text: str
    """Plain text; an empty line starts a new paragraph."""
    table: Table | None = None
    figure: Figure | None = None
    alt: str = ""
    """What the figure shows, in words with numbers; required with a figure."""
    fold: str = ""
    """Preformatted text for those who want to know, such as a configuration."""

    def __post_init__(self):
        if self.figure is not None and not self.alt:
            raise ValueError(f"section {self.heading!r} has a figure without alt; say in words what it shows")


def write_report(run_dir: str | Path) -> Path:
    """Write `report.html` into a run folder, finished or not, and return its path."""
    run = read_run(run_dir)
    return write_page(Path(run_dir) / "report.html", run.name, report_sections(run))


def report_sections(run: Run) -> list[Section]:
    """The sections of a run's report; those the run has no data for are left out."""
    rows = summary(run)
    sections = [Section("What was run", _what_was_run(run))]
    if rows:
        sections += [
            Section("Results", _HOW_TO_READ["table"], summary_table(rows)),
            Section("Final reward", _HOW_TO_READ["final"], None, *figures.final_rewards(run)),
        ]
    if run.updates:
        sections.append(Section("Learning", _HOW_TO_READ["learning"], None, *figures.learning_curves(run)))
    if run.snapshots:
        sections.append(Section("Nearer to the belief", _HOW_TO_READ["nearer"], None, *theory.nearer(run)))
    if theory.with_spectrum(run):
        sections.append(Section("Learned modes", _HOW_TO_READ["modes"], None, *theory.modes(run)))
        sections.append(Section("Spectra", _HOW_TO_READ["spectra"], None, *theory.spectra(run)))
    if any(memory in run.episodes for memory in run.memories):
        sections.append(Section("One episode", _HOW_TO_READ["episode"], None, *figures.episode(run)))
    return [*sections, Section("How to repeat it", *_how_to_repeat(run))]


def write_page(path: str | Path, title: str, sections: Sequence[Section]) -> Path:
    """Write one self-contained page; a reader never meets it half-written."""
    path = Path(path)
    body = "\n".join(map(_section, sections))
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_text(_PAGE.format(title=escape(title), body=body, **_ASSETS), encoding="utf-8")
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def _what_was_run(run: Run) -> str:
    world = run.config.get("world", "an unnamed world")
    world = world.get("name", "an unnamed world") if isinstance(world, dict) else world
    text = f"Agents that differ only in their memory were trained on {world}: {_join(run.memories)}."
    seeds = {len(record["reward"]) for history in run.updates.values() for record in history[-1:]}
    steps = max((history[-1]["steps"] for history in run.updates.values()), default=0)
    if steps and len(seeds) == 1:
        (count,) = seeds
        trained = f"trained from {count} random seed{'s' * (count != 1)}"
        text += f" Each was {trained}, for up to {steps:,} environment steps."
    if run.unfinished:
        text += f"\n\nThis run is not finished: no final result yet for {_join(run.unfinished)}."
    return "\n\n".join([text, *run.notes])


def _how_to_repeat(run: Run) -> tuple[str, None, None, str, str]:
    command = run.provenance.get("command", "")
    machine = ", ".join(f"{key} {value}" for key, value in run.provenance.get("machine", {}).items())
    lines = {"Command": command, "Machine": machine, "Started": run.provenance.get("created", "")}
    text = "\n\n".join(f"{name}: {value}" for name, value in lines.items() if value)
    everything = {"config": run.config, **run.provenance}
    return text, None, None, "", json.dumps(everything, indent=2, ensure_ascii=False)


def _join(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]])) or "none"


def _section(section: Section) -> str:
    text = "".join(f"<p>{escape(part)}</p>" for part in section.text.split("\n\n") if part.strip())
    parts = [f"<section><h2>{escape(section.heading)}</h2>"]
    if section.figure is None:
        parts.append(text)
    if section.table is not None:
        parts.append(f'<div class="scroll">{to_html(section.table)}</div>')
    if section.figure is not None:
        source = figures.data_uri(section.figure)
        parts.append(
            f"<figure><figcaption>{text}</figcaption>"
            f'<img alt="{escape(section.alt)}" src="{source}"></figure>'
        )
    if section.fold:
        parts.append(f"<details><summary>Every detail</summary><pre>{escape(section.fold)}</pre></details>")
    return "\n".join([*parts, "</section>"])


_HOW_TO_READ = {
    "table": (
        "Reward is the mean reward per step of an episode, after training; return is that of whole episodes, "
        "by which recovered is counted where it is known. Recovered is the share of "
        "the gain from no memory (none, 0 by definition) to the exact belief (belief, 1 by definition) "
        "that a memory earns. Decoding error is the fraction of steps at which the state a memory finds "
        "most likely is not the true one. Belief distance is the total variation between decoded and "
        "exact belief: 0 is equal, 1 is disjoint."
        "\n\nBrackets hold 95% bootstrap intervals over seeds. Few seeds make them too narrow: on "
        "bell-shaped data they hold the truth in about 80% of cases with 4 seeds, 90% with 8. A dash "
        "means unknown."
    ),
    "final": (
        "Large dot: mean over seeds. Bar: its 95% bootstrap interval. Small dots: the seeds themselves."
    ),
    "learning": (
        "Line: mean over seeds of the reward per step while training, exploration included. Band: from "
        "the lowest to the highest seed."
    ),
    "nearer": (
        "While each agent learned, a linear read-out of its memory was fitted to the exact belief on some "
        "episodes and measured on others. Top: their total variation, 0 equal and 1 disjoint. Bottom: how "
        "much more often the most probable state is wrong than with the exact belief in the same episodes. "
        "Line: mean over seeds; band: lowest to highest."
    ),
    "modes": (
        "A linear memory turns and shrinks each of its modes at every step. Top: the share that a mode "
        "forgets per step (median over modes), with the forgetting rate that the theory recommends for this "
        "world. Bottom: mean angle between the modes' turns and those of the exact filter, paired one to "
        "one; for the ring these are roots of unity. Dotted: what random turns would give for as many modes."
    ),
    "spectra": (
        "Eigenvalues at the end, one colour per seed, for the first action; crosses: the exact filter's "
        "modes on the unit circle. A memory that turns with the world lies on rays through the crosses."
    ),
    "episode": (
        "Each column is one step, each row of squares one hidden state; darker is more probable, and "
        "orange dots are the true state. A good memory is dark under the dots. Each agent acts for "
        "itself, so each memory is shown in an episode of its own; the exact belief on top belongs to "
        "the episode just below it. Titles give the share of the steps shown at which the most likely "
        "state is wrong, and in brackets the same for the exact belief in that episode, which nothing "
        "can beat on average."
    ),
}

_STYLE = """
:root { color-scheme: light dark; font: 17px/1.5 system-ui, sans-serif }
body { max-width: 46rem; margin: 0 auto; padding: 1rem }
h1, h2 { line-height: 1.2; overflow-wrap: anywhere }
h2 { margin-top: 2.5rem }
p { overflow-wrap: anywhere }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums }
th, td { padding: .4rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #8884 }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: Canvas }
td:first-child { font-weight: 600 }
th { vertical-align: bottom }
th button { all: unset; cursor: pointer }
th button:focus-visible { outline: 2px solid }
th[aria-sort=ascending] button::after { content: " \\2191" }
th[aria-sort=descending] button::after { content: " \\2193" }
td small { opacity: .7; display: block }
figure { margin: 0 }
figcaption p { margin-top: 0 }
img { width: 100%; height: auto; background: white; border-radius: .5rem }
pre { overflow-x: auto; font-size: .8rem }
"""

_SCRIPT = """
for (const th of document.querySelectorAll("th")) {
  const button = document.createElement("button");
  button.append(...th.childNodes);
  th.append(button);
  button.onclick = () => {
    const up = th.getAttribute("aria-sort") === "descending";
    const body = th.closest("table").tBodies[0];
    const key = row => row.cells[th.cellIndex].dataset.key;
    const known = row => key(row) !== "" && key(row) !== "nan";
    const compare = (a, b) => key(a) - key(b) || key(a).localeCompare(key(b));
    const order = (a, b) => known(b) - known(a) || (up ? compare(a, b) : compare(b, a));
    body.append(...[...body.rows].sort(order));
    for (const other of th.parentNode.cells) other.removeAttribute("aria-sort");
    th.setAttribute("aria-sort", up ? "ascending" : "descending");
  };
}
"""

# The policy lets the page load nothing and run only the script above, even if an escape were forgotten.
_ASSETS = {
    "style": _STYLE,
    "script": _SCRIPT,
    "script_hash": base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode(),
}

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{script_hash}'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{body}
<script>{script}</script>
</body>
</html>
"""

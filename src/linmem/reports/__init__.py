"""From a run folder on disk to tables, figures and one HTML page; nothing here trains or computes anew."""

from linmem.reports import theory
from linmem.reports.figures import Picture, episode, final_rewards, learning_curves
from linmem.reports.html import Section, write_page, write_report
from linmem.reports.records import Episode, Run, read_run, records
from linmem.reports.tables import Row, Table, show, summary, summary_table, to_html, to_rich

__all__ = [
    "Episode",
    "Picture",
    "Row",
    "Run",
    "Section",
    "Table",
    "episode",
    "final_rewards",
    "learning_curves",
    "read_run",
    "records",
    "show",
    "summary",
    "summary_table",
    "theory",
    "to_html",
    "to_rich",
    "write_page",
    "write_report",
]

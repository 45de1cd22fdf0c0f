"""Names for the things a user can choose: worlds, memories, agents.

An entry is one line beside the folder it names (``memories/__init__.py`` and so on). The command line, the
conformance suite, the benchmarks and the documentation all read these entries, so a new file needs no second
list.
"""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


class UnknownName(KeyError):
    """A name that no registry entry has; its message lists the known ones."""

    def __str__(self) -> str:
        return self.args[0]


@dataclass(frozen=True)
class Entry:
    """One thing a user can choose: its name, how to make it, one line about it, and its source."""

    name: str
    make: Any  # a maker of worlds or memories; of an agent, the module of its functions
    summary: str
    source: str


class Registry:
    """Entries of one kind (``kind`` is the word used in messages), in the order they were added."""

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, Entry] = {}

    def add(self, name: str, make: Any, summary: str, source: str) -> None:
        if name in self._entries:
            raise ValueError(f"{self.kind} '{name}' is registered twice")
        self._entries[name] = Entry(name, make, summary, source)

    def __getitem__(self, name: str) -> Entry:
        if name not in self._entries:
            near = difflib.get_close_matches(name, self._entries, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise UnknownName(f"unknown {self.kind} '{name}'; {hint}known: {', '.join(self._entries)}")
        return self._entries[name]

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def names(self) -> list[str]:
        return list(self._entries)

"""Names for the things a user can choose: worlds, memories, agents.

An entry is one line beside the folder it names (``memories/__init__.py`` and so on). The command line, the
conformance suite, the benchmarks and the documentation all read these entries, so a new file needs no second
list.

A name may carry options, each after an @: ``ringworld@slip=other@goals=4,5`` or ``alf@delta=0.1``. They are
the maker's parameters that have a default, which also says what type a value has. So a choice is one string
wherever it goes: a command line, a configuration, a table's first column.
"""

import difflib
import functools
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
        """The entry of a name; the maker of a name with options is the entry's with these options set."""
        plain, *texts = name.split("@")
        if plain not in self._entries:
            raise UnknownName(f"unknown {self.kind} '{plain}'; {_hint(plain, self._entries)}")
        entry = self._entries[plain]
        if not texts:
            return entry
        values = _read_options(f"{self.kind} '{plain}'", options(entry), texts)
        return replace(entry, name=name, make=functools.partial(entry.make, **values))

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def names(self) -> list[str]:
        return list(self._entries)


def options(entry: Entry) -> dict[str, Any]:
    """What can be set in an entry's name, with the defaults."""
    if not callable(entry.make):
        return {}
    parameters = inspect.signature(entry.make).parameters.values()
    return {p.name: p.default for p in parameters if isinstance(p.default, bool | int | float | str | tuple)}


def _read_options(owner: str, known: dict[str, Any], texts: Sequence[str]) -> dict[str, Any]:
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if name not in known:
            listed = _hint(name, [f"{key}={_write(default)}" for key, default in known.items()])
            raise UnknownName(f"{owner} has no option '{name}'; {listed}")
        if name in values:
            raise ValueError(f"{owner} has option '{name}' twice")
        try:
            values[name] = _read(value if equals else "", known[name])
        except ValueError:
            raise ValueError(
                f"{owner}: option {name} is '{value}'; write it as in {name}={_write(known[name])}"
            ) from None
    return values


def _read(text: str, default: Any) -> Any:
    """The value that ``text`` stands for, of the type of ``default``."""
    if isinstance(default, tuple):
        return tuple(_read(part, default[0]) for part in text.split(","))
    if not text or (isinstance(default, bool) and text not in ("True", "False")):
        raise ValueError
    return text == "True" if isinstance(default, bool) else type(default)(text)


def _write(value: Any) -> str:
    return ",".join(map(_write, value)) if isinstance(value, tuple) else str(value)


def _hint(name: str, known: Sequence[str] | dict[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return (f"did you mean '{near[0]}'? " if near else "") + f"known: {', '.join(known) or 'none'}"

"""Reading and writing problems in Cassandra's ``.POMDP`` format.

A file is a preamble (``discount``, ``values``, ``states``, ``actions``, ``observations``, ``start``) and
lines that fill the tables ``T``, ``O`` and ``R``, where ``*`` matches everything and later lines override
earlier ones entry by entry:

    T: action : state : next state  P       or, with fewer indices, a row or a matrix of numbers, ``uniform``,
    O: action : next state : observation  P     ``identity`` (a matrix of T) or ``reset`` (a row of T)
    R: action : state : next state : observation  V

Source: A. R. Cassandra, "POMDP file format" (pomdp.org, 1999-2003).
Departures: what is unambiguous is accepted with one warning of each kind, unless ``strict``: numbers without
a leading digit, a byte order mark, ``values: rewards``, names with a dot, ``start: a b`` (a set), rows that
are off by up to 1e-5 (they are divided by their sums). A file without observations is a decision process
whose state is observed. ``# E:`` comments have no meaning.
"""

import itertools
import math
import re
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Int
from lark import Lark, Token, Transformer, UnexpectedInput, v_args

from .rules import ANY, MOST_ENTRIES, Rules, TooLarge
from .sparse import CSR, EXACT, FILE_TOLERANCE, SparsePOMDP, normalised

MOST_STATES = 1_000_000  # or actions, or observations

_GAP = r"(?:\s++|\#[^\n]*+)"
# Never given back, or a long file would be read again and again. As atomic groups: Python before 3.11.5
# (CPython issue 106052) misreads possessive repetitions of groups.
_GAPS, _SOME = rf"(?>{_GAP}*)", rf"(?>{_GAP}+)"
_RESERVED = "discount|values|states|actions|observations|uniform|identity|reset|start|include|exclude"
_WORD = r"[A-Za-z][\w.-]*+"
_NAME = rf"(?!(?:{_RESERVED})(?![\w.-])){_WORD}(?!{_GAPS}:)"
_REFERENCE = rf"(?:\*|\d++(?![\w.-])|{_WORD})"
_NUMBER = r"[+-]?(?:\d++(?:\.\d*+)?|\.\d++)(?:[eE][+-]?\d++)?(?![\w.+-])"

_GRAMMAR = rf"""
start: statement*
statement: DISCOUNT NUMBERS                        -> discount
         | VALUES (REWARD | COST)                  -> values
         | AXIS (COUNT | NAMES)                    -> axis
         | START (NUMBERS | NAMES | UNIFORM)       -> begin
         | START_SET MEMBERS                       -> begin_in
         | TABLE PATH (NUMBERS | UNIFORM | IDENTITY | RESET) -> table

DISCOUNT: /discount{_GAPS}:/
VALUES: /values{_GAPS}:/
AXIS: /(?:states|actions|observations){_GAPS}:/
START: /start{_GAPS}:/
START_SET: /start{_SOME}(?:include|exclude){_GAPS}:/
TABLE: /[TOR]{_GAPS}:/
REWARD: /rewards?(?![\w.-])/
COST: /costs?(?![\w.-])/
UNIFORM: /uniform(?![\w.-])/
IDENTITY: /identity(?![\w.-])/
RESET: /reset(?![\w.-])/
COUNT: /\d++(?![\w.-])/
NAMES: /{_NAME}(?>(?:{_SOME}{_NAME})*)/
MEMBERS: /(?:\d++(?![\w.-])|{_NAME})(?>(?:{_SOME}(?:\d++(?![\w.-])|{_NAME}))*)/
PATH: /{_REFERENCE}(?>(?:{_GAPS}:{_GAPS}{_REFERENCE})*)/
NUMBERS: /{_NUMBER}(?>(?:{_SOME}{_NUMBER})*)/
%ignore /{_GAP}+/
"""

_MEANING = {
    "DISCOUNT": "discount:",
    "VALUES": "values:",
    "AXIS": "states:, actions: or observations:",
    "START": "start:",
    "START_SET": "start include: or start exclude:",
    "TABLE": "T:, O: or R:",
    "REWARD": "reward",
    "COST": "cost",
    "UNIFORM": "uniform",
    "IDENTITY": "identity",
    "RESET": "reset",
    "COUNT": "a count",
    "NAMES": "names",
    "MEMBERS": "states",
    "PATH": "an action, state or observation, or *",
    "NUMBERS": "a number",
    "$END": "the end of the file",
}


class FormatError(ValueError):
    """A problem file is wrong. The message begins with file:line:column."""


class FormatWarning(UserWarning):
    """A problem file says something that only some readers accept."""


def loads(text: str, source: str = "<text>", *, strict: bool = False) -> SparsePOMDP:
    """The problem that ``text`` describes; ``source`` is its name in messages.

    Raises FormatError, and TooLarge (also a ValueError) if its tables would not fit into memory.
    """
    reader = _Reader(source, strict)
    if text.startswith("\ufeff"):
        reader.notice("a byte order mark", 1)
        text = text[1:]
    try:
        return reader.read(text)
    except TooLarge as error:
        raise TooLarge(f"{source}: {error}") from error
    finally:
        reader.warn()


def dumps(model: SparsePOMDP) -> str:
    """The problem as text. Reading it gives the same tables bit by bit.

    Raises ValueError if a name cannot be written in this format.
    """
    return "\n".join(_lines(model)) + "\n"


def _lines(model: SparsePOMDP) -> Iterator[str]:
    yield f"discount: {model.discount!r}"
    yield "values: reward"
    axes = (
        ("states", model.state_names, model.n_states),
        ("actions", model.action_names, model.n_actions),
        ("observations", model.observation_names, model.n_observations),
    )
    for role, names, size in axes:
        for name in names or ():
            if not re.fullmatch(_NAME, name) or name in ("T", "O", "R"):
                raise ValueError(f"{role}: {name!r} cannot be a name in a .POMDP file")
        yield f"{role}: {size if names is None else ' '.join(names)}"
    if model.n_states > 1:
        yield "start: " + " ".join(map(repr, model.initial.tolist()))
    for letter, tables in (("T", model.transition), ("O", model.emission)):
        same = all(_equal(table, tables[0]) for table in tables[1:])
        for a, table in enumerate(tables[:1] if same else tables):
            action = "*" if same else a
            coo = table.tocoo()
            for row, column, value in zip(
                *(each.tolist() for each in (coo.row, coo.col, coo.data)), strict=True
            ):
                yield f"{letter}: {action} : {row} : {column} {value!r}"
    for index, value in zip(model.reward.index.tolist(), model.reward.value.tolist(), strict=True):
        yield f"R: {' : '.join('*' if i == ANY else str(i) for i in index)} {value!r}"


def _equal(one: CSR, other: CSR) -> bool:
    return one is other or (
        np.array_equal(one.indptr, other.indptr)
        and np.array_equal(one.indices, other.indices)
        and np.array_equal(one.data, other.data)
    )


class _Lines:
    """Rules as they come: single ones in lists, blocks as arrays. Raises TooLarge when they are too many."""

    def __init__(self, axes: int):
        self.axes = axes
        self.index: list[tuple[int, ...]] = []
        self.value: list[float] = []
        self.blocks: list[Rules] = []
        self.size = 0

    def add(self, index: tuple[int, ...], value: float) -> None:
        self.index.append(index)
        self.value.append(value)
        if len(self.index) >= 100_000:
            self._flush()

    def add_block(self, fixed: tuple[int, ...], where: Int[np.ndarray, "q d"], values: np.ndarray) -> None:
        """Under ``fixed``: the values at the places ``where``, and 0 elsewhere."""
        self.add((*fixed, *[ANY] * where.shape[1]), 0.0)
        self._flush()
        index = np.empty((len(where), self.axes), np.int32)
        index[:, : len(fixed)] = fixed
        index[:, len(fixed) :] = where
        self._append(Rules(index, values))

    def rules(self) -> Rules:
        self._flush()
        index, value = zip(*self.blocks, strict=True)
        return Rules(np.concatenate(index), np.concatenate(value))

    def _flush(self) -> None:
        index = np.array(self.index, np.int32).reshape(-1, self.axes)
        self._append(Rules(index, np.array(self.value, np.float64)))
        self.index, self.value = [], []

    def _append(self, rules: Rules) -> None:
        self.size += len(rules.value)
        if self.size > MOST_ENTRIES:
            raise TooLarge(f"a table is given by more than {MOST_ENTRIES} numbers")
        self.blocks.append(rules)


class _Axis(NamedTuple):
    role: str
    size: int
    names: tuple[str, ...] | None
    numbers: dict[str, int]


_AXES = {"states": "state", "actions": "action", "observations": "observation"}
_INDICES = {
    "T": ("actions", "states", "states"),
    "O": ("actions", "states", "observations"),
    "R": ("actions", "states", "states", "observations"),
}


@v_args(inline=True)
class _Reader(Transformer):
    """Takes the statements of one file one by one, as the parser finds them."""

    def __init__(self, source: str, strict: bool):
        super().__init__()
        self.source, self.strict = source, strict
        self.axes: dict[str, _Axis] = {}
        self.initial: np.ndarray | None = None
        self.gamma: float | None = None
        self.sign = 1.0
        self.tables = {letter: _Lines(len(axes)) for letter, axes in _INDICES.items()}
        self.notices: dict[str, list[int]] = {}

    # --- the file as a whole

    def read(self, text: str) -> SparsePOMDP:
        try:
            Lark(_GRAMMAR, parser="lalr", lexer="contextual", transformer=self).parse(text)
        except UnexpectedInput as error:
            raise self._unexpected(text, error) from None
        for role in ("states", "actions"):
            if role not in self.axes:
                raise FormatError(f"{self.source}: has no '{role}:' line")
        if self.gamma is None:
            raise FormatError(f"{self.source}: has no 'discount:' line")
        return self._model()

    def _unexpected(self, text: str, error: UnexpectedInput) -> FormatError:
        """What lark says, in the words of the format."""
        names = getattr(error, "allowed", None) or getattr(error, "expected", None) or ()
        expected = " or ".join(sorted(_MEANING[name] for name in names if name in _MEANING))
        token = getattr(error, "token", None)
        if token is not None and token.type == "$END":
            line, column, what = text.count("\n") + 1, len(text) - text.rfind("\n"), "the end of the file"
        else:
            line, column = error.line, error.column
            found = re.match(r"[\w.*+-]{1,40}|.", text[error.pos_in_stream :])
            what = repr(found.group()) if found else "the end of the line"
        return FormatError(f"{self.source}:{line}:{column}: found {what}; expected {expected}")

    def error(self, token: Token, message: str, offset: int = 0) -> FormatError:
        """An error that begins with the place of the character ``offset`` of the token."""
        before = token[:offset]
        line = (token.line or 1) + before.count("\n")
        column = (token.column or 1) + offset if "\n" not in before else offset - before.rindex("\n")
        return FormatError(f"{self.source}:{line}:{column}: {message}")

    def notice(self, what: str, line: int | None) -> None:
        """Something that only some readers accept. ``warn`` tells it once for each kind."""
        if self.strict:
            place = self.source if line is None else f"{self.source}:{line}:1"
            raise FormatError(f"{place}: found {what}; the strict format has no such thing")
        self.notices.setdefault(what, []).extend([] if line is None else [line])

    def warn(self) -> None:
        for what, lines in self.notices.items():
            some = ", ".join(map(str, lines[:5])) + (", ..." if len(lines) > 5 else "")
            where = f" (line {some})" if lines else ""
            warnings.warn(f"{self.source}: {what}{where}", FormatWarning, stacklevel=4)

    # --- the preamble

    def discount(self, head: Token, numbers: Token) -> None:
        self.gamma = float(self._numbers(numbers, 1)[0])
        if not 0 <= self.gamma <= 1:
            raise self.error(numbers, f"found {numbers}; expected a discount in [0, 1]")

    def values(self, head: Token, kind: Token) -> None:
        if kind.endswith("s"):
            self.notice(f"'values: {kind}'", kind.line)
        self.sign = -1.0 if kind.startswith("cost") else 1.0

    def axis(self, head: Token, what: Token) -> None:
        role = head.partition(":")[0].split("#")[0].strip()
        if role in self.axes:
            raise self.error(head, f"found a second '{role}:'; expected one")
        if what.type == "COUNT":
            size, names, numbers = int(what[:18]), None, {}
            if not 1 <= size <= MOST_STATES:
                raise self.error(what, f"found {what[:30]}; expected a count from 1 to {MOST_STATES}")
        else:
            names = tuple(_words(what))
            size, numbers = len(names), {name: i for i, name in enumerate(names)}
            if len(numbers) < size:
                twice = next(name for i, name in enumerate(names) if numbers[name] != i)
                raise self.error(what, f"found the name '{twice}' twice; expected different names")
            if any("." in name for name in names):
                self.notice("a name with a dot", what.line)
        self.axes[role] = _Axis(_AXES[role], size, names, numbers)

    def begin(self, head: Token, what: Token) -> None:
        states = self._axis("states", head)
        if what.type == "UNIFORM":
            self.initial = np.full(states.size, 1 / states.size)
        elif what.type == "NAMES":
            members = list(_words(what))
            if len(members) > 1:
                self.notice("'start:' with several states, read as 'start include:'", what.line)
            self._begin_in(what, members, excluded=False)
        elif what.strip().isdigit() and (states.size > 1 or int(what[:9]) == 0):
            self._begin_in(what, [what.strip()], excluded=False)
        else:
            numbers = self._numbers(what, states.size)
            total = numbers.sum()
            if not (abs(total - 1) <= FILE_TOLERANCE and (numbers >= 0).all()):
                raise self.error(what, f"found a start that sums to {total:g}; expected a distribution")
            if abs(total - 1) > EXACT:
                self.notice(f"a start off 1 by {abs(total - 1):.1g}, divided by its sum", what.line)
                numbers = numbers / total
            self.initial = numbers

    def begin_in(self, head: Token, members: Token) -> None:
        self._axis("states", head)
        self._begin_in(members, list(_words(members)), excluded="exclude" in head.split("#")[0])

    def _begin_in(self, token: Token, members: list[str], excluded: bool) -> None:
        states = self.axes["states"]
        chosen = np.zeros(states.size, bool)
        chosen[[self._find(states, member, token) for member in members]] = True
        chosen ^= excluded
        if not chosen.any():
            raise self.error(token, "found every state excluded; expected one that is left")
        self.initial = chosen / chosen.sum()

    # --- the tables

    def table(self, head: Token, path: Token, what: Token) -> None:
        letter = head[0]
        if letter == "O" and "observations" not in self.axes:
            raise self.error(head, "found 'O:'; expected an 'observations:' line before it")
        axes = [
            self._axis(role, head) for role in _INDICES[letter] if role in self.axes or role != "observations"
        ]
        names = path.split(":") if "#" not in path else re.sub(r"#[^\n]*", "", path).split(":")
        if len(names) > len(axes):
            raise self.error(
                path, f"found {len(names)} indices; expected at most {len(axes)} after '{letter}:'"
            )
        fixed = tuple(self._find(axis, name.strip(), path) for axis, name in zip(axes, names, strict=False))
        free = tuple(axis.size for axis in axes[len(names) :])
        if len(free) == 3 or (letter == "R" and len(free) > 2):
            raise self.error(
                path, f"found {len(names)} index; expected at least {len(axes) - 2} after '{letter}:'"
            )
        if len(axes) < len(_INDICES[letter]) and not free:
            fixed = (*fixed, ANY)  # a reward of a file without observations
        elif len(axes) < len(_INDICES[letter]):
            raise self.error(path, "found a row of rewards; without observations a reward has three indices")
        lines, whole = self.tables[letter], (ANY,) * len(free)
        if what.type == "NUMBERS" and not free:
            value = self._number(what)
            lines.add(fixed, self.sign * value if letter == "R" else value)
        elif what.type == "NUMBERS":
            values = self._numbers(what, math.prod(free)).reshape(free)
            values = self.sign * values if letter == "R" else values
            lines.add_block(fixed, np.argwhere(values != 0), values[values != 0])
        elif what.type == "UNIFORM" and letter != "R" and free:
            lines.add((*fixed, *whole), 1 / free[-1])
        elif what.type == "IDENTITY" and letter == "T" and len(free) == 2:
            lines.add_block(fixed, np.repeat(np.arange(free[0])[:, None], 2, axis=1), np.ones(free[0]))
        elif what.type == "RESET" and letter == "T" and free:
            (where,) = np.nonzero(self._start())
            if len(free) == 1:
                lines.add_block(fixed, where[:, None], self._start()[where])
            else:
                lines.add((*fixed, ANY, ANY), 0.0)
                for s, p in zip(where.tolist(), self._start()[where].tolist(), strict=True):
                    lines.add((*fixed, ANY, s), p)
        else:
            raise self.error(what, f"found '{what}'; expected {'numbers' if free else 'a number'}")

    def _start(self) -> np.ndarray:
        size = self.axes["states"].size
        return np.full(size, 1 / size) if self.initial is None else self.initial

    def _axis(self, role: str, head: Token) -> _Axis:
        if role not in self.axes:
            raise self.error(head, f"found '{head.strip()}'; expected a '{role}:' line before it")
        return self.axes[role]

    def _find(self, axis: _Axis, name: str, token: Token) -> int:
        if name == "*":
            return ANY
        number = axis.numbers.get(name, -1)
        if number < 0 and name.isdigit() and len(name) < 10:
            number = int(name)
        if not 0 <= number < axis.size:
            known = f"one of {', '.join(axis.names[:20])}" if axis.names else f"0 to {axis.size - 1}"
            message = f"found '{name}'; expected the name or index of a known {axis.role} ({known})"
            raise self.error(token, message, max(token.find(name), 0))
        return number

    def _number(self, token: Token) -> float:
        try:
            value = float(token)
        except ValueError:
            return float(self._numbers(token, 1)[0])
        if token.startswith((".", "+.", "-.")):
            self.notice("a number without a leading digit", token.line)
        if not math.isfinite(value):
            raise self.error(token, f"found {token}; expected a finite number")
        return value

    def _numbers(self, token: Token, count: int) -> np.ndarray:
        words = _words(token)
        if len(words) != count:
            raise self.error(token, f"found {len(words)} numbers; expected {count}")
        if any(word.startswith((".", "+.", "-.")) for word in words):
            self.notice("a number without a leading digit", token.line)
        values = np.array(words, np.float64)
        if not np.isfinite(values).all():
            raise self.error(token, "found a number that is too large; expected finite numbers")
        return values

    # --- the model

    def _model(self) -> SparsePOMDP:
        actions, states = self.axes["actions"], self.axes["states"]
        observations = self.axes.get("observations", states)
        m, n, k = actions.size, states.size, observations.size
        if m * n > MOST_ENTRIES:
            raise TooLarge(f"{m} actions times {n} states are more than {MOST_ENTRIES}")
        if "observations" not in self.axes:
            self.tables["O"].add_block((ANY,), np.repeat(np.arange(n)[:, None], 2, axis=1), np.ones(n))
        rules = {letter: lines.rules() for letter, lines in self.tables.items()}
        try:
            return SparsePOMDP(
                self._matrices("T", rules["T"], (m, n, n)),
                self._matrices("O", rules["O"], (m, n, k)),
                rules["R"],
                self._start(),
                self.gamma or 0.0,
                states.names,
                actions.names,
                observations.names,
            )
        except TooLarge:
            raise
        except ValueError as error:
            raise FormatError(f"{self.source}: {error}") from error

    def _matrices(self, letter: str, rules: Rules, sizes: tuple[int, int, int]) -> tuple[CSR, ...]:
        """One CSR matrix per action; matrices that no rule distinguishes are one object."""
        (m, n, k), names = sizes, self.axes["actions"].names
        shared = bool((rules.index[:, 0] == ANY).all())
        if shared:
            rules = Rules(
                np.concatenate([np.zeros_like(rules.index[:, :1]), rules.index[:, 1:]], axis=1), rules.value
            )
        entries, value = rules.nonzero((1 if shared else m, n, k))
        ends = np.searchsorted(entries[:, 0], np.arange(2 if shared else m + 1))
        matrices, worst = [], 0.0
        for a, (begin, end) in enumerate(itertools.pairwise(ends)):
            rows, columns = entries[begin:end, 1:].T
            matrix = sp.csr_array((value[begin:end], (rows, columns)), shape=(n, k))
            action = "*" if shared else str(a) if names is None else names[a]
            role = "state" if letter == "T" else "next state"
            matrix, off = normalised(f"{letter}: {action}", matrix, role, self.axes["states"].names)
            matrices.append(matrix)
            worst = max(worst, off)
        if worst:
            self.notice(f"rows of {letter} off 1 by up to {worst:.1g}, divided by their sums", None)
        return tuple(matrices) * (m if shared else 1)


def _words(token: str) -> list[str]:
    return (re.sub(r"#[^\n]*", " ", token) if "#" in token else token).split()

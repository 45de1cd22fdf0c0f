"""Reading problems in POMDPX, an XML format with factored states, observations and actions.

The factors are joined into the flat tables of ``SparsePOMDP``: an action, a state or an observation is one
value of each variable of its kind, the last variable varying fastest. A variable that is fully observed is
part of the observation. The reward is the sum of the reward functions.

Source: POMDPX documentation, version 1.0 (Approximate POMDP Planning Toolkit, National University of
Singapore).
Departures: nothing is observed before the first action, also where a variable is fully observed. Document
types and entities are refused, so that no entity is expanded.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple
from xml.parsers import expat

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from .dotpomdp import MOST_STATES, FormatError
from .rules import ANY, MOST_ENTRIES, Rules, TooLarge
from .sparse import CSR, EXACT, FILE_TOLERANCE, SparsePOMDP, normalised

MOST_NAMES = 20_000  # flat names are made of the variables' values up to here


def loads(text: str | bytes, source: str = "<text>") -> SparsePOMDP:
    """The problem that the XML ``text`` describes; ``source`` is its name in messages.

    Raises FormatError with file, line and column, and TooLarge if its tables would not fit into memory.
    """
    root = _tree(text, source)
    try:
        return _Problem(root, source).model()
    except TooLarge as error:
        raise TooLarge(f"{source}: {error}") from error


@dataclass
class _Node:
    """An XML element and where it begins."""

    tag: str
    attributes: dict[str, str]
    place: str
    children: list["_Node"] = field(default_factory=list)
    text: str = ""

    def all(self, tag: str) -> list["_Node"]:
        return [child for child in self.children if child.tag == tag]

    def one(self, tag: str) -> "_Node":
        found = self.all(tag)
        if len(found) != 1:
            raise self.error(f"found {len(found)} <{tag}> in <{self.tag}>; expected one")
        return found[0]

    def error(self, message: str) -> FormatError:
        return FormatError(f"{self.place}: {message}")

    def attribute(self, name: str) -> str:
        if name not in self.attributes:
            raise self.error(f"found <{self.tag}> without {name}; expected {name}='...'")
        return self.attributes[name]


def _tree(text: str | bytes, source: str) -> _Node:
    parser = expat.ParserCreate()
    top = _Node("", {}, source)
    open_nodes = [top]

    def place() -> str:
        return f"{source}:{parser.CurrentLineNumber}:{parser.CurrentColumnNumber + 1}"

    def start(tag: str, attributes: dict[str, str]) -> None:
        node = _Node(tag, attributes, place())
        if len(open_nodes) > 200:
            raise node.error("found elements nested more than 200 deep")
        open_nodes[-1].children.append(node)
        open_nodes.append(node)

    def end(tag: str) -> None:
        open_nodes.pop()

    def data(text: str) -> None:
        open_nodes[-1].text += text

    def refuse(*_) -> None:
        raise FormatError(f"{place()}: found a document type; expected none, and no entities")

    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, data
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        where = f"{source}:{error.lineno}:{error.offset + 1}"
        raise FormatError(
            f"{where}: found XML that is not well formed ({expat.errors.messages[error.code]})"
        ) from None
    if top.children[0].tag != "pomdpx":
        raise top.children[0].error(f"found <{top.children[0].tag}>; expected <pomdpx>")
    return top.children[0]


class _Factor(NamedTuple):
    """A sparse function of some variables: its entries that are not 0."""

    variables: tuple[str, ...]
    index: Int[np.ndarray, "q d"]
    value: Float[np.ndarray, " q"]

    def join(self, other: "_Factor", sizes: dict[str, int]) -> "_Factor":
        """The product, a function of the variables of both."""
        shared = [name for name in other.variables if name in self.variables]
        added = [name for name in other.variables if name not in self.variables]
        left = self.keys(shared, sizes)
        order = np.argsort(other.keys(shared, sizes), kind="stable")
        right = other.keys(shared, sizes)[order]
        begin, end = (np.searchsorted(right, left, side=side) for side in ("left", "right"))
        counts = end - begin
        if counts.sum() > MOST_ENTRIES:
            raise TooLarge(f"a table has more than {MOST_ENTRIES} entries")
        rows = np.repeat(np.arange(len(left)), counts)
        matches = order[np.arange(counts.sum()) + np.repeat(begin - (np.cumsum(counts) - counts), counts)]
        columns = [other.index[matches, other.variables.index(name)] for name in added]
        index = np.column_stack([self.index[rows], *columns])
        return _Factor((*self.variables, *added), index, self.value[rows] * other.value[matches])

    def keys(self, names: Iterable[str], sizes: dict[str, int]) -> Int[np.ndarray, " q"]:
        """One integer for the values of the named variables in each entry."""
        keys = np.zeros(len(self.index), np.int64)
        for name in names:
            keys = keys * sizes[name] + self.index[:, self.variables.index(name)]
        return keys


class _Problem:
    def __init__(self, root: _Node, source: str):
        self.root, self.source = root, source
        self.values: dict[str, dict[str, int]] = {}
        variables = root.one("Variable")
        self.before, self.after, self.watched = [], [], []
        for node in variables.all("StateVar"):
            before, after = node.attribute("vnamePrev"), node.attribute("vnameCurr")
            self.before.append(before)
            self.after.append(after)
            self.values[before] = self.values[after] = _values(node, "s")
            if node.attributes.get("fullyObs", "false") == "true":
                self.watched.append(after)
        self.actions = [self._declare(node, "a") for node in variables.all("ActionVar")]
        self.seen = [self._declare(node, "o") for node in variables.all("ObsVar")]
        for names, what in (
            (self.before, "StateVar"),
            (self.actions, "ActionVar"),
            (self.seen + self.watched, "ObsVar"),
        ):
            if not names:
                raise variables.error(f"found no <{what}>; expected one")
        self.sizes = {name: len(values) for name, values in self.values.items()}

    def _declare(self, node: _Node, letter: str) -> str:
        name = node.attribute("vname")
        self.values[name] = _values(node, letter)
        return name

    def model(self) -> SparsePOMDP:
        observed = self.seen + self.watched
        m, n, k = (self._count(names) for names in (self.actions, self.before, observed))
        if m * n > MOST_ENTRIES:
            raise TooLarge(f"{m} actions times {n} states are more than {MOST_ENTRIES}")
        first = self._joint(self.before, [], "InitialStateBelief")
        initial = np.zeros(n)
        np.add.at(initial, first.keys(self.before, self.sizes), first.value)
        if abs(initial.sum() - 1) > FILE_TOLERANCE:
            raise FormatError(
                f"{self.source}: the initial belief sums to {initial.sum():g}; it must sum to 1"
            )
        initial = initial / initial.sum() if abs(initial.sum() - 1) > EXACT else initial
        moves = self._joint(self.after, [*self.actions, *self.before], "StateTransitionFunction")
        sights = self._joint(self.seen, [*self.actions, *self.after], "ObsFunction")
        discount = _floats(self.root.one("Discount"), 1)[0]
        states, actions, observations = (
            self._names(names) for names in (self.before, self.actions, observed)
        )
        try:
            return SparsePOMDP(
                self._matrices("transition", moves, self.before, self.after, states, actions),
                self._matrices("emission", sights, self.after, observed, states, actions),
                self._reward((m, n, n, k), (self.actions, self.before, self.after, observed)),
                initial,
                float(discount),
                states,
                actions,
                observations,
            )
        except TooLarge:
            raise
        except ValueError as error:
            raise FormatError(f"{self.source}: {error}") from error

    def _count(self, names: list[str]) -> int:
        count = 1
        for name in names:
            count *= self.sizes[name]
        if count > MOST_STATES:
            raise TooLarge(
                f"the variables {', '.join(names)} have {count} values together; at most {MOST_STATES}"
            )
        return count

    def _names(self, names: list[str]) -> tuple[str, ...] | None:
        """Flat names; None if there are too many, or if joining them is ambiguous."""
        if self._count(names) > MOST_NAMES:
            return None
        joined = tuple(
            "-".join(values) for values in itertools.product(*(self.values[name] for name in names))
        )
        return joined if len(set(joined)) == len(joined) else None

    def _joint(self, wanted: list[str], given: list[str], section: str) -> _Factor:
        """The product of the factors of a section, over all values of ``given``."""
        shape = tuple(self.sizes[name] for name in given)
        grid = (
            np.stack(np.unravel_index(np.arange(int(np.prod(shape))), shape), axis=1)
            if given
            else np.zeros((1, 0), int)
        )
        joint = _Factor(tuple(given), grid, np.ones(len(grid)))
        if not wanted:
            return joint
        node = self.root.one(section)
        waiting = [self._factor(each) for each in node.all("CondProb")]
        while waiting:  # first those whose parents are all there: the product stays small
            waiting.sort(key=lambda factor: len(set(factor.variables) - set(joint.variables)))
            joint = joint.join(waiting.pop(0), self.sizes)
        missing = set(wanted) - set(joint.variables)
        foreign = set(joint.variables) - set(wanted) - set(given)
        if missing or foreign:
            what = f"nothing for {', '.join(sorted(missing))}" if missing else f"{', '.join(sorted(foreign))}"
            raise node.error(f"found {what} in <{section}>; expected {', '.join(wanted)}")
        return joint

    def _matrices(self, what, joint, rows, columns, states, actions) -> tuple[CSR, ...]:
        action = joint.keys(self.actions, self.sizes)
        shape = self._count(rows), self._count(columns)
        matrices = []
        for a in range(self._count(self.actions)):
            at = _Factor(joint.variables, joint.index[action == a], joint.value[action == a])
            place = at.keys(rows, self.sizes), at.keys(columns, self.sizes)
            matrix = sp.csr_array((at.value, place), shape=shape)
            matrix.sum_duplicates()
            name = str(a) if actions is None else repr(actions[a])
            matrices.append(normalised(f"{what}[{name}]", matrix, "state", states)[0])
        return tuple(matrices)

    def _factor(self, node: _Node) -> _Factor:
        name, parents = node.one("Var").text.strip(), node.one("Parent").text.split()
        names = [*(each for each in parents if each != "null"), name]
        return self._table(node, names)

    def _table(self, node: _Node, names: list[str]) -> _Factor:
        for name in names:
            if name not in self.values:
                raise node.error(f"found the variable '{name}'; expected one of {', '.join(self.values)}")
        if len(set(names)) < len(names):
            raise node.error(f"found a variable twice in {' '.join(names)}")
        parameter = node.one("Parameter")
        if parameter.attributes.get("type", "TBL") == "DD":
            index, value = _leaves(parameter.one("DAG"), names, self.values)
        else:
            index, value = _entries(parameter, names, self.values)
        rules = Rules(np.array(index, np.int32).reshape(-1, len(names)), np.array(value, np.float64))
        return _Factor(tuple(names), *rules.nonzero(tuple(self.sizes[name] for name in names)))

    def _reward(self, sizes: tuple[int, ...], groups: tuple[list[str], ...]) -> Rules:
        """The sum of the functions, as a table over those of (action, state, next state, observation) they
        use."""
        tables = []
        for node in self.root.one("RewardFunction").all("Func"):
            names = [name for name in node.one("Parent").text.split() if name != "null"]
            tables.append(self._table(node, names))
        used = [any(set(group) & set(table.variables) for table in tables) for group in groups]
        # A variable that is fully observed belongs to the state reached, not to the observation of it.
        used[3] = any(set(self.seen) & set(table.variables) for table in tables)
        shape = tuple(size for size, use in zip(sizes, used, strict=True) if use)
        if np.prod(shape, dtype=np.float64) > MOST_ENTRIES:
            raise TooLarge(f"the reward has more than {MOST_ENTRIES} entries")
        grid = np.unravel_index(np.arange(int(np.prod(shape))), shape) if shape else ()
        columns, at = {}, iter(grid)
        for group, use in zip(groups, used, strict=True):
            if use:
                values = np.unravel_index(next(at), tuple(self.sizes[name] for name in group))
                columns = dict(zip(group, values, strict=True)) | columns
        total = np.zeros(int(np.prod(shape)))
        for table in tables:
            within = tuple(self.sizes[name] for name in table.variables)
            index = np.stack([columns[name] for name in table.variables], axis=1)
            total += Rules(table.index.astype(np.int32), table.value).at(index, within)
        nonzero = np.flatnonzero(total)
        index = np.full((len(nonzero), 4), ANY, np.int32)
        index[:, used] = np.stack(grid, axis=1)[nonzero] if shape else 0
        return Rules(index, total[nonzero])


def _values(node: _Node, letter: str) -> dict[str, int]:
    """The values of a variable and their numbers."""
    if node.all("NumValues"):
        text = node.one("NumValues").text.strip()
        if not text.isdigit() or not 1 <= int(text[:9]) <= MOST_STATES:
            raise node.error(f"found NumValues '{text[:30]}'; expected a count from 1 to {MOST_STATES}")
        names = [f"{letter}{i}" for i in range(int(text))]
    else:
        names = node.one("ValueEnum").text.split()
    if not names or len(set(names)) < len(names):
        raise node.error("found no values, or one twice; expected different names")
    return {name: i for i, name in enumerate(names)}


def _floats(node: _Node, count: int) -> Float[np.ndarray, " q"]:
    words = node.text.split()
    if len(words) != count:
        raise node.error(f"found {len(words)} numbers; expected {count}")
    try:
        numbers = np.array(words, np.float64)
    except ValueError as error:
        raise node.error(f"found something else than numbers ({error})") from None
    if not np.isfinite(numbers).all():
        raise node.error("found a number that is not finite")
    return numbers


def _entries(parameter: _Node, names: list[str], values: dict[str, dict[str, int]]):
    """Rules of a table. In an instance ``-`` runs over all values, in the order of the numbers, ``*`` means
    all."""
    index, value = [], []
    for entry in parameter.all("Entry"):
        instance = entry.one("Instance")
        words = instance.text.split()
        if len(words) != len(names):
            raise instance.error(f"found {len(words)} values; expected {len(names)}, of {' '.join(names)}")
        fixed = [_value(instance, name, word, values) for name, word in zip(names, words, strict=True)]
        free = [i for i, word in enumerate(words) if word == "-"]
        shape = [len(values[names[i]]) for i in free]
        table = (entry.all("ProbTable") + entry.all("ValueTable") or [entry.one("ProbTable")])[0]
        keyword = table.text.strip()
        if np.prod(shape, dtype=np.float64) + len(value) > MOST_ENTRIES:
            raise TooLarge(f"a table has more than {MOST_ENTRIES} entries")
        if keyword == "uniform":
            index.append(fixed)
            value.append(1 / len(values[names[-1]]))
            continue
        if keyword == "identity":
            if len(shape) != 2 or shape[0] != shape[1]:
                raise table.error(f"found identity over {shape}; expected two '-' of equal size")
            index.append(fixed)
            value.append(0.0)
            places, numbers = [(i, i) for i in range(shape[0])], [1.0] * shape[0]
        else:
            numbers = _floats(table, int(np.prod(shape))).tolist()
            places = itertools.product(*map(range, shape))
        for place, number in zip(places, numbers, strict=True):
            row = list(fixed)
            for i, at in zip(free, place, strict=True):
                row[i] = at
            index.append(row)
            value.append(number)
    return index, value


def _value(node: _Node, name: str, word: str, values: dict[str, dict[str, int]]) -> int:
    if word in ("-", "*"):
        return ANY
    if word not in values[name]:
        known = ", ".join(itertools.islice(values[name], 20))
        raise node.error(f"found '{word}' for {name}; expected -, * or one of {known}")
    return values[name][word]


def _leaves(dag: _Node, names: list[str], values: dict[str, dict[str, int]]):
    """Rules of a decision diagram: one for each path from the root to a number."""
    templates = {node.attribute("id"): node for node in dag.all("SubDAGTemplate")}
    index, value = [], []

    def follow(node: _Node, fixed: dict[str, int]) -> None:
        if len(value) > MOST_ENTRIES or len(fixed) > len(names):
            raise TooLarge(f"a decision diagram has more than {MOST_ENTRIES} leaves")
        if node.tag == "Terminal":
            leaf(fixed, float(_floats(node, 1)[0]))
        elif node.tag == "Node":
            name = node.attribute("var")
            if name not in names or name in fixed:
                raise node.error(f"found a node on '{name}'; expected another one of {' '.join(names)}")
            for edge in node.all("Edge"):
                word = edge.attribute("val")
                if len(edge.children) != 1:
                    raise edge.error(f"found {len(edge.children)} elements in <Edge>; expected one")
                follow(edge.children[0], fixed | {name: _value(edge, name, word, values)})
        elif node.tag == "SubDAG":
            shorthand(node, fixed)
        else:
            raise node.error(f"found <{node.tag}>; expected <Node>, <Terminal> or <SubDAG>")

    def shorthand(node: _Node, fixed: dict[str, int]) -> None:
        kind = node.attribute("type")
        if kind == "template":
            name = node.attribute("idref")
            if name not in templates:
                raise node.error(f"found the template '{name}'; expected one of {', '.join(templates)}")
            (body,) = templates[name].children[:1] or [templates[name].one("Node")]
            if body.tag == "SubDAG" and body.attributes.get("type") == "template":
                raise body.error("found a template that is a template; expected a node")
            follow(body, fixed)
            return
        name = node.attribute("var")
        if name not in names:
            raise node.error(f"found '{name}'; expected one of {' '.join(names)}")
        if kind == "deterministic":
            leaf(fixed | {name: _value(node, name, node.attribute("val"), values)}, 1.0)
        elif kind == "uniform":
            leaf(fixed, 1 / len(values[name]))
        elif kind == "persistent":
            (other,) = [each for each in names if each != name and values[each] is values[name]] or [None]
            if other is None:
                raise node.error(
                    f"found a persistent '{name}'; expected its other time among {' '.join(names)}"
                )
            for i in values[name].values():
                if fixed.get(other, i) in (i, ANY):
                    leaf(fixed | {name: i, other: i}, 1.0)
        else:
            raise node.error(
                f"found the type '{kind}'; expected deterministic, persistent, uniform or template"
            )

    def leaf(fixed: dict[str, int], number: float) -> None:
        index.append([fixed.get(name, ANY) for name in names])
        value.append(number)

    roots = [child for child in dag.children if child.tag != "SubDAGTemplate"]
    if len(roots) != 1:
        raise dag.error(f"found {len(roots)} roots; expected one")
    follow(roots[0], {})
    return index, value

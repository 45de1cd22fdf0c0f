"""A sparse table written as rules: ``index -> value`` lines where -1 matches everything and later lines win.

It is the smallest exact form of the reward of a POMDP, whose full table over (action, state, next state,
observation) is often too large to hold although a few lines define it.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

ANY = -1
MOST_ENTRIES = 5_000_000  # of a sparse table: it takes some hundred bytes for each while it is built


class TooLarge(ValueError):
    """The model would need more memory than a reader of files may take."""


class Rules(NamedTuple):
    """A table over d axes. ``index`` (r, d) holds -1 where every entry of that axis is meant."""

    index: Int[np.ndarray, "r d"]
    value: Float[np.ndarray, " r"]

    def at(self, entries: Int[np.ndarray, "q d"], sizes: tuple[int, ...]) -> Float[np.ndarray, " q"]:
        """The value of each entry: that of the last rule that matches it, 0 if none does."""
        last = self._last_match(entries, sizes)
        return np.where(last >= 0, np.append(self.value, 0.0)[last], 0.0)

    def nonzero(
        self, sizes: tuple[int, ...], most: int = MOST_ENTRIES
    ) -> tuple[Int[np.ndarray, "q d"], Float[np.ndarray, " q"]]:
        """All entries that are not 0, sorted, and their values. Raises TooLarge beyond ``most``
        candidates."""
        index = self.index[self.value != 0].astype(np.int64)
        spread = np.where(index == ANY, np.asarray(sizes), 1).prod(axis=1, dtype=np.float64)
        if spread.sum() > most:
            raise TooLarge(
                f"a table has {spread.sum():.3g} entries that are not 0; at most {most} are allowed"
            )
        for axis, size in enumerate(sizes):
            wild = index[:, axis] == ANY
            copies = np.where(wild, size, 1)
            begins = np.repeat(np.cumsum(copies) - copies, copies)
            index = np.repeat(index, copies, axis=0)
            index[:, axis] = np.where(np.repeat(wild, copies), np.arange(len(index)) - begins, index[:, axis])
        keys = np.unique(_keys(index, sizes))
        entries = np.stack(np.unravel_index(keys, sizes), axis=1) if len(keys) else index
        value = self.at(entries, sizes)
        return entries[value != 0], value[value != 0]

    def _last_match(self, entries: Int[np.ndarray, "q d"], sizes: tuple[int, ...]) -> Int[np.ndarray, " q"]:
        """The number of the last rule that matches each entry, or -1.

        Rules with wildcards on the same axes are looked up together, by the axes that they fix.
        """
        last = np.full(len(entries), -1)
        wild = self.index == ANY
        for pattern in np.unique(wild, axis=0):
            fixed = np.flatnonzero(~pattern)
            of_pattern = np.flatnonzero((wild == pattern).all(axis=1))[::-1]
            within = tuple(sizes[axis] for axis in fixed)
            known, first = np.unique(_keys(self.index[of_pattern][:, fixed], within), return_index=True)
            sought = _keys(entries[:, fixed], within)
            place = np.minimum(np.searchsorted(known, sought), len(known) - 1)
            found = np.where(known[place] == sought, of_pattern[first[place]], -1)
            last = np.maximum(last, found)
        return last


def _keys(index: Int[np.ndarray, "r d"], sizes: tuple[int, ...]) -> Int[np.ndarray, " r"]:
    """One integer for each row of indices."""
    keys = np.zeros(len(index), np.int64)
    for axis, size in enumerate(sizes):
        keys = keys * size + index[:, axis]
    return keys

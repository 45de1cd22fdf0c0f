"""Measuring speed fairly: several programs in one run, taken in turn, warm, with compile time apart."""

import functools
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..core.native import library

WARM = 0.3
"""Seconds for which a program is called before a call of it is timed; at least one call."""


def medians(programs: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each program. They are called in turn, so that a busy moment slows all of them alike,
    and each warms up at every turn: as in training, it is to find the caches and the freed memory that it
    left itself. What another program left can double the time of the next few calls."""
    for program in programs.values():
        jax.block_until_ready(program())
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            if len(programs) > 1:
                _warm(program)
            began = time.perf_counter()
            jax.block_until_ready(program())
            seconds[name].append(time.perf_counter() - began)
    return {name: float(np.median(times)) for name, times in seconds.items()}


def _warm(program: Callable[[], Any]) -> None:
    end = time.perf_counter() + WARM
    while True:
        jax.block_until_ready(program())
        if time.perf_counter() >= end:
            return


class Machine(NamedTuple):
    """What this machine can do at most."""

    peak: float
    """Operations per second of a large float32 product."""
    bandwidth: float
    """Bytes per second of a + b."""


def beside_machine(
    programs: Mapping[str, Callable[[], Any]], repeats: int
) -> tuple[dict[str, float], Machine]:
    """``medians``, and what the machine does in the same moments: neighbours can slow it by half."""
    probes, operations, bytes_moved = _probes()
    seconds = medians({**programs, **probes}, repeats)
    multiply, add = (seconds.pop(name) for name in probes)
    return seconds, Machine(operations / multiply, bytes_moved / add)


@functools.cache
def _probes() -> tuple[dict[str, Callable[[], Any]], int, int]:
    """A product and a sum by name, the operations of the one, and the bytes of the other."""
    size, rounds = 1024, 5
    square = jax.random.normal(jax.random.key(0), (size, size)) / size
    wide = jnp.ones(2**24)

    def multiply(x):
        return jax.lax.fori_loop(0, rounds, lambda _, y: y @ x, x)

    def add(x):  # in place, so that no page is new
        return jax.lax.fori_loop(0, rounds, lambda i, y: y + x, x)

    programs = {"a large product": bound(multiply, square), "a + b": bound(add, wide)}
    return programs, 2 * rounds * size**3, 3 * 4 * rounds * wide.size


def bound(program: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    """``program`` compiled for its arguments and called with them."""
    compiled = jax.jit(program).lower(*arguments).compile()
    return lambda: compiled(*arguments)


def described(rows: Iterable[Mapping[str, Any]]) -> str:
    """The machine in words: medians of what was measured beside these rows, pages and loops."""
    machines, speeds = [(row["peak"], row["bandwidth"]) for row in rows if "peak" in row], ""
    if machines:
        peak, bandwidth = np.median(machines, axis=0)
        speeds = f"{peak / 1e9:.0f} GFLOP/s, {bandwidth / 1e9:.1f} GB/s, "
    return f"machine: {speeds}{pages()}, {loops()}"


def loops() -> str:
    """Whether the compiled loops of ``core/native`` run here, in words."""
    return "compiled loops" if library.serves(jnp.zeros(())) else "loops in JAX, none compiled"


_KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_ASKED = "glibc.malloc.hugetlb=1"


def pages() -> str:
    """The size of the pages that large arrays get, in words. New pages must be cleared and found at every
    call, which takes long sequences up to a third of their time where pages are small."""
    enabled = _KERNEL.read_text() if _KERNEL.exists() else ""
    waits = "[madvise]" in enabled
    if "[always]" in enabled or (waits and _ASKED in os.environ.get("GLIBC_TUNABLES", "")):
        return "huge pages"
    return "small pages" + (f" (GLIBC_TUNABLES={_ASKED} asks for huge ones)" if waits else "")

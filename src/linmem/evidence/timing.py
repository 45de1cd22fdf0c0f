"""Measuring speed fairly: several programs in one run, taken in turn, warm, with compile time apart."""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..core.native import library


def medians(programs: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each program. They are called in turn,
    so that a busy moment slows all of them alike."""
    for program in programs.values():
        jax.block_until_ready(program())
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            began = time.perf_counter()
            jax.block_until_ready(program())
            seconds[name].append(time.perf_counter() - began)
    return {name: float(np.median(times)) for name, times in seconds.items()}


def bound(program: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    """``program`` compiled for its arguments and called with them."""
    compiled = jax.jit(program).lower(*arguments).compile()
    return lambda: compiled(*arguments)


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

"""Measuring speed fairly: several programs in one run, taken in turn, warm, with compile time apart."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np


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

"""Shared by all tests: the persistent compilation cache, and float64 where an oracle asks for it."""

import functools
import gc
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the time here goes into LLVM, for code that runs for milliseconds. XLA's own passes stay the same.
# Processes that tests start inherit this.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
# XLA's older way to write fused loops compiles in half the time; and both cores have their own tests, so that
# no program need be compiled in parts side by side. A jaxlib that no longer has the flags would end the
# process, so another one tries; workers inherit the answer.
if "XLA_FLAGS" not in os.environ:
    trial = [sys.executable, "-c", "import jax; jax.devices()"]
    os.environ["XLA_FLAGS"] = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    if subprocess.run(trial, check=False, capture_output=True).returncode:
        os.environ["XLA_FLAGS"] = ""

import jax
import pytest

from linmem.experiments.cache import enable_compilation_cache

enable_compilation_cache()
# What takes less is compiled as soon as it is loaded.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
gc.set_threshold(50_000)  # what JAX traces is much, and lives long
# One context for all programs instead of one each, which takes 8 ms and 1 MB. The name is private: without it
# tests only take longer.
mlir: Any = sys.modules.get("jax._src.interpreters.mlir")
if hasattr(mlir, "make_ir_context"):
    mlir.make_ir_context = functools.cache(mlir.make_ir_context)

MAPS = Path("/proc/self/maps")
MANY_MAPS = 40_000
"""A process may have some 65,000 pieces of memory, and every compiled function takes a few."""
COUNTED = itertools.cycle([False] * 24 + [True])  # counting takes some 10 ms: after one test of 25


FIRST = "memories agents deploy survival suite devices scores every_world".split()
"""Files that take longest: begun last, one would leave the other worker idle. (`make test` asks xdist to keep
this order; its own puts files of many tests first, and long tests are often few.)"""


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in FIRST)


@pytest.fixture(autouse=True)
def forget_what_was_compiled():
    """Before there is too much of it."""
    yield
    if next(COUNTED) and MAPS.exists() and MAPS.read_text().count("\n") > MANY_MAPS:
        jax.clear_caches()


@pytest.fixture(scope="module")
def optimised():
    """LLVM's optimisation, for a module whose simulations run longer than they compile."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def float64():
    """64-bit arithmetic inside one test."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)

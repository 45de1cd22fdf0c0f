"""Shared by all tests: the persistent compilation cache, and float64 where an oracle asks for it."""

import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the time here goes into LLVM, for code that runs for milliseconds. XLA's own passes stay the same.
# Processes that tests start inherit this.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
# XLA's older way to write fused loops compiles in half the time. A jaxlib that no longer has the flag would
# end the process, so another one tries; workers inherit the answer.
if "XLA_FLAGS" not in os.environ:
    trial = [sys.executable, "-c", "import jax; jax.devices()"]
    os.environ["XLA_FLAGS"] = "--xla_cpu_use_fusion_emitters=false"
    if subprocess.run(trial, check=False, capture_output=True).returncode:
        os.environ["XLA_FLAGS"] = ""

import jax
import pytest

from linmem.experiments.cache import enable_compilation_cache

enable_compilation_cache()


MAPS = Path("/proc/self/maps")
MANY_MAPS = 20_000
"""A process may have some 65,000 pieces of memory, and every compiled function takes a few."""


@pytest.fixture(autouse=True)
def forget_what_was_compiled():
    """Before there is too much of it."""
    yield
    if MAPS.exists() and MAPS.read_text().count("\n") > MANY_MAPS:
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

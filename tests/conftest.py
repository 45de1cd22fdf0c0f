"""Shared by all tests: the persistent compilation cache, and float64 where an oracle asks for it."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

from linmem.experiments.cache import enable_compilation_cache

enable_compilation_cache()


@pytest.fixture
def float64():
    """64-bit arithmetic inside one test."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)

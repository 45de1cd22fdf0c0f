"""The compiled kernels, where there are any.

They are C++ (the files beside this one), built when the package is installed if a compiler is found, and are
called by XLA as custom calls. Each has a twin in JAX, which serves on other devices, without a compiler, for
other types than float32 and float64, and as the oracle of the tests. A custom call cannot be split over
devices, so with several the twins serve, too.
"""

import contextlib
import contextvars
import ctypes
import functools
from collections.abc import Iterator, Sequence
from importlib.resources import as_file, files

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

NAME = "kernels.so"
_LOOPS = "decay removal delta normaliser convolution gru selective traces dictionary low_rank diagonal"
_KERNELS = [f"linmem_{loop}_{way}" for loop in _LOOPS.split() for way in ("forward", "backward")]
_on = contextvars.ContextVar("on", default=True)


@functools.cache
def loaded() -> bool:
    """Whether kernels were built for this processor; the first call registers them."""
    with as_file(files(__name__.rpartition(".")[0]) / NAME) as path:
        try:
            library = ctypes.CDLL(str(path))
            kernels = {name: jax.ffi.pycapsule(getattr(library, name)) for name in _KERNELS}
        except (OSError, AttributeError):  # never built, or built before some kernel was written
            return False
    if not library.linmem_runs_here():
        return False
    for name, kernel in kernels.items():
        jax.ffi.register_ffi_target(name, kernel, platform="cpu")
    return True


def serves(*operands: PyTree) -> bool:
    """Whether the kernels can be used here for these arrays: all numbers must be of one type, float32 or
    float64."""
    types = {jnp.dtype(leaf.dtype) for leaf in jax.tree.leaves(operands)}
    return (
        _on.get()
        and types in ({jnp.dtype("float32")}, {jnp.dtype("float64")})
        and jax.default_backend() == "cpu"
        and jax.device_count() == 1
        and loaded()
    )


@contextlib.contextmanager
def without() -> Iterator[None]:
    """What is traced here uses no compiled kernel."""
    token = _on.set(False)
    try:
        yield
    finally:
        _on.reset(token)


def call(
    name: str, like: Sequence[tuple[int, ...]], *operands: jax.Array, **settings: bool | np.floating
) -> Sequence[jax.Array]:
    """Results with these shapes, of the first operand's type. Under vmap all batches go in one call."""
    dtype = operands[0].dtype
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape in like]
    return jax.ffi.ffi_call(f"linmem_{name}", shapes, vmap_method="expand_dims")(*operands, **settings)

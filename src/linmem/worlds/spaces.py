"""What observations and actions may be: one of n things, an array of such choices, an array of bounded
floats, or a dictionary of these."""

import math
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray


class Discrete(eqx.Module):
    """The int32 scalars 0, ..., n - 1."""

    n: int = eqx.field(static=True)

    def __check_init__(self):
        if self.n < 1:
            raise ValueError(f"Discrete(n={self.n}) is empty; n must be at least 1")

    @property
    def shape(self) -> tuple[int, ...]:
        return ()

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.int32)

    def contains(self, x) -> Bool[Array, ""]:
        """Whether ``x`` has this space's shape, dtype and range."""
        if not _same_form(x, self):
            return jnp.asarray(False)
        return jnp.all((x >= 0) & (x < self.n))

    def sample(self, key: PRNGKeyArray) -> Int[Array, ""]:
        """A uniformly random member."""
        return jax.random.randint(key, (), 0, self.n, dtype=self.dtype)


class Box(eqx.Module):
    """The float32 arrays of ``shape`` with every entry in [``low``, ``high``]; the bounds may be infinite."""

    shape: tuple[int, ...] = eqx.field(static=True)
    low: float = eqx.field(static=True)
    high: float = eqx.field(static=True)

    def __check_init__(self):
        if not self.low <= self.high:
            raise ValueError(f"Box has low={self.low} and high={self.high}; low must not exceed high")

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32)

    def contains(self, x) -> Bool[Array, ""]:
        """Whether ``x`` has this space's shape, dtype and range; NaN is never inside."""
        if not _same_form(x, self):
            return jnp.asarray(False)
        return jnp.all((x >= self.low) & (x <= self.high))

    def sample(self, key: PRNGKeyArray) -> Float[Array, "..."]:
        """A random member: uniform between finite bounds, else a standard normal clipped to the bounds."""
        if np.isfinite([self.low, self.high]).all():
            return jax.random.uniform(key, self.shape, self.dtype, self.low, self.high)
        return jnp.clip(jax.random.normal(key, self.shape, self.dtype), self.low, self.high)


class MultiDiscrete(eqx.Module):
    """The int32 arrays of ``shape`` whose entry i is one of 0, ..., counts[i] - 1, in row-major order."""

    counts: tuple[int, ...] = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)

    def __check_init__(self):
        if len(self.counts) != math.prod(self.shape):
            raise ValueError(f"MultiDiscrete has {len(self.counts)} counts and shape {self.shape}")
        if not self.counts or min(self.counts) < 1:
            raise ValueError(f"MultiDiscrete has counts {self.counts}; each must be at least 1")

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.int32)

    def contains(self, x) -> Bool[Array, ""]:
        """Whether ``x`` has this space's shape, dtype and range."""
        if not _same_form(x, self):
            return jnp.asarray(False)
        return jnp.all((x >= 0) & (jnp.ravel(x) < np.array(self.counts)).reshape(self.shape))

    def sample(self, key: PRNGKeyArray) -> Int[Array, "..."]:
        """A uniformly random member."""
        flat = jax.random.randint(key, (len(self.counts),), 0, np.array(self.counts), self.dtype)
        return flat.reshape(self.shape)


class Dict(eqx.Module):
    """The dictionaries with these names, each with a member of its space; names in sorted order."""

    parts: tuple[tuple[str, "Space"], ...] = eqx.field(static=True)

    def __init__(self, spaces: Mapping[str, "Space"]):
        if not spaces:
            raise ValueError("Dict is empty; it needs at least one space")
        self.parts = tuple(sorted(spaces.items()))

    def contains(self, x) -> Bool[Array, ""]:
        """Whether ``x`` has these names, and each entry lies in its space."""
        if not isinstance(x, dict) or sorted(x) != [name for name, _ in self.parts]:
            return jnp.asarray(False)
        return jnp.all(jnp.stack([space.contains(x[name]) for name, space in self.parts]))

    def sample(self, key: PRNGKeyArray) -> dict:
        """A random member."""
        keys = jax.random.split(key, len(self.parts))
        return {name: space.sample(k) for k, (name, space) in zip(keys, self.parts, strict=True)}


Space = Discrete | Box | MultiDiscrete | Dict


def member(space: Space, value: Any, name: str) -> Any:
    """The value as NumPy arrays of the space's dtype; numbers outside the bounds of a Box are let through.
    Raises ValueError that says what of ``name`` is wrong."""
    if isinstance(space, Dict):
        keys = keys_of(space, value, name)
        return {part: member(of, value[keys[part]], f"{name}['{part}']") for part, of in space.parts}
    array = formed(space, value, name)
    if isinstance(space, Box):
        array = array.astype(space.dtype)
        refuse(name, array, ~np.isfinite(array), "expected finite numbers")
        return array
    counts = space.n if isinstance(space, Discrete) else np.reshape(space.counts, space.shape)
    refuse(name, array, (array < 0) | (array >= counts), "it lies outside", space)
    return array.astype(space.dtype)


def keys_of(space: Dict, value: Any, name: str) -> dict[str, Any]:
    """The value's own key of each part, which reads like the part's name. Raises ValueError that lists the
    names, if one is missing."""
    names = [part for part, _ in space.parts]
    keys = {str(key): key for key in value} if isinstance(value, Mapping) else {}
    if not set(names) <= set(keys):
        raise ValueError(f"{name} is {value!r}; expected a dictionary with {', '.join(names)}")
    return keys


def formed(space: Discrete | Box | MultiDiscrete, value: Any, name: str) -> np.ndarray:
    """The value as an array, if it has the space's shape and, for choices, is of whole numbers. Raises
    ValueError that says which it has not."""
    array = np.asarray(value)
    if array.shape != space.shape:
        raise ValueError(f"{name} has shape {array.shape}; expected {space.shape}")
    if not isinstance(space, Box) and array.dtype.kind not in "biu":
        raise ValueError(f"{name} is {value!r}; expected whole numbers")
    return array


def refuse(name: str, array: np.ndarray, wrong: np.ndarray | np.bool, *rule: Any) -> None:
    """Raise ValueError naming the first entry that is wrong, and its place, if there is one. rule: the words
    of the reason, put into text only then."""
    if wrong.any():
        place = tuple(map(int, np.argwhere(wrong)[0]))
        at = f"[{', '.join(map(str, place))}]" if place else ""
        raise ValueError(f"{name}{at} is {array[place]}; {' '.join(map(str, rule))}")


def zeros(space: Space, *batch: int):
    """The all-zero value of a space's form, with leading axes ``batch``; NumPy arrays."""
    if isinstance(space, Dict):
        return {name: zeros(part, *batch) for name, part in space.parts}
    return np.zeros((*batch, *space.shape), space.dtype)


def width(space: Space) -> int:
    """How many numbers ``vector`` gives."""
    match space:
        case Discrete(n):
            return n
        case Box(shape):
            return math.prod(shape)
        case MultiDiscrete(counts):
            return sum(counts)
        case Dict(parts):
            return sum(width(part) for _, part in parts)


def vector(space: Space, value) -> Float[Array, " width"]:
    """A member as a vector: choices one-hot, boxes flattened, dictionaries joined in the order of their
    names."""
    match space:
        case Discrete(n):
            return jax.nn.one_hot(value, n)
        case Box():
            return jnp.ravel(value)
        case MultiDiscrete(counts):
            # Entry i owns the places from offset[i] on.
            offset = np.cumsum([0, *counts[:-1]])
            owner = np.repeat(np.arange(len(counts)), counts)
            return (np.arange(sum(counts)) == (jnp.ravel(value) + offset)[owner]).astype(jnp.float32)
        case Dict(parts):
            return jnp.concatenate([vector(part, value[name]) for name, part in parts])


def _same_form(x, space: Discrete | Box | MultiDiscrete) -> bool:
    x = jnp.asarray(x)
    return x.shape == space.shape and x.dtype == space.dtype

"""How many multiplications a traced computation makes, read from its jaxpr: no compiling, no running."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Var


def multiplications(program, *arguments: Any) -> int:
    """Real multiplications of ``program(*arguments)`` that depend on its arguments: those of matrix products
    and of entries with entries. What is made of closed-over weights alone could be made once, and does not
    count. A complex product is four. A loop counts as often as it runs, one of unknown length once; of
    branches the longest counts.

    arguments: pytrees of arrays or of their ``jax.ShapeDtypeStruct``.
    """
    closed = jax.make_jaxpr(program)(*arguments)
    return _count(closed.jaxpr, [True] * len(closed.jaxpr.invars))


def _count(jaxpr, depends: list[bool]) -> int:
    known = dict(zip(jaxpr.invars, depends, strict=True))
    total = 0
    for equation in jaxpr.eqns:
        flags = [known.get(v, False) if isinstance(v, Var) else False for v in equation.invars]
        total += _of_equation(equation, flags)
        known |= dict.fromkeys(equation.outvars, any(flags))
    return total


def _of_equation(equation, flags: list[bool]) -> int:
    name, parameters = equation.primitive.name, equation.params
    if not any(flags):
        return 0
    out = equation.outvars[0].aval
    each = 4 if jnp.issubdtype(out.dtype, jnp.complexfloating) else 1
    if name == "mul":
        return each * out.size
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return each * out.size * int(np.prod([left[axis] for axis in contracted], dtype=int))
    if name == "project":  # core/projection.py
        return each * out.size * equation.invars[0].aval.shape[-1]
    inner = [x for x in jax.tree.leaves(list(parameters.values()), is_leaf=_is_jaxpr) if _is_jaxpr(x)]
    if not inner:
        return 0
    counts = []
    for one in inner:
        body = getattr(one, "jaxpr", one)
        same = len(body.invars) == len(flags) and name not in ("scan", "while")
        counts.append(_count(body, flags if same else [True] * len(body.invars)))
    return max(counts) * parameters["length"] if name == "scan" else max(counts)


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")

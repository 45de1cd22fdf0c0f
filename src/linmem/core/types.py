"""The time convention and the raw step that every memory reads.

Written once, here; every other file follows it.

At step ``t`` the agent has

    o_t        the observation made at t
    a_{t-1}    the action taken before it (it caused the move to the present state)
    r_{t-1}    the reward that this action earned
    start_t    True where an episode begins at t

``start_t = True`` erases the memory ``h_{t-1}`` BEFORE ``x_t`` enters. There is then no previous action or
reward: their slots hold zeros, and a memory that needs to know reads ``start``.

Arrays with a time axis have it first: ``(T, ...)``. Distributions stand in rows: ``transition[s, s']`` is
P(next = s' | current = s) and ``emission[s, o]`` is P(observation = o | state = s), each row summing to 1.
(The paper this library is built around writes columns, T[i, j] = P(next = i | current = j); our arrays are
its transposes.)
"""

from typing import Any, NamedTuple

from jaxtyping import Array, Bool, Float

Start = Bool[Array, ""]
"""One start flag."""


class Inputs(NamedTuple):
    """The raw step x_t: what the agent has at step t (start_t is passed beside it).

    observation: o_t, of the world's observation space.
    action:      a_{t-1}, of the world's action space; zeros at a start.
    reward:      r_{t-1}, a float; zero at a start. In the world's units: what a learner divides rewards by
                 stays with it, so a deployed policy reads the same numbers.
    """

    observation: Any
    action: Any
    reward: Float[Array, "..."]

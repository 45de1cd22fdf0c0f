"""Spaces: what belongs, what does not, and members as vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linmem.worlds.spaces import Box, Dict, Discrete, MultiDiscrete, vector, width, zeros

MANY = MultiDiscrete((2, 3, 1, 4, 2, 5), (2, 3))
ALL = Dict({"z": Discrete(3), "a": Box((2,), -1.0, 1.0), "m": MANY})


@pytest.mark.parametrize("space", [Discrete(3), Box((2, 1), -1.0, np.inf), MANY, ALL])
def test_samples_and_zeros_are_members_of_the_width_that_is_told(space):
    for key in jax.random.split(jax.random.key(0), 20):
        member = space.sample(key)
        assert space.contains(member)
        assert vector(space, member).shape == (width(space),)
    assert space.contains(zeros(space))
    form = jax.tree.map(lambda x: x.shape, zeros(space, 4, 7))
    assert form == jax.tree.map(lambda x: (4, 7, *x.shape), zeros(space))


def test_choices_become_one_hot_one_after_another():
    value = np.array([[1, 2, 0], [3, 0, 4]], np.int32)
    expected = np.concatenate([np.eye(n)[v] for n, v in zip(MANY.counts, value.ravel(), strict=True)])
    np.testing.assert_array_equal(vector(MANY, value), expected)


def test_a_dictionary_is_joined_in_the_order_of_its_names():
    value = {"z": jnp.asarray(2), "m": np.zeros((2, 3), np.int32), "a": jnp.array([0.5, -0.25])}
    joined = np.asarray(vector(ALL, value))
    np.testing.assert_array_equal(joined[:2], [0.5, -0.25])
    np.testing.assert_array_equal(joined[-3:], [0, 0, 1])


def test_what_is_out_of_range_or_of_another_form_does_not_belong():
    inside = np.array([[1, 2, 0], [3, 1, 4]], np.int32)
    assert MANY.contains(inside)
    for wrong in (inside + 1, inside - 1, inside.ravel(), inside.astype(np.float32)):
        assert not MANY.contains(wrong)
    member = ALL.sample(jax.random.key(0))
    assert not ALL.contains({name: member[name] for name in ("z", "a")})
    assert not ALL.contains({**member, "z": jnp.asarray(3)})
    assert not ALL.contains(member["z"])


def test_spaces_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"3 counts and shape \(2,\)"):
        MultiDiscrete((2, 2, 2), (2,))
    with pytest.raises(ValueError, match="each must be at least 1"):
        MultiDiscrete((2, 0), (2,))
    with pytest.raises(ValueError, match="Dict is empty"):
        Dict({})

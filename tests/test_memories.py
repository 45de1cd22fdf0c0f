"""Every memory keeps every promise."""

import importlib
import pkgutil

import pytest

import linmem.memories as memories
from linmem.memories import CONFORMING
from linmem.memories.base import AbstractMemory
from linmem.memories.promises import PROMISES


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("cls", CONFORMING, ids=lambda cls: cls.__name__)
def test_every_memory_keeps_every_promise(cls, promise):
    promise(cls)


def test_every_concrete_memory_of_the_package_is_in_the_conformance_list():
    found = set()
    for module in pkgutil.iter_modules(memories.__path__):
        for value in vars(importlib.import_module(f"linmem.memories.{module.name}")).values():
            if (
                isinstance(value, type)
                and issubclass(value, AbstractMemory)
                and value.__module__.endswith(module.name)
            ):
                if not value.__name__.startswith(("Abstract", "_")):
                    found.add(value)
    assert found == set(CONFORMING)

"""The three levels of a world."""

from typing import TypeVar

LEVELS = ("easy", "medium", "hard")

T = TypeVar("T")


def at_level(level: str, easy: T, medium: T, hard: T) -> T:
    """What belongs to ``level``. Raises ValueError naming the levels if it is none of them."""
    if level not in LEVELS:
        raise ValueError(f"level is '{level}'; known: {', '.join(LEVELS)}")
    return (easy, medium, hard)[LEVELS.index(level)]

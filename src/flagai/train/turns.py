"""Work before a run that each process does for itself: all at once, or the first one ahead. Knows not what it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from flagai.parallel.company import company

T = TypeVar("T")


def each(make: Callable[[], T]) -> T:
    """What `make` gives on this process; all wait for all, and an error on one is an error on all. Collective."""
    made: list[T] = []
    company("run").together(lambda: made.append(make()))
    return made[0]


def first_alone(make: Callable[[], T]) -> T:
    """As `each`, but the others begin when the first one is done, and find what it has left on the disk. Collective."""
    made: list[T] = []
    us = company("run")
    us.together(lambda: made.append(make()) if us.is_first else None)
    us.together(lambda: None if us.is_first else made.append(make()))
    return made[0]


def by_first(make: Callable[[], T]) -> T:
    """What `make` gives on the first process, on all; the others do not call it. Collective."""
    return company("run").first(make)

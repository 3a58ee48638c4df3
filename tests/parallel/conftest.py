"""Lets the processes of a test find the functions they run, and keeps some processes for all tests of this folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="package")
def two() -> Iterator[Any]:
    """Two processes that live as long as the tests of this folder."""
    import spread_world as worlds

    with worlds.world(2) as made:
        yield made


@pytest.fixture(scope="package")
def four() -> Iterator[Any]:
    """Four of them."""
    import spread_world as worlds

    with worlds.world(4) as made:
        yield made

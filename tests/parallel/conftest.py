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


@pytest.fixture
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variables of a launcher from outside; tests on a busy machine wait for less."""
    from flagai.parallel import worker

    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", worker.FOLDER, worker.AGENT):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FLAGAI_TIMEOUT", "120")

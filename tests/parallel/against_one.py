"""Trainings of strategies with engines of their own, held against one process within the bounds of spread_checks."""

from __future__ import annotations

from functools import cache
from typing import Any

import spread_jobs as jobs
from spread_checks import HALF, LOSS, NORM, PROOF, ROWS, WEIGHT, differences

__all__ = ["HALF", "LOSS", "NORM", "PROOF", "ROWS", "WEIGHT", "agree", "alone", "differences"]


@cache
def alone(family: str, accumulation: int = 1, rows: tuple[int, ...] = jobs.ROWS, **options: Any) -> dict[str, Any]:
    """The training of one process; options: `precision`, `optimizer` and others of `jobs.train`."""
    return jobs.train(family, None, accumulation=accumulation, rows=rows, **options)


def agree(results: list[dict[str, Any]], expected: dict[str, Any]) -> None:
    """All processes found what one process finds: losses, norms and weights, not each gradient."""
    for found in results:
        loss, norm, weight = differences(found, expected)
        print(f"loss {loss:.1e} norm {norm:.1e} weight {weight:.1e}")
        assert loss < LOSS and norm < NORM and weight < WEIGHT

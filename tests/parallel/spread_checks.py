"""How near two trainings must come, and the training of one process that others are compared with."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import spread_jobs as jobs

LOSS, NORM, WEIGHT = 5e-6, 5e-5, 2e-5
"""largest differences allowed in fp32: loss (near 5), relative norm, weights (near 1)"""
HALF = 0.1
"""the same for losses in bf16, whose numbers are exact to a hundredth; the last step has one example"""
ROWS = (8, 7, 8, 1)
"""a short training"""
PROOF = pytest.mark.proof


@cache
def alone(
    family: str, accumulation: int = 1, rows: tuple[int, ...] = jobs.ROWS, precision: str = "fp32"
) -> dict[str, Any]:
    """The training of one process."""
    return jobs.train(family, None, accumulation=accumulation, rows=rows, precision=precision)


def differences(found: dict[str, Any], expected: dict[str, Any]) -> tuple[float, float, float]:
    """Largest of loss, relative norm and weights."""
    losses, norms = np.array(found["steps"]).T, np.array(expected["steps"]).T
    assert found["weights"].keys() == expected["weights"].keys()
    weights = max(np.abs(found["weights"][n] - w).max() for n, w in expected["weights"].items())
    return np.abs(losses[0] - norms[0]).max(), np.abs(losses[1] / norms[1] - 1).max(), float(weights)


def agree(results: list[dict[str, Any]], expected: dict[str, Any], *, norm: float = NORM) -> None:
    """All processes found what one process finds."""
    for found in results:
        loss, relative, weight = differences(found, expected)
        print(f"loss {loss:.1e} norm {relative:.1e} weight {weight:.1e}")
        assert loss < LOSS and relative < norm and weight < WEIGHT


def quick(values: list[Any], *, but: set[Any]) -> list[Any]:
    """Parameters of a test: those of `but` run always, the others are proofs."""
    return [v if v in but else pytest.param(*(v if isinstance(v, tuple) else (v,)), marks=PROOF) for v in values]

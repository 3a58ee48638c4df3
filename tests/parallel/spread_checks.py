"""How near two trainings must come, and the training of one process that others are compared with."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import spread_jobs as jobs

LOSS, NORM, WEIGHT = 5e-6, 5e-5, 2e-5
"""largest differences allowed in fp32: loss (near 5), relative norm, weights (near 1)"""
GRADIENT, NOTHING = 3e-5, 3e-7
"""and of each number of a gradient: a share of the largest of its tensor, and of the largest of the whole model, which
is what rounding leaves of a gradient that is zero in exact arithmetic (the bias of keys)"""
HALF = 0.1
"""the same for losses in bf16, whose numbers are exact to a hundredth; the last step has one example"""
ROWS = (8, 7, 8, 1)
"""a short training"""
STEPS = len(jobs.ROWS)
"""of a proof: uneven batches, some with fewer examples than processes"""
PROOF = pytest.mark.proof


@cache
def alone(
    family: str, accumulation: int = 1, rows: tuple[int, ...] = jobs.ROWS, precision: str = "fp32"
) -> dict[str, Any]:
    """The training of one process, with the gradients of all its steps."""
    return jobs.train(family, None, accumulation=accumulation, rows=rows, precision=precision, gradients=len(rows))


def differences(found: dict[str, Any], expected: dict[str, Any]) -> tuple[float, float, float]:
    """Largest of loss, relative norm and weights."""
    losses, norms = np.array(found["steps"]).T, np.array(expected["steps"]).T
    assert found["weights"].keys() == expected["weights"].keys()
    weights = max(np.abs(found["weights"][n] - w).max() for n, w in expected["weights"].items())
    return np.abs(losses[0] - norms[0]).max(), np.abs(losses[1] / norms[1] - 1).max(), float(weights)


def unlike(found: dict[str, Any], expected: dict[str, Any]) -> list[float]:
    """Of each step with gradients: the largest difference of a number of any, in units of what is allowed."""
    worst = []
    for ours, theirs in zip(found["gradients"], expected["gradients"], strict=False):
        assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
        most = max(np.abs(g).max() for g in theirs.values())
        allowed = {name: GRADIENT * np.abs(g).max() + NOTHING * most for name, g in theirs.items()}
        worst.append(max(float(np.abs(ours[n] - g).max() / allowed[n]) for n, g in theirs.items()))
    return worst


def agree(
    results: list[dict[str, Any]],
    expected: dict[str, Any],
    *,
    norm: float = NORM,
    gradients: int = 1,
    gradient: float = 1.0,
) -> None:
    """All processes found what one process finds.

    Args:
        gradients: of how many steps they must have been compared; 0 for a training that goes on from another.
        gradient: how many times the usual difference is allowed there.
    """
    for found in results:
        loss, relative, weight = differences(found, expected)
        worst = unlike(found, expected)
        print(f"loss {loss:.1e} norm {relative:.1e} weight {weight:.1e} gradients {max(worst, default=0):.2f}")
        assert loss < LOSS and relative < norm and weight < WEIGHT
        assert len(worst) == gradients and all(value < gradient for value in worst), worst


def quick(values: list[Any], *, but: set[Any]) -> list[Any]:
    """Parameters of a test: those of `but` run always, the others are proofs."""
    return [v if v in but else pytest.param(*(v if isinstance(v, tuple) else (v,)), marks=PROOF) for v in values]

"""Every way of spreading a model against one process: losses, gradient norms and weights over 20 steps."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import spread_jobs as jobs
import spread_world as worlds


LOSS, NORM, WEIGHT = 2e-5, 2e-4, 1e-4
"""largest differences allowed in fp32: loss, relative norm, weights (all near 1)"""


@pytest.fixture(scope="module")
def two() -> Iterator[Any]:
    with worlds.world(2) as made:
        yield made


@cache
def alone(family: str, accumulation: int = 1, optimizer: str = "adamw") -> dict[str, Any]:
    return jobs.train(family, None, accumulation=accumulation, optimizer=optimizer)


def differences(found: dict[str, Any], expected: dict[str, Any]) -> tuple[float, float, float]:
    """Largest of loss, relative norm and weights."""
    losses, norms = np.array(found["steps"]).T, np.array(expected["steps"]).T
    assert found["weights"].keys() == expected["weights"].keys()
    weights = max(np.abs(found["weights"][n] - w).max() for n, w in expected["weights"].items())
    return np.abs(losses[0] - norms[0]).max(), np.abs(losses[1] / norms[1] - 1).max(), float(weights)


def agree(results: list[dict[str, Any]], expected: dict[str, Any]) -> None:
    for found in results:
        loss, norm, weight = differences(found, expected)
        print(f"loss {loss:.1e} norm {norm:.1e} weight {weight:.1e}")
        assert loss < LOSS and norm < NORM and weight < WEIGHT


TWO = {
    "ddp": {"replicate": 2},
    "fsdp": {"shard": 2},
    "tensor": {"tensor": 2},
    "pipeline": {"pipeline": 2},
}


@pytest.mark.parametrize("family", ["glm", "bert"])
@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("way", TWO)
def test_two_processes_train_as_one(two: Any, way: str, family: str, accumulation: int) -> None:
    results = two.run("train", family=family, sizes=TWO[way], accumulation=accumulation)
    agree(results, alone(family, accumulation))


@pytest.mark.parametrize("family", ["roberta", "modernbert", "gpt2", "opt", "t5", "llama", "qwen3", "classifier"])
def test_the_plan_of_each_family(two: Any, family: str) -> None:
    results = two.run("train", family=family, sizes=TWO["tensor"])
    agree(results, alone(family))
    assert results[0]["numbers"] < 0.75 * sum(w.size for w in results[0]["weights"].values())


@pytest.mark.parametrize("family", ["roberta", "modernbert", "gpt2", "opt", "llama", "classifier"])
def test_the_stages_of_each_family(two: Any, family: str) -> None:
    results = two.run("train", family=family, sizes=TWO["pipeline"])
    agree(results, alone(family))
    assert results[0]["numbers"] < 0.75 * sum(w.size for w in results[0]["weights"].values())

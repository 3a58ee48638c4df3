"""Several ways of spreading at once: products of copies, shards, tensor parts and stages on four processes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import spread_jobs as jobs
import spread_world as worlds

LOSS, NORM, WEIGHT = 5e-6, 5e-5, 2e-5
"""as in test_spread.py"""
ROWS = jobs.ROWS[:9]
"""with the steps of three examples and of one"""
FOUR: dict[str, dict[str, Any]] = {
    "copies of tensor parts": {"sizes": {"replicate": 2, "tensor": 2}},
    "copies of stages": {"sizes": {"replicate": 2, "pipeline": 2}},
    "stages of tensor parts": {"sizes": {"pipeline": 2, "tensor": 2}},
    "stages that share tokens": {"sizes": {"pipeline": 2, "tensor": 2}, "sequence": True},
    "shards of tensor parts": {"sizes": {"shard": 2, "tensor": 2}},
    "shards that share tokens": {"sizes": {"shard": 2, "tensor": 2}, "sequence": True},
    "copies of shards": {"sizes": {"replicate": 2, "shard": 2}},
    "four copies": {"sizes": {"replicate": 4}},
    "four shards": {"sizes": {"shard": 4}},
    "four stages": {"sizes": {"pipeline": 4}},
    "four tensor parts that share tokens": {"sizes": {"tensor": 4}, "sequence": True},
}


@pytest.fixture(scope="module")
def four() -> Iterator[Any]:
    with worlds.world(4) as made:
        yield made


@cache
def alone(family: str) -> dict[str, Any]:
    return jobs.train(family, None, accumulation=3, rows=ROWS)


QUICK = ("copies of tensor parts", "copies of stages", "shards of tensor parts", "stages that share tokens")


@pytest.mark.parametrize(
    ("way", "family"),
    [
        pytest.param(way, family, marks=() if way in QUICK and family == "glm" else pytest.mark.slow)
        for way in FOUR
        for family in ("glm", "bert")
    ],
)
def test_four_processes_train_as_one(four: Any, way: str, family: str) -> None:
    expected = alone(family)
    for found in four.run("train", family=family, **FOUR[way], accumulation=3, rows=ROWS):
        losses, norms = np.array(found["steps"]).T, np.array(expected["steps"]).T
        weight = max(np.abs(found["weights"][n] - w).max() for n, w in expected["weights"].items())
        loss, norm = np.abs(losses[0] - norms[0]).max(), np.abs(losses[1] / norms[1] - 1).max()
        print(f"{way}: loss {loss:.1e} norm {norm:.1e} weight {weight:.1e}")
        assert loss < LOSS and norm < NORM and weight < WEIGHT


@pytest.mark.parametrize("way", ["stages of tensor parts", "shards of tensor parts", "copies of shards"])
def test_parts_make_up_the_whole_once(four: Any, way: str) -> None:
    found = four.run("parts", family="gpt2", **FOUR[way])
    whole = found[0][1]
    seen = {entry: np.zeros(value.shape, dtype=int) for entry, value in whole.items()}
    for mine, _ in found:
        for name, key, _, offset, size, values in mine:
            place = tuple(slice(a, a + n) for a, n in zip(offset, size, strict=True))
            seen[name, key][place] += 1
            np.testing.assert_array_equal(values, whole[name, key][place])
    assert all((counts == 1).all() for counts in seen.values())


def test_a_run_goes_on_in_another_product(four: Any) -> None:
    rows = jobs.ROWS
    once = jobs.train("gpt2", None, rows=rows[:8])
    first = four.run("train", family="gpt2", **FOUR["shards of tensor parts"], rows=rows[:4])[0]
    second = four.run("train", family="gpt2", **FOUR["copies of stages"], rows=rows[4:8], first=4, start=first)[0]
    np.testing.assert_allclose(
        np.array(first["steps"] + second["steps"])[:, 0], np.array(once["steps"])[:, 0], atol=LOSS
    )

"""Several ways of spreading at once: products of copies, shards, stages, shared tokens and tensor parts."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import spread_jobs as jobs
from spread_checks import HALF, LOSS, NORM, PROOF, STEPS, agree, alone, differences, quick, unlike

ROWS = (8, 7, 3, 1)
FOUR: dict[str, dict[str, Any]] = {
    "copies of tensor parts": {"sizes": {"replicate": 2, "tensor": 2}},
    "copies of stages": {"sizes": {"replicate": 2, "pipeline": 2}},
    "copies of texts": {"sizes": {"replicate": 2, "context": 2}},
    "copies of shards": {"sizes": {"replicate": 2, "shard": 2}},
    "stages of tensor parts": {"sizes": {"pipeline": 2, "tensor": 2}},
    "stages that share tokens": {"sizes": {"pipeline": 2, "tensor": 2}, "sequence": True, "recompute": True},
    "stages of shards": {"sizes": {"pipeline": 2, "shard": 2}},
    "stages of texts": {"sizes": {"pipeline": 2, "context": 2}, "schedule": "interleaved"},
    "shards of tensor parts": {"sizes": {"shard": 2, "tensor": 2}},
    "shards that share tokens": {"sizes": {"shard": 2, "tensor": 2}, "sequence": True},
    "shards of texts": {"sizes": {"shard": 2, "context": 2}, "context_method": "ulysses"},
    "texts of tensor parts": {"sizes": {"context": 2, "tensor": 2}, "context_method": "ulysses"},
    "texts that share tokens": {"sizes": {"context": 2, "tensor": 2}, "sequence": True, "recompute": True},
    "four copies": {"sizes": {"replicate": 4}},
    "four shards": {"sizes": {"shard": 4}},
    "four stages": {"sizes": {"pipeline": 4}},
    "four texts": {"sizes": {"context": 4}},
    "four tensor parts that share tokens": {"sizes": {"tensor": 4}, "sequence": True},
}
QUICK = {
    ("copies of stages", "glm"),
    ("stages of shards", "t5"),
    ("shards of tensor parts", "glm"),
    ("texts that share tokens", "glm"),
}


@pytest.mark.parametrize(("way", "family"), sorted(QUICK))
def test_four_processes_train_as_one(four: Any, way: str, family: str) -> None:
    results = four.run("train", family=family, **FOUR[way], accumulation=3, rows=ROWS)
    agree(results, alone(family, 3, ROWS))


@PROOF
@pytest.mark.parametrize(
    ("way", "family"),
    [*product(FOUR, ("glm", "bert")), *product([w for w in FOUR if "text" not in w and "share" not in w], ("t5",))],
)
def test_twenty_steps(four: Any, way: str, family: str) -> None:
    results = four.run("train", family=family, **FOUR[way], accumulation=3, gradients=STEPS)
    agree(results, alone(family, 3), gradients=STEPS)


@pytest.mark.parametrize("plant", quick(["mean of means", "every process counts"], but={"mean of means"}))
def test_a_wrong_normaliser_is_noticed(four: Any, plant: str) -> None:
    """Copies that divide by their own count; members of a tensor group that count each for itself."""
    rows = ROWS[:3]  # each copy has a count to divide by
    results = four.run("train", family="glm", **FOUR["copies of tensor parts"], rows=rows, plant=plant)
    expected = alone("glm", rows=rows)
    loss, norm, _ = differences(results[0], expected)
    assert norm > 10 * NORM and unlike(results[0], expected)[0] > 10
    assert plant == "every process counts" or loss > 10 * LOSS  # a quotient of two numbers, both too large


@PROOF
def test_eight_processes_and_three_axes() -> None:
    import spread_world as worlds

    with worlds.world(8) as eight:
        for sizes in (
            {"replicate": 2, "tensor": 2, "pipeline": 2},
            {"shard": 2, "tensor": 2, "pipeline": 2},
            {"replicate": 2, "shard": 2, "context": 2},
        ):
            results = eight.run("train", family="glm", sizes=sizes, accumulation=3, gradients=STEPS)
            agree(results, alone("glm", 3), gradients=STEPS)


@pytest.mark.parametrize("way", quick(["stages of shards", "shards of texts", "shards of tensor parts"], but=set()))
def test_in_half_precision(four: Any, way: str) -> None:
    """Layers that narrow their weights once for several micro-batches would send gradients too early."""
    results = four.run("train", family="glm", **FOUR[way], accumulation=3, rows=ROWS, precision="bf16")
    loss, norm, _ = differences(results[0], alone("glm", 3, ROWS, "bf16"))
    assert loss < HALF and norm < HALF


@pytest.mark.parametrize(
    ("way", "family"),
    quick(
        list(
            product(
                ("stages of tensor parts", "shards of tensor parts", "copies of shards", "stages of shards"),
                ("gpt2", "t5"),
            )
        ),
        but={("stages of shards", "t5"), ("shards of tensor parts", "gpt2")},
    ),
)
def test_parts_make_up_the_whole_once(four: Any, way: str, family: str) -> None:
    jobs.check_parts(four.run("parts", family=family, **FOUR[way]))


@PROOF
def test_a_run_goes_on_in_another_product(four: Any) -> None:
    rows = jobs.ROWS
    once = jobs.train("gpt2", None, rows=rows[:8])
    first = four.run("train", family="gpt2", **FOUR["shards of tensor parts"], rows=rows[:4])[0]
    second = four.run("train", family="gpt2", **FOUR["copies of stages"], rows=rows[4:8], first=4, start=first)[0]
    np.testing.assert_allclose(
        np.array(first["steps"] + second["steps"])[:, 0], np.array(once["steps"])[:, 0], atol=LOSS
    )

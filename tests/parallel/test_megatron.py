"""Strategy megatron: Megatron-Core's layers against one process, and its distributed checkpoints."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spread_jobs as jobs
import spread_models as models
import spread_world as worlds
from against_one import HALF, NORM, ROWS, WEIGHT, agree, alone, differences

from flagai.config import ParallelConfig
from flagai.errors import ConfigError, MissingExtraError
from flagai.parallel.choose import make_strategy

pytest.importorskip("megatron.core")

TWO = {"tensor": 2}


@pytest.fixture(scope="module")
def two() -> Iterator[Any]:
    with worlds.world(2) as made:
        yield made


def train(world: Any, family: str, sizes: dict[str, int], **options: Any) -> list[dict[str, Any]]:
    return world.run("megatron_jobs:job", name="train", family=family, sizes=sizes, **options)


@pytest.mark.parametrize(("family", "accumulation"), [("glm", 1), ("glm", 3), ("gpt2", 1)])
def test_two_processes_train_as_one(two: Any, family: str, accumulation: int) -> None:
    results = train(two, family, TWO, accumulation=accumulation, rows=jobs.ROWS)
    agree(results, alone(family, accumulation))
    assert results[0]["numbers"] < 0.6 * sum(w.size for w in results[0]["weights"].values())


@pytest.mark.parametrize("family", ["glm", "gpt2"])
def test_its_layers_on_copies_of_one_process(two: Any, family: str) -> None:
    agree(train(two, family, {"replicate": 2}, rows=jobs.ROWS), alone(family))


@pytest.mark.parametrize("family", ["bert", "t5", "llama", "qwen3"])  # OPT's ReLU: rounding decides at 0
def test_other_families_by_the_same_plans(two: Any, family: str) -> None:
    agree(train(two, family, TWO, rows=ROWS), alone(family, rows=ROWS))


@pytest.mark.slow
def test_copies_of_tensor_parts() -> None:
    with worlds.world(4) as four:
        agree(train(four, "glm", {"replicate": 2, "tensor": 2}, rows=ROWS), alone("glm", rows=ROWS))


def test_the_layers_are_those_of_megatron(two: Any) -> None:
    found = two.run("megatron_jobs:kinds", family="glm", sizes=TWO)[0]
    assert found == {
        "VocabParallelEmbedding": 1,
        "ColumnParallelLinear": 4 * 4 + 1,
        "RowParallelLinear": 4 * 2,
        "new names": 0,
    }


def test_a_missing_sum_is_noticed(two: Any) -> None:
    found = train(two, "glm", TWO, rows=ROWS, plant="gradients of q, k and v in pieces")[0]
    assert differences(found, alone("glm", rows=ROWS))[1] > 10 * NORM


@pytest.mark.parametrize("family", ["glm", "bert"])
def test_a_vocabulary_that_two_do_not_divide(two: Any, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "VOCABULARY", 97)
    monkeypatch.setattr(models, "VOCABULARY", 97)
    agree(train(two, family, TWO, rows=ROWS, vocabulary=97), jobs.train(family, None, rows=ROWS))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision(two: Any, precision: str) -> None:
    expected = jobs.train("glm", None, rows=ROWS, precision=precision)
    assert differences(train(two, "glm", TWO, rows=ROWS, precision=precision)[0], expected)[0] < HALF


@pytest.mark.parametrize("options", [{"recompute": True}, {"packed": True}], ids=["recompute", "without pads"])
def test_layers_computed_twice_or_without_pads(two: Any, options: dict[str, Any]) -> None:
    agree(train(two, "glm", TWO, rows=ROWS, **options), alone("glm", rows=ROWS))


def test_evaluation_gives_all_processes_the_same(two: Any) -> None:
    expected = jobs.evaluate("glm", None)
    for found in two.run("megatron_jobs:job", name="evaluate", family="glm", sizes=TWO):
        np.testing.assert_allclose(found["logits"], expected["logits"], atol=2e-5)
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)


@pytest.mark.parametrize(("family", "meta"), [("glm", False), ("gpt2", True)])
def test_a_run_goes_on_from_one_process_and_back(two: Any, family: str, meta: bool) -> None:
    rows, more = jobs.ROWS[:6], jobs.ROWS[6:12]
    once = jobs.train(family, None, rows=jobs.ROWS[:12])
    once["steps"] = once["steps"][6:]
    first = jobs.train(family, None, rows=rows)
    agree(train(two, family, TWO, rows=more, first=6, start=first, meta=meta), once)
    first = train(two, family, TWO, rows=rows)[0]
    agree([jobs.train(family, None, rows=more, first=6, start=first)], once)


@pytest.mark.parametrize(
    ("family", "vocabulary", "words"),
    [
        ("three heads", 96, ["num_attention_heads 3", "parallel.tensor"]),
        ("lora", 96, ["adapter"]),
        ("own", 96, ["flagai_plan"]),
    ],
)
def test_what_cannot_be_is_said(two: Any, family: str, vocabulary: int, words: list[str]) -> None:
    for kind, text in two.run("megatron_jobs:error", family=family, sizes=TWO, vocabulary=vocabulary):
        assert kind == "ModelError"
        assert all(word in text for word in words), text


@pytest.fixture(scope="module", params=["glm", "gpt2"])
def saved(two: Any, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Six steps on two processes, in Megatron's form."""
    folder = tmp_path_factory.mktemp("megatron") / "checkpoint"
    done = two.run("megatron_jobs:save", family=request.param, sizes=TWO, folder=str(folder), rows=jobs.ROWS[:6])
    assert done == [("", "")] * 2
    return request.param, folder


LAYOUTS: dict[str, dict[str, Any]] = {
    "as saved": {"sizes": TWO},
    "tensor 1": {"sizes": {"replicate": 2}},
    "stages of strategy ddp": {"sizes": {"pipeline": 2}, "native": True},
    "shards": {"sizes": {"shard": 2}, "native": True},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_its_checkpoint_goes_on_at_another_size(two: Any, saved: tuple[str, Path], layout: str) -> None:
    family, folder = saved
    once = jobs.train(family, None, rows=jobs.ROWS[:12])
    options = {"family": family, "folder": str(folder), "rows": jobs.ROWS[6:12], "first": 6}
    agree(two.run("megatron_jobs:load", **options, **LAYOUTS[layout]), once | {"steps": once["steps"][6:]})


def test_megatrons_own_loader_reads_it(two: Any, saved: tuple[str, Path]) -> None:
    family, folder = saved
    halves = two.run("megatron_jobs:read_by_megatron", family=family, folder=str(folder))
    expected = jobs.train(family, None, rows=jobs.ROWS[:6])["weights"][halves[0]["name"]]
    np.testing.assert_allclose(np.concatenate([half["half"] for half in halves]), expected, atol=WEIGHT)


def test_a_checkpoint_of_another_model_changes_nothing(two: Any, saved: tuple[str, Path]) -> None:
    options = {"family": "bert", "sizes": TWO, "folder": str(saved[1]), "rows": ROWS, "first": 6}
    for found in two.run("megatron_jobs:load", **options):
        assert found["error"][0] in ("CheckpointError", "OtherRankError")
        assert "another model" in found["error"][1]
        assert found["unchanged"]


def test_a_folder_that_is_none_or_is_there_already(two: Any, tmp_path: Path) -> None:
    options = {"family": "glm", "sizes": TWO, "folder": str(tmp_path), "rows": jobs.ROWS[:1]}
    for found in two.run("megatron_jobs:load", **options, first=0):
        assert found["error"][0] == "CheckpointError"
    kinds = [kind for kind, _ in two.run("megatron_jobs:save", **options)]
    assert kinds == ["OutputError", "OtherRankError"]


@pytest.mark.parametrize(("key", "value"), [("sequence", True), ("context", 2)])
def test_settings_that_mean_nothing_here(key: str, value: Any) -> None:
    config = ParallelConfig(strategy="megatron", tensor=2, **{key: value})
    with pytest.raises(ConfigError, match=f"parallel.{key}"):
        make_strategy(config, device="cpu")


def test_too_few_processes_are_named() -> None:
    with pytest.raises(ConfigError, match="tensor 2"):
        make_strategy(ParallelConfig(strategy="megatron", tensor=2), device="cpu")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if "megatron.core" in name else usual(name))
    monkeypatch.delitem(sys.modules, "megatron.core", raising=False)
    with pytest.raises(MissingExtraError, match=r"flagai\[megatron\]"):
        make_strategy(ParallelConfig(strategy="megatron", tensor=2), device="cpu")

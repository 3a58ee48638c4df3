"""Strategy bmtrain with a stand-in of BMTrain's interface: the translation, training against one process, the state."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import spread_jobs as jobs
import spread_world as worlds
import torch
from against_one import HALF, NORM, ROWS, agree, alone, differences

from flagai.config import ParallelConfig
from flagai.errors import ConfigError, MissingExtraError
from flagai.parallel import bmtrain


@pytest.fixture(scope="module")
def two() -> Iterator[Any]:
    with worlds.world(2) as made:
        yield made


def train(world: Any, family: str, **options: Any) -> list[dict[str, Any]]:
    return world.run("bmtrain_jobs:job", name="train", family=family, **options)


@pytest.mark.parametrize("family", ["glm", "gpt2", "bert"])
def test_the_model_is_translated(two: Any, family: str) -> None:
    assert two.run("bmtrain_jobs:prepared", family=family)[0] == {
        "same names": True,
        "ties": (1, 1) if family != "bert" else (2, 2),
        "cut": True,
        "blocks": 4,
        "same kind": True,
    }


def test_layers_that_share_parameters_are_refused(two: Any) -> None:
    kind, text = two.run("bmtrain_jobs:shared")[0]
    assert kind == "ModelError" and "post_attention_layernorm.weight" in text and "zero3" in text


@pytest.mark.parametrize(("family", "accumulation"), [("glm", 1), ("glm", 3), ("gpt2", 1)])
def test_two_processes_train_as_one(two: Any, family: str, accumulation: int) -> None:
    results = train(two, family, accumulation=accumulation, rows=jobs.ROWS)
    agree(results, alone(family, accumulation))
    whole = sum(w.size for w in results[0]["weights"].values())
    assert all(found["numbers"] < 0.6 * whole for found in results)


@pytest.mark.parametrize("family", ["bert", "llama", "t5", "headed", "lora"])
def test_other_models(two: Any, family: str) -> None:
    """Llama's layers take tensors by keyword behind an argument that is left out."""
    agree(train(two, family, rows=ROWS), alone(family, rows=ROWS))


@pytest.mark.parametrize("options", [{"recompute": True}, {"packed": True}], ids=["recompute", "without pads"])
def test_layers_computed_twice_or_without_pads(two: Any, options: dict[str, Any]) -> None:
    """The plan of a packed batch reaches the layers by `**kwargs`, which a block drops."""
    agree(train(two, "glm", rows=ROWS, **options), alone("glm", rows=ROWS))


def test_gradients_that_are_not_zeroed_in_place_are_noticed(two: Any) -> None:
    found = train(two, "glm", rows=ROWS, plant="gradients set to None")[0]
    assert differences(found, alone("glm", rows=ROWS))[1] > 10 * NORM


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision(two: Any, precision: str) -> None:
    expected = jobs.train("glm", None, rows=ROWS, precision=precision)
    assert differences(train(two, "glm", rows=ROWS, precision=precision)[0], expected)[0] < HALF


def test_evaluation_gives_all_processes_the_same(two: Any) -> None:
    expected = jobs.evaluate("glm", None)
    for found in two.run("bmtrain_jobs:job", name="evaluate", family="glm"):
        np.testing.assert_allclose(found["logits"], expected["logits"], atol=2e-5)
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)


@pytest.mark.parametrize("family", ["glm", "bert"])
def test_parts_make_up_the_whole_once(two: Any, family: str) -> None:
    found = two.run("bmtrain_jobs:job", name="parts", family=family)
    whole = found[0][1]
    seen = {entry: np.zeros(value.shape, dtype=int) for entry, value in whole.items()}
    for mine, _ in found:
        for name, key, shape, offset, size, values in mine:
            assert shape == whole[name, key].shape
            place = tuple(slice(a, a + n) for a, n in zip(offset, size, strict=True))
            seen[name, key][place] += 1
            np.testing.assert_array_equal(values, whole[name, key][place])
    assert all((counts == 1).all() for counts in seen.values())


def test_a_run_goes_on_from_one_process_and_back(two: Any) -> None:
    rows, more = jobs.ROWS[:6], jobs.ROWS[6:12]
    once = jobs.train("gpt2", None, rows=jobs.ROWS[:12])
    once["steps"] = once["steps"][6:]
    agree(train(two, "gpt2", rows=more, first=6, start=jobs.train("gpt2", None, rows=rows)), once)
    first = train(two, "gpt2", rows=rows)[0]
    agree([jobs.train("gpt2", None, rows=more, first=6, start=first)], once)


def test_starting_it_draws_nothing(two: Any) -> None:
    assert two.run("bmtrain_jobs:seeded") == [True, True]


def test_a_cpu_is_refused() -> None:
    with pytest.raises(ConfigError, match="CUDA"):
        bmtrain.from_config(ParallelConfig(strategy="bmtrain"), device="cpu")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bmtrain, "choose_device", lambda name: torch.device("cuda"))


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize(("key", "value"), [("tensor", 2), ("context", 2), ("offload", True), ("reduce_dtype", "bf16")])
def test_settings_that_mean_nothing_here(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"parallel.{key}"):
        bmtrain.from_config(ParallelConfig(strategy="bmtrain", **{key: value}), device="cuda")


@pytest.mark.usefixtures("cuda")
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="built from its sources"):
        bmtrain.from_config(ParallelConfig(strategy="bmtrain"), device="cuda")

"""Every way of spreading a model against one process: losses, gradient norms and weights over 20 steps."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import spread_jobs as jobs
import spread_world as worlds

LOSS, NORM, WEIGHT = 5e-6, 5e-5, 2e-5
"""largest differences allowed in fp32: loss (near 5), relative norm, weights (near 1)"""
HALF = 0.1
"""the same for losses in bf16, whose numbers are exact to a hundredth; the last step has one example"""
ROWS = (8, 7, 8, 1)
"""a short training"""


SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def two() -> Iterator[Any]:
    with worlds.world(2) as made:
        yield made


@cache
def alone(family: str, accumulation: int = 1, rows: tuple[int, ...] = jobs.ROWS) -> dict[str, Any]:
    return jobs.train(family, None, accumulation=accumulation, rows=rows)


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


TWO: dict[str, dict[str, Any]] = {
    "ddp": {"sizes": {"replicate": 2}},
    "fsdp": {"sizes": {"shard": 2}},
    "tensor": {"sizes": {"tensor": 2}},
    "pipeline": {"sizes": {"pipeline": 2}},
}


@pytest.mark.parametrize("family", ["glm", "bert"])
@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("way", TWO)
def test_two_processes_train_as_one(two: Any, way: str, family: str, accumulation: int) -> None:
    results = two.run("train", family=family, **TWO[way], accumulation=accumulation)
    agree(results, alone(family, accumulation))
    whole = sum(w.size for w in results[0]["weights"].values())
    assert all(found["numbers"] < (1.01 if way == "ddp" else 0.75) * whole for found in results)


@pytest.mark.parametrize("family", ["roberta", "modernbert", "gpt2", "opt", "t5", "llama", "qwen3", "classifier"])
def test_the_plan_of_each_family(two: Any, family: str) -> None:
    results = two.run("train", family=family, rows=ROWS, **TWO["tensor"])
    agree(results, alone(family, rows=ROWS))
    assert results[0]["numbers"] < 0.75 * sum(w.size for w in results[0]["weights"].values())


@pytest.mark.parametrize("family", ["roberta", "modernbert", "gpt2", "opt", "llama", "classifier"])
def test_the_stages_of_each_family(two: Any, family: str) -> None:
    results = two.run("train", family=family, rows=ROWS, **TWO["pipeline"])
    agree(results, alone(family, rows=ROWS))
    assert results[0]["numbers"] < 0.75 * sum(w.size for w in results[0]["weights"].values())


@pytest.mark.parametrize("way", TWO)
def test_a_wrong_normaliser_is_noticed(two: Any, way: str) -> None:
    if way in ("tensor", "pipeline"):  # there one process knows the count of the whole batch
        pytest.skip("has one count only")
    results = two.run("train", family="glm", plant="mean of means", rows=jobs.ROWS[:4], **TWO[way])
    loss, norm, _ = differences(results[0], alone("glm") | {"steps": alone("glm")["steps"][:4]})
    assert loss > 10 * LOSS
    assert norm > 10 * NORM


@pytest.mark.parametrize(
    "family", ["glm", "headed", pytest.param("bert", marks=SLOW), pytest.param("gpt2", marks=SLOW)]
)
@pytest.mark.parametrize("way", TWO)
def test_without_pads(two: Any, way: str, family: str) -> None:
    results = two.run("train", family=family, packed=True, rows=ROWS, **TWO[way])
    agree(results, alone(family, rows=ROWS))


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_what_few_examples_or_none_use(two: Any, way: str, accumulation: int) -> None:
    """Some steps use a layer on one process only, or on none; what nobody uses is not even decayed."""
    results = two.run("train", family="moody", accumulation=accumulation, **TWO[way])
    agree(results, alone("moody", accumulation))
    before = dict(jobs.model_of("moody").named_parameters())["never.weight"].detach().numpy()
    np.testing.assert_array_equal(results[0]["weights"]["never.weight"], before)
    assert "never.weight/exp_avg" not in results[0]["state"]["optimizer"]


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_adapters(two: Any, way: str) -> None:
    results = two.run("train", family="lora", rows=ROWS, **TWO[way])
    agree(results, alone("lora", rows=ROWS))


def test_a_wrong_plan_is_noticed(two: Any) -> None:
    results = two.run("wrong_plan", rows=ROWS, **TWO["tensor"])
    assert differences(results[0], alone("modernbert", rows=ROWS))[0] > 10 * LOSS


@pytest.mark.parametrize("options", [{"offload": True}, {"precision": "bf16"}], ids=["offload", "bf16"])
def test_shards_in_other_places_and_formats(two: Any, options: dict[str, Any]) -> None:
    results = two.run("train", family="bert", rows=ROWS, **TWO["fsdp"], **options)
    expected = jobs.train("bert", None, rows=ROWS, precision=options.get("precision", "fp32"))
    if "offload" in options:
        agree(results, expected)
    else:
        assert differences(results[0], expected)[0] < HALF


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("way", ["ddp", "tensor", "pipeline"])
def test_half_precision(two: Any, way: str, precision: str) -> None:
    results = two.run("train", family="glm", rows=ROWS, precision=precision, **TWO[way])
    assert differences(results[0], jobs.train("glm", None, rows=ROWS, precision=precision))[0] < HALF


@pytest.mark.parametrize("family", ["glm", "t5"])
@pytest.mark.parametrize("way", [*TWO, "one process"])
def test_layers_computed_twice(two: Any, way: str, family: str) -> None:
    if way == "one process":
        agree([jobs.train(family, None, rows=ROWS, recompute=True)], alone(family, rows=ROWS))
    elif (family, way) != ("t5", "pipeline"):
        results = two.run("train", family=family, rows=ROWS, recompute=True, **TWO[way])
        agree(results, alone(family, rows=ROWS))


@pytest.mark.parametrize("family", ["glm", "bert", "roberta", "modernbert", "gpt2", "llama", "qwen3"])
def test_shared_tokens(two: Any, family: str) -> None:
    results = two.run("train", family=family, sequence=True, rows=ROWS, **TWO["tensor"])
    agree(results, alone(family, rows=ROWS))


def test_shared_tokens_computed_twice(two: Any) -> None:
    results = two.run("train", family="glm", sequence=True, recompute=True, rows=ROWS, **TWO["tensor"])
    agree(results, alone("glm", rows=ROWS))


def test_a_loss_on_divided_scores(two: Any) -> None:
    results = two.run("train", family="glm", divided_loss=True, rows=ROWS, **TWO["tensor"])
    agree(results, alone("glm", rows=ROWS))


def test_a_module_of_ones_own_is_divided_by_a_few_lines(two: Any) -> None:
    results = two.run("own", sizes={"tensor": 2})
    agree(results, jobs.own(None))


@pytest.mark.parametrize(
    ("family", "meta"),
    [
        ("glm", False),
        ("gpt2", True),
        pytest.param("glm", True, marks=SLOW),
        pytest.param("gpt2", False, marks=SLOW),
    ],
    ids=["glm-read before", "gpt2-read after", "glm-read after", "gpt2-read before"],
)
@pytest.mark.parametrize("way", TWO)
def test_a_run_goes_on_in_another_layout(two: Any, way: str, meta: bool, family: str) -> None:
    """Six steps here, six there; and back."""
    rows, more = jobs.ROWS[:6], jobs.ROWS[6:12]
    once = jobs.train(family, None, rows=jobs.ROWS[:12])
    first = jobs.train(family, None, rows=rows)
    agree_on_steps(two.run("train", family=family, rows=more, first=6, start=first, meta=meta, **TWO[way]), once)
    first = two.run("train", family=family, rows=rows, **TWO[way])[0]
    agree_on_steps([jobs.train(family, None, rows=more, first=6, start=first)], once)


def agree_on_steps(results: list[dict[str, Any]], once: dict[str, Any]) -> None:
    agree(results, once | {"steps": once["steps"][6:12]})


@pytest.mark.parametrize("family", ["glm", "gpt2"])
@pytest.mark.parametrize("way", TWO)
def test_parts_make_up_the_whole_once(two: Any, way: str, family: str) -> None:
    found = two.run("parts", family=family, **TWO[way])
    whole = found[0][1]
    seen = {entry: np.zeros(value.shape, dtype=int) for entry, value in whole.items()}
    for mine, _ in found:
        for name, key, shape, offset, size, values in mine:
            assert shape == whole[name, key].shape
            place = tuple(slice(a, a + n) for a, n in zip(offset, size, strict=True))
            seen[name, key][place] += 1
            np.testing.assert_array_equal(values, whole[name, key][place])
    assert all((counts == 1).all() for counts in seen.values())


@pytest.mark.parametrize("way", TWO)
def test_evaluation_gives_all_processes_the_same(two: Any, way: str) -> None:
    expected = jobs.evaluate("glm", None)
    for found in two.run("evaluate", family="glm", **TWO[way]):
        np.testing.assert_allclose(found["logits"], expected["logits"], atol=2e-5)
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)


def test_dropout_is_common_to_a_tensor_group_and_not_to_copies(two: Any) -> None:
    one, other = two.run("dropped", family="bert", **TWO["tensor"])
    assert one == other
    one, other = two.run("dropped", family="bert", sequence=True, **TWO["tensor"])
    assert one == other
    one, other = two.run("dropped", family="bert", sequence=True, recompute=True, **TWO["tensor"])
    assert one == other
    one, other = two.run("dropped", family="bert", **TWO["ddp"])
    assert one[:2] == other[:2]
    assert one[2] != other[2]


@pytest.mark.parametrize(
    ("family", "sizes", "kind", "words"),
    [
        ("t5", {"pipeline": 2}, "ModelError", ["stages", "T5", "parallel.tensor"]),
        ("own", {"tensor": 2}, "ModelError", ["Feed", "flagai_plan"]),
        ("three heads", {"tensor": 2}, "ModelError", ["num_attention_heads 3", "parallel.tensor"]),
        ("one layer", {"pipeline": 2}, "ModelError", ["2 stages for 1 layers", "at most 1"]),
        ("lora", {"tensor": 2}, "ModelError", ["adapter", "ddp or fsdp"]),
        ("glm", {"tensor": 3}, "ConfigError", ["tensor 3 makes 3 processes, but 2"]),
        ("glm", {"pipeline": 2, "shard": 2}, "ConfigError", ["cannot be sharded"]),
    ],
)
def test_what_cannot_be_is_said(two: Any, family: str, sizes: dict[str, int], kind: str, words: list[str]) -> None:
    for found in two.run("error", family=family, sizes=sizes):
        assert found[0] == kind
        assert all(word in found[1] for word in words), found[1]


def test_tokens_that_cannot_be_shared(two: Any) -> None:
    for kind, text in two.run("error", family="t5", sizes={"tensor": 2}, sequence=True):
        assert kind == "ModelError" and "parallel.sequence" in text


def test_shared_tokens_are_not_computed_twice_on_a_pipeline(two: Any) -> None:
    sizes = {"pipeline": 2, "tensor": 2}
    for kind, text in two.run("error", family="glm", sizes=sizes, sequence=True, recompute=True):
        assert kind == "ConfigError" and "parallel.sequence" in text


def test_an_optimizer_before_place_is_refused(two: Any) -> None:
    assert {found[0] for found in two.run("error", family="glm", sizes={"replicate": 2}, when="optimizer")} == {
        "AssertionError"
    }

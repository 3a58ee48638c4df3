"""DeepSpeed's ZeRO 1, 2 and 3 against one process: losses, norms, weights, moments, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spread_jobs as jobs
import spread_world as worlds
from against_one import HALF, LOSS, NORM, PROOF, ROWS, WEIGHT, agree, alone, differences
from spread_models import model_of

pytest.importorskip("deepspeed")

STAGES = (1, 2, 3)
SMALL = {
    "reduce_bucket_size": 3000, "stage3_param_persistence_threshold": 0, "stage3_prefetch_bucket_size": 2000,
    "sub_group_size": 5000, "round_robin_gradients": True,
}  # fmt: skip
"""many buckets and groups, and no parameter that stays whole, though the models are tiny"""


@pytest.fixture(scope="module")
def two() -> Iterator[Any]:
    with worlds.world(2) as made:
        yield made


def train(world: Any, family: str, stage: int, **options: Any) -> list[dict[str, Any]]:
    return world.run("zero_jobs:run", task="train", family=family, stage=stage, **options)


@pytest.mark.parametrize(
    ("stage", "family", "accumulation", "rows"),
    [
        (1, "bert", 3, jobs.ROWS),
        (2, "glm", 3, jobs.ROWS),
        (3, "glm", 1, jobs.ROWS[:8]),
        pytest.param(1, "glm", 1, jobs.ROWS, marks=PROOF),
        pytest.param(2, "bert", 1, jobs.ROWS, marks=PROOF),
        pytest.param(3, "glm", 1, jobs.ROWS, marks=PROOF),
        pytest.param(3, "bert", 3, jobs.ROWS, marks=PROOF),
    ],
)
def test_two_processes_train_as_one(
    two: Any, stage: int, family: str, accumulation: int, rows: tuple[int, ...]
) -> None:
    """Twenty steps with uneven batches, some of which leave a process without an example."""
    results = train(two, family, stage, accumulation=accumulation, rows=rows, settings=SMALL)
    expected = alone(family, accumulation, rows)
    agree(results, expected)
    if stage == 3:
        assert all(found["numbers"] == 0 for found in results)
    assert results[0]["state"]["optimizer"].keys() == expected["state"]["optimizer"].keys()
    for entry, value in expected["state"]["optimizer"].items():
        np.testing.assert_allclose(results[0]["state"]["optimizer"][entry], value, atol=WEIGHT)


@pytest.mark.parametrize("stage", [pytest.param(1, marks=PROOF), 2, pytest.param(3, marks=PROOF)])
def test_a_wrong_normaliser_is_noticed(two: Any, stage: int) -> None:
    results = train(two, "glm", stage, plant="mean of means", rows=jobs.ROWS[:4])
    loss, norm, _ = differences(results[0], alone("glm") | {"steps": alone("glm")["steps"][:4]})
    assert loss > 10 * LOSS
    assert norm > 10 * NORM


@pytest.mark.parametrize(
    ("stage", "accumulation"), [(2, 3), *(pytest.param(*v, marks=PROOF) for v in [(1, 1), (1, 3), (2, 1)])]
)
def test_what_few_examples_or_none_use(two: Any, stage: int, accumulation: int) -> None:
    """Some steps use a layer on one process only, or on none; what nobody uses is not even decayed."""
    results = train(two, "moody", stage, accumulation=accumulation, settings=SMALL)
    agree(results, alone("moody", accumulation))
    before = dict(model_of("moody").named_parameters())["never.weight"].detach().numpy()
    np.testing.assert_array_equal(results[0]["weights"]["never.weight"], before)
    assert "never.weight/exp_avg" not in results[0]["state"]["optimizer"]


@pytest.mark.parametrize("options", [{}, pytest.param({"offload": True}, marks=PROOF)], ids=["here", "offload"])
@pytest.mark.parametrize("stage", [pytest.param(1, marks=PROOF), pytest.param(2, marks=PROOF), 3])
def test_what_is_used_in_some_steps(two: Any, stage: int, options: dict[str, Any]) -> None:
    """Gradients of an earlier step are not taken for those of this one."""
    import zero_jobs

    for found in two.run("zero_jobs:phased", stage=stage, settings=SMALL, **options):
        np.testing.assert_allclose(found, zero_jobs.phased(None), rtol=NORM)


@pytest.mark.proof
@pytest.mark.parametrize("processes", [1, 3, 4])
def test_other_numbers_of_processes(processes: int) -> None:
    """Three divide no size of the models: every partition ends in padding somewhere."""
    with worlds.world(processes) as several:
        for stage in STAGES:
            for family in ("glm", "bert"):
                agree(train(several, family, stage, settings=SMALL, rows=ROWS, accumulation=2), alone(family, 2, ROWS))


@pytest.mark.parametrize(
    ("family", "stage", "options"),
    [
        ("lora", 3, {"settings": SMALL}),
        ("bert", 2, {"offload": True, "accumulation": 3, "settings": SMALL}),
        *(
            pytest.param(*values, marks=PROOF)
            for values in [
                ("lora", 2, {}),
                ("headed", 3, {"settings": SMALL}),
                ("t5", 3, {"settings": SMALL}),
                ("bert", 1, {"offload": True, "accumulation": 3}),
                ("bert", 3, {"offload": True, "accumulation": 3, "settings": SMALL}),
                ("glm", 3, {"recompute": True}),
                ("glm", 3, {"packed": True}),
                ("bert", 2, {"optimizer": "sgd"}),
                ("bert", 2, {"settings": {"contiguous_gradients": False}}),
                ("bert", 2, {"settings": {"overlap_comm": True, "parameter_alignment": True}}),
            ]
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else str(value),
)
def test_models_and_ways(two: Any, family: str, stage: int, options: dict[str, Any]) -> None:
    known = {key: options[key] for key in ("accumulation", "optimizer") if key in options}
    agree(train(two, family, stage, rows=ROWS, **options), alone(family, rows=ROWS, **known))


@pytest.mark.parametrize("stage", [pytest.param(1, marks=PROOF), 2, pytest.param(3, marks=PROOF)])
def test_half_precision_with_weights_in_fp32(two: Any, stage: int) -> None:
    """Losses near those of one process, and the weights beside them are the finer ones."""
    found = train(two, "glm", stage, rows=ROWS, precision="bf16", accumulation=3)[0]
    expected = alone("glm", 3, ROWS, precision="bf16")
    assert differences(found, expected)[0] < HALF
    masters = {n.removesuffix("/master"): w for n, w in found["state"]["optimizer"].items() if n.endswith("/master")}
    assert masters.keys() == found["weights"].keys()
    for name, fine in masters.items():
        assert np.abs(fine - found["weights"][name]).max() <= 2**-8 * np.abs(fine).max()
    assert any((fine != found["weights"][name]).any() for name, fine in masters.items())


@pytest.mark.parametrize(
    ("family", "stage"),
    [("bert", 1), ("lora", 3), pytest.param("glm", 2, marks=PROOF), pytest.param("bert", 3, marks=PROOF)],
)
def test_parts_give_each_number_once(two: Any, family: str, stage: int) -> None:
    results = two.run("zero_jobs:run", task="parts", family=family, stage=stage, settings=SMALL)
    whole = results[0][1]
    counted = {entry: np.zeros(value.shape) for entry, value in whole.items()}
    for mine, _ in results:
        for name, key, shape, offset, size, tensor in mine:
            box = tuple(slice(a, a + n) for a, n in zip(offset, size, strict=True))
            assert whole[name, key].shape == shape
            np.testing.assert_array_equal(whole[name, key][box], tensor)
            counted[name, key][box] += 1
    assert all((count == 1).all() for count in counted.values())
    sizes = [sum(part[5].size for part in mine) for mine, _ in results]
    assert max(sizes) < 0.75 * sum(sizes)


WAYS: list[Any] = [(None, 3), (3, 2)]
WAYS += [pytest.param(*w, marks=PROOF) for w in [(None, 1), (None, 2), (1, None), (2, None), (3, None), (1, 3)]]


@pytest.mark.parametrize(("before", "after"), WAYS)
def test_another_layout_continues(two: Any, before: int | None, after: int | None) -> None:
    """Four steps under one layout, four under another: as eight without a break."""
    rows = jobs.ROWS[:8]
    first = alone("bert", rows=rows[:4]) if before is None else train(two, "bert", before, rows=rows[:4])[0]
    rest = {"rows": rows[4:], "first": 4, "start": first}
    if after is None:
        found = jobs.train("bert", None, **rest)
    else:
        found = train(two, "bert", after, settings=SMALL, meta=after != 2, **rest)[0]
    expected = alone("bert", rows=rows)
    agree([found | {"steps": first["steps"] + found["steps"]}], expected)


@pytest.mark.parametrize("after", [None, pytest.param(1, marks=PROOF), pytest.param(3, marks=PROOF)])
def test_weights_in_fp32_continue(two: Any, after: int | None) -> None:
    """From bf16 with stage 2: what goes on begins with the finer weights, not with the rounded ones."""
    first = train(two, "bert", 2, rows=ROWS, precision="bf16")[0]
    still = {"rows": (), "start": first}
    found = jobs.train("bert", None, **still) if after is None else train(two, "bert", after, **still)[0]
    for name, weight in found["weights"].items():
        np.testing.assert_array_equal(weight, first["state"]["optimizer"][f"{name}/master"])


@pytest.mark.parametrize("stage", [pytest.param(2, marks=PROOF), 3])
def test_evaluation_before_and_after_the_optimizer(two: Any, stage: int) -> None:
    expected = jobs.evaluate("glm", None)
    for found in two.run("zero_jobs:evaluate_twice", family="glm", stage=stage, settings=SMALL):
        for logits, scored in found:
            np.testing.assert_allclose(logits, expected["logits"], atol=1e-5)
            np.testing.assert_allclose(scored, expected["loss"], rtol=1e-5)


@pytest.mark.parametrize("stage", [pytest.param(2, marks=PROOF), 3])
def test_writing_between_two_steps(two: Any, stage: int) -> None:
    import zero_jobs

    ids, losses = zero_jobs.written_alone()
    for found_ids, found_losses in two.run("zero_jobs:written", stage=stage):
        assert found_ids == ids
        np.testing.assert_allclose(found_losses, losses, atol=LOSS)


@pytest.mark.parametrize("stage", [pytest.param(1, marks=PROOF), 2, pytest.param(3, marks=PROOF)])
def test_a_step_without_examples(two: Any, stage: int) -> None:
    sums, norm, same, after = two.run("zero_jobs:nobody", stage=stage)[0]
    assert sums == (0.0, 0.0)
    assert norm == 0.0
    assert same
    expected = alone("bert", rows=(8, 8))["steps"][1]
    np.testing.assert_allclose(after[0], expected, rtol=1e-5)


def test_nothing_stays_and_nothing_is_compiled(tmp_path: Path) -> None:
    with worlds.world(2) as fresh:  # in which nothing was compiled before
        for own, compiled in fresh.run("zero_jobs:nothing_stays", folder=str(tmp_path / "by-g++")):
            assert own
            assert compiled == []


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("fp16", ["ConfigError", "fp16", "bf16"]),
        ("tensor", ["ConfigError", "parallel.tensor", "zero2", "ddp"]),
        ("file", ["ConfigError", "zero_optimization.stage", "3", "zero2"]),
        ("rows", ["ConfigError", "Rowwise", "AdamW"]),
        ("frozen", ["ConfigError", "no parameter is trained"]),
    ],
)
def test_what_is_refused(two: Any, kind: str, words: list[str]) -> None:
    for found in two.run("zero_jobs:error", kind=kind):
        assert all(word in " ".join(found) for word in words), found


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    from flagai.config import ParallelConfig
    from flagai.errors import MissingExtraError
    from flagai.parallel.choose import make_strategy

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"flagai\[deepspeed\]"):
        make_strategy(ParallelConfig(strategy="zero2"), device="cpu")

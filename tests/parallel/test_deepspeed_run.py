"""A whole run under ZeRO: it is the run of one process, stops and continues to the bit, and moves between layouts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import spread_world as worlds
import torch
from safetensors.torch import load_file

from flagai import Trainer, load_config

pytest.importorskip("deepspeed")
sys.path.insert(0, str(Path(__file__).parents[1] / "train"))

PROOF = pytest.mark.proof
NEAR = 2e-5
"""as in tests/train/test_several.py"""


@pytest.fixture(scope="module")
def two() -> Iterator[Any]:
    with worlds.world(2) as made:
        yield made


def settings(data: Path, model: Path, output: Path) -> dict[str, Any]:
    return {
        "model": str(model),
        "task": {"name": "classification", "pooling": "mean", "dropout": 0.0},
        "data": {"train": str(data / "train.jsonl"), "eval": str(data / "dev.jsonl")},
        "train": {
            "epochs": 2, "batch_size": 9, "learning_rate": 3e-3, "device": "cpu", "logging_steps": 1,
            "gradient_accumulation_steps": 2, "adam_epsilon": 1e-4,
        },
        "output": str(output),
    }  # fmt: skip


def train(two: Any, values: dict[str, Any], strategy: str, *more: str, **options: Any) -> list[dict[str, Any]]:
    found = two.run("several_jobs:train", values=values, overrides=(f"parallel.strategy={strategy}", *more), **options)
    assert not any("error" in result for result in found), found
    return found


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


def furthest(one: Path, other: Path) -> float:
    a, b = load_file(one / "final/model.safetensors"), load_file(other / "final/model.safetensors")
    assert a.keys() == b.keys()
    return max(float((a[name].float() - b[name].float()).abs().max()) for name in a)


@pytest.mark.parametrize("strategy", [*(pytest.param(s, marks=PROOF) for s in ("zero1", "zero2")), "zero3"])
def test_two_processes_run_as_one(two: Any, reviews: Path, calm_bert: Path, tmp_path: Path, strategy: str) -> None:
    alone = Trainer(load_config(settings(reviews, calm_bert, tmp_path / "one"))).train()
    found = train(two, settings(reviews, calm_bert, tmp_path / "two"), strategy)
    assert found[0]["metrics"]["eval"] == pytest.approx(alone.metrics["eval"], abs=NEAR)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=NEAR)
    assert furthest(tmp_path / "one", tmp_path / "two") < NEAR


@pytest.mark.parametrize(
    ("strategy", "more"), [pytest.param("zero2", (), marks=PROOF), ("zero3", ("train.precision=bf16",))]
)
def test_a_run_that_was_stopped_continues_to_the_bit(
    two: Any, reviews: Path, tiny_bert: Path, tmp_path: Path, strategy: str, more: tuple[str, ...]
) -> None:
    """With dropout; in bf16 by the finer weights."""
    whole, cut = settings(reviews, tiny_bert, tmp_path / "whole"), settings(reviews, tiny_bert, tmp_path / "cut")
    train(two, whole, strategy, *more)
    assert train(two, cut, strategy, *more, signal_at=4, on_rank=1)[0].get("interrupted")
    train(two, cut, strategy, *more)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert furthest(tmp_path / "cut", tmp_path / "whole") == 0


@PROOF
def test_a_run_goes_on_in_other_layouts(two: Any, reviews: Path, calm_bert: Path, tmp_path: Path) -> None:
    Trainer(load_config(settings(reviews, calm_bert, tmp_path / "one"))).train()
    values = settings(reviews, calm_bert, tmp_path / "moved")
    for step, strategy in ((2, "zero3"), (4, "fsdp"), (5, "zero1"), (7, "ddp"), (9, "zero2")):
        train(two, values, strategy, signal_at=step)
    Trainer(load_config(values)).train()
    assert losses(tmp_path / "moved") == pytest.approx(losses(tmp_path / "one"), abs=NEAR)
    assert furthest(tmp_path / "moved", tmp_path / "one") < NEAR


@PROOF
def test_in_bf16_the_result_is_what_was_evaluated(two: Any, reviews: Path, calm_bert: Path, tmp_path: Path) -> None:
    train(two, settings(reviews, calm_bert, tmp_path / "run"), "zero2", "train.precision=bf16")
    weights = load_file(tmp_path / "run/final/model.safetensors")
    assert {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()} == {torch.bfloat16}

"""Memory that ends in the middle of a step: the step is computed again in smaller parts, exactly, and said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from flagai import Trainer, load_config
from flagai.errors import OutOfMemoryError
from flagai.parallel.native import SingleProcess
from flagai.train.callbacks import Callback
from flagai.train.memory import Streams, is_out_of_memory


def config(reviews: Path, model: Path, output: Path, *overrides: str):
    values = {
        "model": str(model),
        "task": "classification",
        "data": {"train": str(reviews / "train.jsonl"), "eval_fraction": 0},
        "train": {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "device": "cpu", "logging_steps": 1},
        "output": str(output),
    }
    return load_config(values, overrides)


class Listen(Callback):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_message(self, text: str) -> None:
        self.heard.append(text)


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """(most examples that fit, from which call on): a larger micro-batch ends in the middle of its backward."""
    accumulate = SingleProcess.accumulate

    def limit(most: int, *, calls: int = 0, error: BaseException | None = None) -> None:
        seen = [0]

        def limited(self: SingleProcess, micro_batches: Any, loss: Any) -> tuple[float, float]:
            seen[0] += 1
            batches = list(micro_batches)
            if seen[0] > calls and any(len(batch["input_ids"]) > most for batch in batches):
                accumulate(self, batches[:1], loss)  # leaves gradients behind, and draws random numbers
                raise error or torch.OutOfMemoryError("planted")
            return accumulate(self, batches, loss)

        monkeypatch.setattr(SingleProcess, "accumulate", limited)

    return limit


def rows(run: Path) -> list[tuple[int, float, float]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"], row["grad_norm"]) for row in lines]


def assert_same_weights(a: Path, b: Path) -> None:
    left, right = load_file(a / "final/model.safetensors"), load_file(b / "final/model.safetensors")
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_step_without_room_is_the_same_step_in_smaller_parts(reviews, tiny_bert, tmp_path, room, workers):
    """With dropout: what the failed attempts drew and summed is forgotten."""
    quarter = ("train.gradient_accumulation_steps=4", f"train.num_workers={workers}")
    Trainer(config(reviews, tiny_bert, tmp_path / "asked", *quarter)).train()
    room(2)
    listen = Listen()
    options = config(reviews, tiny_bert, tmp_path / "found", f"train.num_workers={workers}")
    Trainer(options, callbacks=[listen]).train()
    assert rows(tmp_path / "found") == rows(tmp_path / "asked")
    assert_same_weights(tmp_path / "found", tmp_path / "asked")
    told = [text for text in listen.heard if "out of memory" in text]
    assert [text.split(":")[0] for text in told] == ["out of memory at step 1"] * 2
    assert "2 parts instead of 1" in told[0] and "4 parts instead of 2" in told[1]


def test_a_run_continued_after_memory_ended_keeps_its_parts(reviews, tiny_bert, tmp_path, room):
    room(4, calls=2)
    Trainer(config(reviews, tiny_bert, tmp_path / "whole")).train()
    room(4, calls=2)

    class Crash(Callback):
        def on_step(self, state: Any, row: Any) -> None:
            if state.step == 5:
                raise OSError("the power is gone")

    save = "train.save_steps=2"
    with pytest.raises(OSError, match="power"):
        Trainer(config(reviews, tiny_bert, tmp_path / "cut", save), callbacks=[Crash()]).train()
    room(8)
    listen = Listen()
    Trainer(config(reviews, tiny_bert, tmp_path / "cut", save), callbacks=[listen]).train()
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert_same_weights(tmp_path / "cut", tmp_path / "whole")
    table = next(text for text in listen.heard if "in the checkpoint" in text)
    assert "train.gradient_accumulation_steps  1 × 2              1              1 × 2" in table
    assert table.startswith("what differs changes no bit")


def test_one_example_without_room_is_an_error_that_says_what_to_set(reviews, tiny_bert, tmp_path, room):
    room(0)
    with pytest.raises(OutOfMemoryError, match=r"with 1 example at a time[\s\S]*parallel\.recompute[\s\S]*flagai plan"):
        Trainer(config(reviews, tiny_bert, tmp_path / "run")).train()
    status = json.loads((tmp_path / "run/status.json").read_text())
    assert status["status"] == "failed" and "out of memory at step 1" in status["error"]


def test_pairs_that_are_compared_are_not_torn_apart(tiny_data, tiny_bert, tmp_path, room):
    room(4)
    values = config(tiny_data("score"), tiny_bert, tmp_path / "run").to_dict()
    values["task"] = {"name": "embedding", "loss": "cosent"}
    with pytest.raises(OutOfMemoryError, match=r"train\.batch_size"):
        Trainer(load_config(values)).train()


def test_other_errors_of_a_step_are_not_taken_for_memory(reviews, tiny_bert, tmp_path, room):
    room(4, error=RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        Trainer(config(reviews, tiny_bert, tmp_path / "run")).train()


def test_what_memory_errors_look_like() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shapes")) and not is_out_of_memory(ValueError("not enough memory"))


def test_streams_are_put_back() -> None:
    streams = Streams(torch.device("cpu"))
    first = torch.rand(3)
    streams.restore()
    assert torch.equal(torch.rand(3), first)

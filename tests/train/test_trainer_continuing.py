"""What a continued run says about itself: a table of what differs, and its place in the data without counting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from flagai import Trainer, load_config
from flagai.data.batching import BatchPlan
from flagai.errors import OutputError
from flagai.train.callbacks import Callback
from flagai.train.continuing import Difference, differences, told


def config(reviews: Path, model: Path, output: Path, *overrides: str):
    values = {
        "model": str(model),
        "task": "classification",
        "data": {"train": str(reviews / "train.jsonl"), "eval_fraction": 0},
        "train": {"epochs": 3, "batch_size": 8, "device": "cpu", "save_steps": 2, "logging_steps": 1},
        "output": str(output),
    }
    return load_config(values, overrides)


class Watch(Callback):
    """Hears messages, and pulls the plug at a step."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop = stop
        self.heard: list[str] = []

    def on_message(self, text: str) -> None:
        self.heard.append(text)

    def on_step(self, state: Any, row: Any) -> None:
        if state.step == self.stop:
            raise OSError("the power is gone")

    @property
    def table(self) -> list[str]:
        return next((text.splitlines() for text in self.heard if "in the checkpoint" in text), [])


def cut(options: Any, step: int) -> None:
    with pytest.raises(OSError, match="power"):
        Trainer(options, callbacks=[Watch(step)]).train()


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


def assert_same_weights(a: Path, b: Path) -> None:
    left, right = load_file(a / "final/model.safetensors"), load_file(b / "final/model.safetensors")
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_nothing_is_said_where_nothing_differs(reviews, tiny_bert, tmp_path):
    options = config(reviews, tiny_bert, tmp_path / "run")
    cut(options, 3)
    watch = Watch()
    Trainer(options, callbacks=[watch]).train()
    assert any("from step 2" in text for text in watch.heard) and not watch.table


def test_other_numbers_of_workers_are_shown_and_change_no_bit(reviews, tiny_bert, tmp_path):
    Trainer(config(reviews, tiny_bert, tmp_path / "whole")).train()
    for workers, step in ((2, 3), (3, 9), (1, 11)):
        cut(config(reviews, tiny_bert, tmp_path / "cut", f"train.num_workers={workers}"), step)
    watch = Watch()
    Trainer(config(reviews, tiny_bert, tmp_path / "cut"), callbacks=[watch]).train()
    assert watch.table[0] == "what differs changes no bit of the result:"
    assert [line.split() for line in watch.table[2:]] == [["train.num_workers", "1", "0", "0"]]
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert_same_weights(tmp_path / "cut", tmp_path / "whole")


def test_the_table_of_settings_that_were_changed_on_purpose(reviews, tiny_bert, tmp_path):
    cut(config(reviews, tiny_bert, tmp_path / "run"), 3)
    other = ("train.learning_rate=0.001", "train.max_grad_norm=null", "train.tensorboard=false")
    with pytest.raises(OutputError, match="--resume"):
        Trainer(config(reviews, tiny_bert, tmp_path / "run", *other)).train()
    watch = Watch(5)
    resumed = config(reviews, tiny_bert, tmp_path / "run", *other, "train.resume=true")
    with pytest.raises(OSError, match="power"):
        Trainer(resumed, callbacks=[watch]).train()
    head = "the continued run will not be equal to the bit: train.learning_rate, train.max_grad_norm"
    assert watch.table[0] == head
    assert [line.split() for line in watch.table[2:]] == [
        ["train.learning_rate", "5e-05", "0.001", "0.001"],
        ["train.max_grad_norm", "1.0", "null", "null"],
    ]
    # It is the checkpoint that counts, not the last call.
    again = Watch()
    Trainer(resumed, callbacks=[again]).train()
    assert again.table == []


def test_the_threads_of_the_checkpoint_are_used(reviews, tiny_bert, tmp_path):
    options = config(reviews, tiny_bert, tmp_path / "run", "train.max_steps=4")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        cut(options, 3)
        torch.set_num_threads(1)
        watch = Watch()
        Trainer(options, callbacks=[watch]).train()
    finally:
        torch.set_num_threads(before)
    assert watch.table[0].startswith("what differs changes no bit")
    assert [line.split() for line in watch.table[2:]] == [["threads", "2", "1", "2"]]


def test_what_counts_as_a_difference() -> None:
    options = load_config({"model": "m", "task": "classification", "output": "here"})
    same = {"settings": options.to_dict() | {"output": "there"}, "torch": "2.13", "threads": 2, "processes": 1}
    assert differences(same, options, {"torch": "2.13", "threads": 2, "processes": 1}) == []
    rows = differences(same, options, {"torch": "2.14", "threads": 1, "processes": 1})
    assert [(row.key, row.changes_bits) for row in rows] == [("threads", True), ("torch", True)]
    assert differences({"step": 3}, options, {"torch": "2.14"}) == []  # an older manifest says nothing
    text = told([Difference("processes", 2, 1, 1)])
    assert "another layout" in text and "place in the data" in text


def test_the_place_in_the_data_is_found_without_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    def plan() -> BatchPlan:
        return BatchPlan([3, 5, 2, 8, 4, 6, 7], batch_tokens=16, seed=1, data_hash="x")

    first = plan()
    steps = [first.step(i).tolist() for i in range(sum(first.num_steps(e) for e in range(40)))]
    known = first.counted()
    assert len(known) == 40
    cuts: list[int] = []
    cut_epoch = BatchPlan._cut
    monkeypatch.setattr(BatchPlan, "_cut", lambda self, epoch: cuts.append(epoch) or cut_epoch(self, epoch))
    again = plan()
    again.recall(known)
    last = len(steps) - 1
    assert again.step(last).tolist() == steps[last] and cuts == [39]
    assert again.key == first.key != BatchPlan([3], batch_tokens=17, seed=1, data_hash="x").key


def test_a_run_by_tokens_continues_without_cutting_what_is_done(reviews, tiny_bert, tmp_path, monkeypatch):
    tokens = ("train.batch_size=null", "train.batch_tokens=64", "train.epochs=2")
    options = config(reviews, tiny_bert, tmp_path / "run", *tokens)
    cut(options, 9)
    done = json.loads((tmp_path / "run/checkpoints/step-8/train_state/state.json").read_text())["train"]
    assert len(done["epoch_steps"]) == 2 and done["epoch_steps"][0] < 8
    cuts: list[int] = []
    cut_epoch = BatchPlan._cut
    monkeypatch.setattr(BatchPlan, "_cut", lambda self, epoch: cuts.append(epoch) or cut_epoch(self, epoch))
    Trainer(options).train()
    assert set(cuts) == {1}


def test_checkpoints_of_the_best_evaluations_stay_and_can_be_continued(reviews, tiny_bert, tmp_path):
    measured = (f"data.eval={reviews / 'dev.jsonl'}", "data.eval_fraction=null", "train.eval_steps=2")
    keep = ("train.best_metric=loss", "train.keep_best=2", "train.keep_last=1", "train.max_steps=10")
    rate = "train.learning_rate=0.02"  # too high, so that the best model is none of the last ones
    options = config(reviews, tiny_bert, tmp_path / "run", *measured, *keep, rate, "train.save_steps=100")
    Trainer(options).train()
    rows = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    by_loss = sorted((row["loss"], row["step"]) for row in rows if row["kind"] == "eval")
    kept = {int(path.name.removeprefix("step-")) for path in (tmp_path / "run/checkpoints").iterdir()}
    assert kept == {10, *(step for _, step in by_loss[:2])}

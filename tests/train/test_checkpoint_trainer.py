"""Checkpoints as the trainer writes them: in the background, with adapters and heads, the best ones kept."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from flagai import Trainer, load_config
from flagai.config import RunConfig
from flagai.errors import OutputError
from flagai.train.callbacks import Callback
from flagai.train.interrupt import Interrupted


def settings(reviews: Path, model: Path, output: Path, *overrides: str, **more: Any) -> RunConfig:
    values = {
        "model": {"name": str(model), **more},
        "task": {"name": "classification", "pooling": "mean"},
        "data": {"train": str(reviews / "train.jsonl"), "eval": str(reviews / "dev.jsonl")},
        "train": {"max_steps": 8, "save_steps": 1, "eval_steps": 2, "batch_size": 8, "device": "cpu"},
        "output": str(output),
    }
    return load_config(values, overrides)


class StopAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, state: Any, row: Any) -> None:
        if state.step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("more", [{}, {"lora": {"r": 2}}], ids=["whole", "lora"])
def test_a_run_saved_in_the_background_goes_on_to_the_same_bits(
    reviews: Path, tiny_bert: Path, tmp_path: Path, more: dict[str, Any]
) -> None:
    once = Trainer(settings(reviews, tiny_bert, tmp_path / "once", **more)).train()
    behind = settings(reviews, tiny_bert, tmp_path / "behind", "train.async_save=true", **more)
    for step in (3, 6):
        with pytest.raises(Interrupted):
            Trainer(behind, callbacks=[StopAt(step)]).train()
        assert (tmp_path / f"behind/checkpoints/step-{step}/MANIFEST.json").is_file()
    again = Trainer(behind).train()
    files = sorted(path.name for path in once.folder.glob("*.safetensors"))
    assert files == sorted([f"{'adapter_model' if more else 'model'}.safetensors", "head.safetensors"])
    for name in files:
        expected, found = load_file(once.folder / name), load_file(again.folder / name)
        assert expected.keys() == found.keys()
        assert all(torch.equal(value, found[key]) for key, value in expected.items())


def test_the_best_ones_can_be_continued(reviews: Path, tiny_bert: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ("train.keep_best=2", "train.keep_last=1", "train.save_steps=100", "train.learning_rate=3e-3")
    Trainer(settings(reviews, tiny_bert, run, *options)).train()
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    scores = {row["step"]: row["accuracy"] for row in log if row["kind"] == "eval"}
    best = sorted(scores, key=lambda step: (-scores[step], step))[:2]
    kept = {int(path.name.removeprefix("step-")) for path in (run / "checkpoints").iterdir()}
    assert kept == {*best, 8}
    for step in best:
        manifest = json.loads((run / f"checkpoints/step-{step}/MANIFEST.json").read_text())
        assert manifest["score"] == {"metric": "accuracy", "value": scores[step], "lower_is_better": False}


def test_a_disk_that_fills_in_the_background_ends_the_run(
    reviews: Path, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    options = ("train.async_save=true", "data.eval=null", "data.eval_fraction=0")
    with pytest.raises(OutputError, match="disk is full"):
        Trainer(settings(reviews, tiny_bert, tmp_path / "run", *options)).train()
    assert json.loads((tmp_path / "run/status.json").read_text())["status"] == "failed"
    assert not list((tmp_path / "run/checkpoints").iterdir())

"""What a kill, a full disk or damage leaves of a run's folder can be continued, or is refused and kept."""

from __future__ import annotations

import errno
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from flagai import Trainer, load_config
from flagai.errors import CheckpointError, OutOfMemoryError, OutputError
from flagai.train import loop
from flagai.train.callbacks import Callback
from flagai.train.checkpoints import writing
from flagai.train.run_folder import RunFolder


def config(reviews: Path, model: Path, output: Path, *overrides: str) -> Any:
    values = {
        "model": str(model),
        "task": "classification",
        "data": {"train": str(reviews / "train.jsonl"), "eval": str(reviews / "dev.jsonl")},
        "train": {"epochs": 1, "batch_size": 8, "device": "cpu", "save_steps": 2, "eval_steps": 3},
        "output": str(output),
    }
    return load_config(values, overrides)


class Cut(Callback):
    """Pulls the plug at a step, and hears messages."""

    def __init__(self, step: int | None = None) -> None:
        self.step, self.heard = step, []

    def on_message(self, text: str) -> None:
        self.heard.append(text)

    def on_step(self, state: Any, row: Any) -> None:
        if state.step == self.step:
            raise ValueError("the power is gone")


def cut(options: Any, step: int) -> None:
    with pytest.raises(ValueError, match="power"):
        Trainer(options, callbacks=[Cut(step)]).train()


def test_checkpoints_that_cannot_be_used_are_not_deleted(reviews: Path, tiny_bert: Path, tmp_path: Path) -> None:
    """A run without a whole checkpoint starts again, which clears the folder: a flipped byte must not cost it all."""
    options = config(reviews, tiny_bert, tmp_path / "run", "train.keep_last=1")
    cut(options, 5)
    file = tmp_path / "run/checkpoints/step-4/train_state/random.safetensors"
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"no checkpoint of the unfinished run[\s\S]*--fresh"):
        Trainer(options).train()
    file.write_bytes(good)
    heard = Cut()
    Trainer(options, callbacks=[heard]).train()
    assert any("from step 4" in text for text in heard.heard)


def test_a_run_killed_before_its_first_checkpoint_starts_again(reviews: Path, tiny_bert: Path, tmp_path: Path) -> None:
    options = config(reviews, tiny_bert, tmp_path / "run", "train.max_steps=2")
    cut(options, 1)
    (tmp_path / "run/checkpoints/step-2").mkdir(parents=True)  # what a deletion that was cut short leaves
    assert Trainer(options).train().steps == 2


def test_a_folder_with_nothing_but_an_unfinished_file_is_new(tmp_path: Path) -> None:
    """Killed while the very first file, status.json, was written."""
    folder = RunFolder(tmp_path)
    (tmp_path / ".writing-status.json").write_text("{")
    options = load_config({"model": "m", "task": "classification", "data": {"train": "a"}, "output": str(tmp_path)})
    assert folder.decide(options, {}) is False
    folder.begin(options, {}, {}, fresh=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.json", "env.json", "run.yaml", "status.json"]
    (tmp_path / "status.json").rename(tmp_path / "other.json")
    with pytest.raises(OutputError, match="not a run of flagai"):
        folder.decide(options, {})


def test_a_full_disk_leaves_the_settings_of_a_continued_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    options = load_config({"model": "m", "task": "classification", "data": {"train": "a"}, "output": str(tmp_path)})
    folder.begin(options, {}, {}, fresh=True)
    written = Path.write_text

    def full(path: Path, text: str, **more: Any) -> int:
        if "run.yaml" in path.name:
            written(path, "")
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(path, text, **more)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OutputError, match="disk is full"):
        folder.begin(options, {}, {}, fresh=False)
    assert yaml.safe_load((tmp_path / "run.yaml").read_text())["model"]["name"] == "m"


def test_another_metric_does_not_compete_with_the_old_one(reviews: Path, tiny_bert: Path, tmp_path: Path) -> None:
    """A loss of 0.7 is never below, and an accuracy never above, what the other one was."""
    options = config(reviews, tiny_bert, tmp_path / "run", "train.best_metric=loss", "train.early_stopping=1")
    cut(options, 5)
    heard = Cut()
    forced = config(reviews, tiny_bert, tmp_path / "run", "train.best_metric=accuracy", "train.resume=true")
    Trainer(forced, callbacks=[heard]).train()
    assert "the best model is chosen by accuracy from here on, and no more by loss" in heard.heard
    assert "the best model is that of step 3" not in heard.heard
    cut(config(reviews, tiny_bert, tmp_path / "same", "train.best_metric=loss"), 5)
    again = Cut()
    Trainer(config(reviews, tiny_bert, tmp_path / "same", "train.best_metric=loss"), callbacks=[again]).train()
    assert not any("from here on" in text for text in again.heard)


def test_an_error_keeps_its_cause(
    reviews: Path, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr(loop.Loop, "_cannot_shrink", lambda *_: OutOfMemoryError("does not fit"))
    monkeypatch.setattr("flagai.parallel.native.SingleProcess.accumulate", full)
    with pytest.raises(OutOfMemoryError, match="does not fit") as caught:
        Trainer(config(reviews, tiny_bert, tmp_path / "run")).train()
    assert str(caught.value.__cause__) == "no room"


@pytest.mark.parametrize("full", [False, True])
def test_a_checkpoint_being_written_is_ended_before_a_run_that_failed(
    reviews: Path, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    """The process may end right after the error, and threads begin nothing more then."""
    flushed = writing.flush_file

    def slow(path: Path) -> None:
        if "checkpoints" in path.parts:
            time.sleep(0.3)
            if full:
                raise OSError(errno.ENOSPC, "No space left on device")
        flushed(path)

    monkeypatch.setattr(writing, "flush_file", slow)
    watch = Cut(3)
    with pytest.raises(ValueError, match="power"):
        Trainer(config(reviews, tiny_bert, tmp_path / "run", "train.async_save=true"), callbacks=[watch]).train()
    assert (tmp_path / "run/checkpoints/step-2/MANIFEST.json").exists() is not full
    assert any("is lost" in text and "disk is full" in text for text in watch.heard) is full

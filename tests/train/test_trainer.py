"""The whole run: it learns, repeats to the bit, continues to the bit, and never half-writes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flagai import Predictor, Trainer, load_config
from flagai.errors import ConfigError, DataError, NonFiniteLossError, OutputError
from flagai.train.callbacks import Callback
from flagai.train.interrupt import Interrupted


def config(reviews: Path, model: Path, output: Path, *overrides: str):
    values = {
        "model": str(model),
        "task": "classification",
        "data": {"train": str(reviews / "train.jsonl"), "eval": str(reviews / "dev.jsonl")},
        "train": {"epochs": 3, "batch_size": 8, "learning_rate": 0.002, "device": "cpu", "save_steps": 5},
        "output": str(output),
    }
    return load_config(values, overrides)


LEARNS = ("task.pooling=mean", "train.epochs=12", "train.learning_rate=3e-3")
"""the mean of token vectors tells a good film from a bad one much sooner than a random [CLS] does"""


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_bit_equal(a: Path, b: Path) -> None:
    left, right = weights(a), weights(b)
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


def losses(folder: Path) -> list[tuple]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [(row["kind"], row["step"], row["loss"]) for row in rows]


class StopAt(Callback):
    """Sends Ctrl-C to this process at a step, or in the middle of the evaluation after it."""

    def __init__(self, step: int, *, while_evaluating: bool = False) -> None:
        self.step, self.while_evaluating, self.now, self.sent = step, while_evaluating, 0, False

    def on_step(self, state, row) -> None:
        self.now = state.step
        if not self.while_evaluating:
            self._stop()

    def on_evaluation_progress(self, done: int, total: int) -> None:
        if self.while_evaluating:
            self._stop()

    def _stop(self) -> None:
        if self.now == self.step and not self.sent:
            self.sent = True
            os.kill(os.getpid(), signal.SIGINT)


def test_it_learns_and_leaves_a_whole_folder(reviews, tiny_bert, tmp_path):
    output = tmp_path / "run"
    result = Trainer(config(reviews, tiny_bert, output, *LEARNS)).train()
    assert result.metrics["eval"]["accuracy"] == 1.0
    assert result.steps == 72
    names = {path.name for path in output.iterdir()}
    assert names >= {"run.yaml", "data.json", "env.json", "log.jsonl", "report.html", "report.json", "final", "best"}
    assert json.loads((output / "status.json").read_text())["status"] == "finished"
    assert not list(output.rglob(".writing-*"))


def test_prediction_equals_evaluation(reviews, tiny_bert, tmp_path):
    result = Trainer(config(reviews, tiny_bert, tmp_path / "run", "train.epochs=1")).train()
    predictor = Predictor.from_folder(result.folder)
    rows = [json.loads(line) for line in (reviews / "dev.jsonl").read_text().splitlines()]
    predicted = predictor.predict([row["text"] for row in rows])
    right = sum(p.label == row["label"] for p, row in zip(predicted, rows, strict=True)) / len(rows)
    assert right == result.metrics["eval"]["accuracy"]
    alone = [predictor.predict(row["text"]) for row in rows]
    assert [p.label for p in alone] == [p.label for p in predicted]
    assert [p.score for p in alone] == pytest.approx([p.score for p in predicted], abs=1e-6)


def test_two_runs_with_one_seed_are_bit_equal(reviews, tiny_bert, tmp_path):
    for name in "ab":
        Trainer(config(reviews, tiny_bert, tmp_path / name)).train()
    assert_bit_equal(tmp_path / "a/final", tmp_path / "b/final")
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    other = Trainer(config(reviews, tiny_bert, tmp_path / "c", "train.seed=7")).train()
    assert not torch.equal(
        weights(other.folder)["classifier.weight"], weights(tmp_path / "a/final")["classifier.weight"]
    )


@pytest.mark.parametrize(
    "stops",
    [
        [StopAt(3)],
        [StopAt(6)],
        [StopAt(2), StopAt(4)],
        [StopAt(6, while_evaluating=True)],
        [StopAt(12, while_evaluating=True), StopAt(13)],
    ],
    ids=["mid-epoch", "epoch-end", "twice-in-one-epoch", "in-evaluation", "in-evaluation-then-mid-epoch"],
)
@pytest.mark.parametrize(
    "extra", [(), ("train.gradient_accumulation_steps=2", "train.num_workers=2")], ids=["plain", "accum"]
)
def test_a_run_continued_after_ctrl_c_is_bit_equal(reviews, tiny_bert, tmp_path, stops, extra):
    options = ("train.logging_steps=4", *extra)
    Trainer(config(reviews, tiny_bert, tmp_path / "whole", *options)).train()
    for stop in stops:
        stop.sent = False
        with pytest.raises(Interrupted):
            Trainer(config(reviews, tiny_bert, tmp_path / "cut", *options), callbacks=[stop]).train()
        assert json.loads((tmp_path / "cut/status.json").read_text())["status"] == "interrupted"
    Trainer(config(reviews, tiny_bert, tmp_path / "cut", *options)).train()
    assert_bit_equal(tmp_path / "whole/final", tmp_path / "cut/final")
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut")


def test_an_unfinished_newest_checkpoint_is_skipped_and_named(reviews, tiny_bert, tmp_path):
    Trainer(config(reviews, tiny_bert, tmp_path / "whole")).train()
    with pytest.raises(Interrupted):
        Trainer(config(reviews, tiny_bert, tmp_path / "cut"), callbacks=[StopAt(7)]).train()
    damaged = tmp_path / "cut/checkpoints/step-7/train_state/optimizer.safetensors"
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    heard: list[str] = []

    class Listen(Callback):
        def on_message(self, text: str) -> None:
            heard.append(text)

    Trainer(config(reviews, tiny_bert, tmp_path / "cut"), callbacks=[Listen()]).train()
    assert any("step-7" in text and "not what was written" in text for text in heard)
    assert any("from step 6" in text for text in heard)
    assert_bit_equal(tmp_path / "whole/final", tmp_path / "cut/final")


def test_accumulation_equals_one_batch(reviews, tiny_bert, tmp_path):
    """4 × 8 equals 1 × 32 in fp32 without dropout: one division by the real count."""
    from transformers import AutoModelForSequenceClassification

    from flagai.auto import load_saved

    seen = []
    for accumulation in (1, 4):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model.config.attention_probs_dropout_prob = 0.0
        for layer in model.bert.encoder.layer:
            layer.attention.self.dropout.p = 0.0
        output = tmp_path / f"accumulated-{accumulation}"
        options = ("train.batch_size=32", "train.max_steps=4", f"train.gradient_accumulation_steps={accumulation}")
        tokenizer = load_tokenizer(tiny_bert)
        Trainer(
            config(reviews, tiny_bert, output, *options, "train.logging_steps=1"), model=model, tokenizer=tokenizer
        ).train()
        seen.append([loss for kind, _, loss in losses(output) if kind == "train"])
        assert load_saved(output / "final").task is not None
    assert seen[1] == pytest.approx(seen[0], rel=1e-6)


def load_tokenizer(folder: Path):
    from flagai.models.tokenizers import build_tokenizer

    return build_tokenizer(folder)


def test_a_finished_run_refuses_and_proposes_a_name(reviews, tiny_bert, tmp_path):
    options = config(reviews, tiny_bert, tmp_path / "run", "train.max_steps=2")
    Trainer(options).train()
    with pytest.raises(OutputError, match=r"finished run.*\n.*run-2.*--fresh"):
        Trainer(options).train()
    again = config(reviews, tiny_bert, tmp_path / "run", "train.max_steps=2", "train.resume=false")
    assert Trainer(again).train().steps == 2


def test_other_settings_are_shown(reviews, tiny_bert, tmp_path):
    with pytest.raises(Interrupted):
        Trainer(config(reviews, tiny_bert, tmp_path / "run"), callbacks=[StopAt(3)]).train()
    other = config(reviews, tiny_bert, tmp_path / "run", "train.learning_rate=0.005")
    with pytest.raises(OutputError, match=r"train\.learning_rate: 0\.002 there, 0\.005 now[\s\S]*--resume"):
        Trainer(other).train()
    forced = config(reviews, tiny_bert, tmp_path / "run", "train.learning_rate=0.005", "train.resume=true")
    assert Trainer(forced).train().steps == 18


def test_other_data_is_refused(reviews, tiny_bert, tmp_path):
    with pytest.raises(Interrupted):
        Trainer(config(reviews, tiny_bert, tmp_path / "run"), callbacks=[StopAt(3)]).train()
    lines = (reviews / "train.jsonl").read_text().splitlines(keepends=True)
    (reviews / "train.jsonl").write_text("".join(lines[:-2]))
    with pytest.raises(OutputError, match="other data"):
        Trainer(config(reviews, tiny_bert, tmp_path / "run")).train()


def test_a_folder_of_something_else_is_left_alone(reviews, tiny_bert, tmp_path):
    output = tmp_path / "photos"
    output.mkdir()
    (output / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(OutputError, match="not a run of flagai"):
        Trainer(config(reviews, tiny_bert, output, "train.resume=false")).train()
    assert [path.name for path in output.iterdir()] == ["cat.jpg"]


def test_nan_loss_stops_before_the_weights_are_touched(reviews, tiny_bert, tmp_path):
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    with torch.no_grad():
        model.classifier.weight[0, 0] = float("nan")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(NonFiniteLossError, match=r"step 1[\s\S]*learning_rate"):
        Trainer(config(reviews, tiny_bert, tmp_path / "run"), model=model, tokenizer=load_tokenizer(tiny_bert)).train()
    assert all(
        torch.equal(
            before[n],
            v,
        )
        or n == "classifier.weight"
        for n, v in model.state_dict().items()
    )
    assert json.loads((tmp_path / "run/status.json").read_text())["status"] == "failed"


@pytest.mark.parametrize(
    ("overrides", "error", "text"),
    [
        (["data.max_length=100"], ConfigError, "at most 64"),
        (["train.best_metric=bleu"], ConfigError, "accuracy"),
        (["task.labels=[positive]"], LookupError, "'negative'"),
        (["data.train=nowhere.jsonl"], FileNotFoundError, "nowhere.jsonl"),
        (["task.inner_dim=3"], ConfigError, "inner_dim"),
        (["data.audit.fail_above=0.0", "data.max_length=8"], DataError, "fail_above"),
    ],
)
def test_mistakes_leave_no_folder(reviews, tiny_bert, tmp_path, overrides, error, text):
    with pytest.raises(error) as caught:
        Trainer(config(reviews, tiny_bert, tmp_path / "run", *overrides)).train()
    assert text in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_without_eval_a_seeded_part_is_held_out_aloud(reviews, tiny_bert, tmp_path):
    heard: list[str] = []

    class Listen(Callback):
        def on_message(self, text: str) -> None:
            heard.append(text)

    options = config(reviews, tiny_bert, tmp_path / "run", "data.eval=null", "train.max_steps=1")
    result = Trainer(options, callbacks=[Listen()]).train()
    assert any("held out" in text and "seed 42" in text for text in heard)
    assert "accuracy" in result.metrics["eval"]


def test_long_texts_are_an_error_unless_told_otherwise(reviews, tiny_bert, tmp_path):
    long = json.dumps({"text": "good " * 100, "label": "positive"}) + "\n"
    with (reviews / "train.jsonl").open("a") as file:
        file.write(long)
    with pytest.raises(DataError, match=r"train\.jsonl:49[\s\S]*data\.stride"):
        Trainer(config(reviews, tiny_bert, tmp_path / "run")).train()
    for name, extra in (("cut", "data.max_length=64"), ("windows", "data.stride=16")):
        options = config(reviews, tiny_bert, tmp_path / name, extra, "train.max_steps=1")
        assert Trainer(options).train().steps == 1


def test_early_stopping_keeps_the_best(reviews, tiny_bert, tmp_path):
    options = config(reviews, tiny_bert, tmp_path / "run", *LEARNS, "train.epochs=40", "train.early_stopping=3")
    result = Trainer(options).train()
    assert result.steps < 40 * 6
    assert result.metrics["eval"]["accuracy"] == 1.0


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_too(reviews, tiny_bert, tmp_path, precision):
    options = config(reviews, tiny_bert, tmp_path / "run", f"train.precision={precision}", *LEARNS)
    assert Trainer(options).train().metrics["eval"]["accuracy"] > 0.9


def test_disk_full_leaves_no_half_checkpoint(reviews, tiny_bert, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OutputError, match="disk is full"):
        Trainer(config(reviews, tiny_bert, tmp_path / "run")).train()
    assert list((tmp_path / "run/checkpoints").iterdir()) == []

"""What went wrong once and must not again: heads under other labels, dead courses, other people's folders."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from flagai import AutoLoader, Predictor, Trainer, load_config
from flagai.errors import ConfigError, NonFiniteLossError, OutputError
from flagai.models.tokenizers import build_tokenizer
from flagai.parallel.native import SingleProcess
from flagai.train import checkpoint
from flagai.train.callbacks import Callback
from flagai.train.interrupt import Interrupted


def config(reviews, model, output, *overrides):
    values = {
        "model": str(model),
        "task": {"name": "classification", "pooling": "mean"},
        "data": {"train": str(reviews / "train.jsonl"), "eval": str(reviews / "dev.jsonl")},
        "train": {"epochs": 2, "batch_size": 8, "learning_rate": 3e-3, "device": "cpu"},
        "output": str(output),
    }
    return load_config(values, overrides)


class StopAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, state, row) -> None:
        if state.step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("head", ["task.pooling=mean", "task.pooling=null"])
def test_a_head_is_not_taken_over_under_other_labels(reviews, tiny_bert, tmp_path, head):
    first = Trainer(config(reviews, tiny_bert, tmp_path / "a", head, "train.epochs=8")).train()
    still = ("train.max_steps=1", "train.learning_rate=1e-9")
    same = Trainer(config(reviews, first.folder, tmp_path / "same", head, *still)).train()
    assert same.metrics["eval"]["accuracy"] == first.metrics["eval"]["accuracy"]
    swapped = "task.labels=[positive, negative]"
    other = Trainer(config(reviews, first.folder, tmp_path / "other", head, swapped, *still))
    other.train()
    fresh = assembled(other)
    assert any("head" in name or "classifier" in name for name in fresh.fresh_parameters)


def assembled(trainer):
    from flagai.train import assemble

    return assemble.new_model(trainer.config, trainer._parts)


def test_a_gradient_that_is_not_finite_stops_before_the_weights(reviews, tiny_bert, tmp_path, monkeypatch):
    calls = []
    clip = SingleProcess.clip

    def poisoned(self, max_norm):
        calls.append(1)
        if len(calls) == 3:
            next(p for p in self._model.parameters() if p.grad is not None).grad.fill_(float("inf"))
        return clip(self, max_norm)

    monkeypatch.setattr(SingleProcess, "clip", poisoned)
    with pytest.raises(NonFiniteLossError, match=r"gradient norm is .* at step 3"):
        Trainer(config(reviews, tiny_bert, tmp_path / "run", "train.save_steps=1")).train()
    kept = load_file(tmp_path / "run/checkpoints/step-2/model.safetensors")
    assert all(torch.isfinite(value).all() for value in kept.values())


def test_fp16_does_not_skip_steps_for_large_batches(reviews, tiny_bert, tmp_path, monkeypatch):
    scales = []
    step = SingleProcess.step

    def watched(self, rates):
        step(self, rates)
        scales.append(self._scaler.get_scale())

    monkeypatch.setattr(SingleProcess, "step", watched)
    Trainer(config(reviews, tiny_bert, tmp_path / "run", "train.precision=fp16", "train.batch_size=32")).train()
    assert scales[-1] == 65536.0  # the scaler lowers its scale for every step it skips


def test_frozen_parameters_stay_frozen_in_a_continued_run(reviews, tiny_bert, tmp_path):
    from transformers import AutoModelForSequenceClassification

    def frozen():
        model = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
        model.bert.requires_grad_(False)
        return model

    options = config(reviews, tiny_bert, tmp_path / "run", "task.pooling=null")
    tokenizer = build_tokenizer(tiny_bert)
    start = {name: value.clone() for name, value in frozen().bert.named_parameters() if "pooler" not in name}
    with pytest.raises(Interrupted):
        Trainer(options, model=frozen(), tokenizer=tokenizer, callbacks=[StopAt(3)]).train()
    result = Trainer(options, model=frozen(), tokenizer=tokenizer).train()
    final = load_file(result.folder / "model.safetensors")
    assert all(torch.equal(final[f"bert.{name}"], value) for name, value in start.items())


def test_a_checkpoint_just_written_is_never_the_one_that_goes(tmp_path):
    for step in (5, 10, 20):
        (tmp_path / f"step-{step}").mkdir()
    checkpoint.keep(tmp_path, 1, last=10)
    assert [path.name for path in tmp_path.iterdir()] == ["step-10"]


@pytest.mark.parametrize("text", ["{}", "[]", "\xff", '{"files": 3}'])
def test_a_damaged_manifest_is_skipped(tmp_path, text):
    folder = tmp_path / "step-5"
    folder.mkdir()
    (folder / "MANIFEST.json").write_bytes(text.encode("latin1"))
    heard: list[str] = []
    assert checkpoint.newest(tmp_path, heard.append) is None
    assert "step-5" in heard[0]


@pytest.mark.parametrize("status", ['{"status": "ok"}', "[]", "{}", "x"])
def test_a_status_file_of_something_else_protects_its_folder(reviews, tiny_bert, tmp_path, status):
    output = tmp_path / "theirs"
    output.mkdir()
    (output / "status.json").write_text(status)
    (output / "README.md").write_text("mine")
    for resume in ("auto", "false"):
        with pytest.raises(OutputError, match="not a run of flagai"):
            Trainer(config(reviews, tiny_bert, output, f"train.resume={resume}")).train()
    assert {path.name for path in output.iterdir()} == {"status.json", "README.md"}


def test_starting_anew_leaves_what_is_not_ours(reviews, tiny_bert, tmp_path):
    Trainer(config(reviews, tiny_bert, tmp_path / "run", "train.max_steps=1")).train()
    (tmp_path / "run/README.md").write_text("mine")
    Trainer(config(reviews, tiny_bert, tmp_path / "run", "train.max_steps=1", "train.resume=false")).train()
    assert (tmp_path / "run/README.md").read_text() == "mine"


def test_fresh_is_no_setting_of_the_run(reviews, tiny_bert, tmp_path):
    options = config(reviews, tiny_bert, tmp_path / "run", "train.resume=false")
    with pytest.raises(Interrupted):
        Trainer(options, callbacks=[StopAt(3)]).train()
    saved = load_config(tmp_path / "run/run.yaml")
    assert saved.train.resume == "auto"
    heard: list[str] = []

    class Listen(Callback):
        def on_message(self, text: str) -> None:
            heard.append(text)

    Trainer(saved, callbacks=[Listen()]).train()
    assert any("continuing" in text and "step 3" in text for text in heard)


def test_a_model_handed_over_has_no_command_that_repeats_it(reviews, tiny_bert, tmp_path):
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    options = config(reviews, tiny_bert, tmp_path / "run", "train.max_steps=1", "task.pooling=null")
    Trainer(options, model=model, tokenizer=build_tokenizer(tiny_bert)).train()
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert "handed over" in report["command"]
    named = Trainer(config(reviews, tiny_bert, tmp_path / "named", "train.max_steps=1")).train()
    report = json.loads((tmp_path / "named/report.json").read_text())
    assert report["command"].startswith("flagai train ")
    arguments = report["command"].split()[2:]
    again = Trainer(load_config(arguments[0], arguments[1:])).train()
    assert load_file(again.folder / "model.safetensors").keys() == load_file(named.folder / "model.safetensors").keys()
    for name, value in load_file(again.folder / "model.safetensors").items():
        assert torch.equal(value, load_file(named.folder / "model.safetensors")[name])


def test_the_best_model_of_several_labels_is_chosen_with_tuned_thresholds(tiny_bert, tmp_path):
    rows = [{"text": f"a {w} film {i}", "label": [w]} for i in range(12) for w in ("good", "bad", "fine", "poor")]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "model": str(tiny_bert),
        "task": {"name": "classification", "multi_label": True},
        "data": {"train": str(tmp_path / "train.jsonl")},
        "train": {"max_steps": 2, "eval_steps": 1, "device": "cpu"},
        "output": str(tmp_path / "run"),
    }
    result = Trainer(load_config(values)).train()
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    seen = [row["f1_micro"] for row in log if row["kind"] == "eval"]
    assert max(seen) > 0  # with the threshold 0.5 an untrained model of four labels answers nothing
    assert result.metrics["eval"]["f1_micro"] == pytest.approx(max(seen))


def test_adapters_alone_are_no_start(reviews, tiny_bert, tmp_path):
    options = config(reviews, tiny_bert, tmp_path / "run", "train.max_steps=1")
    lora = load_config(options.to_dict() | {"model": {"name": str(tiny_bert), "lora": {"r": 2}}})
    result = Trainer(lora).train()
    with pytest.raises(ValueError, match="flagai merge"):
        Trainer(config(reviews, result.folder, tmp_path / "next")).train()


def test_an_adapter_on_a_layer_that_is_trained_whole_is_left_out(reviews, tiny_bert, tmp_path):
    values = config(reviews, tiny_bert, tmp_path / "run", "train.max_steps=1", "task.pooling=null").to_dict()
    values["model"] = {"name": str(tiny_bert), "lora": {"r": 2, "target_modules": ["query", "classifier"]}}
    result = Trainer(load_config(values)).train()
    assert (result.folder / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("weights", [{"positive": -1}, {"positive": 0, "negative": 0}])
def test_weights_of_classes_make_sense(reviews, tiny_bert, tmp_path, weights):
    options = config(reviews, tiny_bert, tmp_path / "run").to_dict()
    options["task"]["class_weights"] = weights
    with pytest.raises(ConfigError, match="class_weights"):
        Trainer(load_config(options)).train()


def test_a_blank_text_alone_in_its_batch_teaches_nothing_and_harms_nothing(tiny_bert, tmp_path):
    rows = [{"text": "good film", "entities": [{"start": 5, "end": 9, "label": "X"}]}] * 2 + [
        {"text": " ", "entities": []}
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "model": str(tiny_bert),
        "task": "ner",
        "data": {"train": str(tmp_path / "train.jsonl"), "eval_fraction": 0.0},
        "train": {"batch_size": 1, "epochs": 2, "device": "cpu"},
        "output": str(tmp_path / "run"),
    }
    assert Trainer(load_config(values)).train().steps == 6


def test_an_empty_text_is_answered_without_special_tokens_too(tiny_bert):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"<pad>": 0, "good": 1}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", model_max_length=16)
    made = BertConfig(
        vocab_size=2, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_labels=2,
        id2label={0: "a", 1: "b"},
    )  # fmt: skip
    predictor = Predictor(BertForSequenceClassification(made).eval(), tokenizer)
    assert len(predictor.predict(["good", "", "good good"])) == 3


def test_pairs_of_vectors_count_twice(tiny_bert):
    loader = AutoLoader("embedding", tiny_bert)
    from flagai.data.record import Record

    [example] = loader.get_task().encode(Record({"text": "good", "text_pair": "a very good film"}))
    assert example.slots == 2 * len(example)

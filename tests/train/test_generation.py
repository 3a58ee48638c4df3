"""Runs of tasks that write: they learn, are measured by writing, continue to the bit, answer as they were measured."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.tasks.writers import FAMILIES, LETTERS, settings, tokenizer_for

from flagai import Trainer, load_config
from flagai.errors import ConfigError, DataError
from flagai.predict.evaluate import evaluate_records
from flagai.predict.predictor import Predictor
from flagai.tasks.results import Written
from flagai.train.callbacks import Callback
from flagai.train.interrupt import Interrupted


def pairs(count: int, seed: int) -> list[dict[str, str]]:
    """A letter, and the same twice: something that a tiny model can learn."""
    chance = random.Random(seed)
    letters = [chance.choice(LETTERS[:6]) for _ in range(count)]
    return [{"source": letter, "target": f"{letter} {letter}"} for letter in letters]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, count, seed in (("train", 48, 0), ("dev", 8, 1)):
        text = "".join(json.dumps(row) + "\n" for row in pairs(count, seed))
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return tmp_path


def config(root: Path, family: str, output: str, *overrides: str, **sections: Any) -> Any:
    tokenizer = root / f"tokenizer-{family}"
    if not tokenizer.is_dir():
        tokenizer_for(family, root / family).save_pretrained(tokenizer)
    values = {
        "model": {"config": settings(family), "tokenizer": str(tokenizer)},
        "task": {"name": "seq2seq"},
        "data": {"train": str(root / "train.jsonl"), "eval": str(root / "dev.jsonl")},
        "train": {"max_steps": 6, "batch_size": 16, "learning_rate": 0.01, "device": "cpu"},
        "output": str(root / output),
    }
    return load_config(values | sections, overrides)


def rows_of(folder: Path, kind: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]
    return [row for row in rows if row["kind"] == kind]


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_learns_to_write(family: str, data: Path) -> None:
    steps = "train.max_steps=60" if family != "encoder-decoder" else "train.max_steps=120"
    result = Trainer(config(data, family, "run", steps, "train.eval_written=0", "train.eval_steps=30")).train()
    metrics = result.metrics["eval"]
    assert metrics["exact_match"] == 1.0 and metrics["rouge_l"] == 1.0
    report = json.loads((data / "run/report.json").read_text("utf-8"))
    assert report["writing"]["samples"][0]["predicted"] and report["metrics"]["eval"]["rouge_1"]["low"] == 1.0
    logged = rows_of(data / "run", "eval")
    assert all("rouge_1" not in row for row in logged) and logged[-1]["loss"] < logged[0]["loss"]
    predictor = Predictor.from_folder(result.folder)
    answers = predictor.predict(["b", {"text": "e"}])
    assert [type(one) for one in answers] == [Written, Written] and [one.text for one in answers] == ["b b", "e e"]
    again = evaluate_records(predictor, data / "dev.jsonl")
    assert again["metrics"]["chrf"]["value"] == metrics["chrf"]


class _Stop(Callback):
    """Stops a run after some steps, as Ctrl-C does."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step(self, state: Any, row: Any) -> None:
        if state.step == self._step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("family", ["decoder", "encoder"])
def test_a_continued_run_is_equal_to_the_bit(family: str, data: Path) -> None:
    texts = [{"source": "a", "target": ["a b", "c"]}, {"source": "b c", "target": ["d", "e f", "g"]}] * 8
    (data / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts), encoding="utf-8")
    more = ("train.save_steps=2", "task.label_smoothing=0.1", "train.eval_written=0", "train.batch_size=4")
    Trainer(config(data, family, "whole", *more)).train()
    with pytest.raises((KeyboardInterrupt, Interrupted)):
        Trainer(config(data, family, "parts", *more), callbacks=[_Stop(3)]).train()
    Trainer(config(data, family, "parts", *more)).train()
    whole, parts = (load_file(data / name / "final/model.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)


def test_evaluations_on_the_way_write_to_a_part(data: Path) -> None:
    settings = ("train.eval_written=3", "train.eval_steps=3", "train.best_metric=rouge_l")
    result = Trainer(config(data, "glm", "run", *settings, generate={"num_beams": 2})).train()
    assert all("rouge_l" in row for row in rows_of(data / "run", "eval"))
    assert result.metrics["eval"].keys() >= {"rouge_l", "loss"}
    saved = json.loads((result.folder / "task.json").read_text("utf-8"))
    assert saved["state"]["generation"] == {"num_beams": 2}
    assert Predictor.from_folder(result.folder).task.generation.num_beams == 2  # type: ignore[attr-defined]


def test_parallel_files_and_folders_are_read(data: Path) -> None:
    for name in ("train", "dev"):
        rows = [json.loads(line) for line in (data / f"{name}.jsonl").read_text("utf-8").splitlines()]
        (data / name).mkdir()
        for file, key in ((f"{name}/in.txt", "source"), (f"{name}/out.txt", "target")):
            (data / file).write_text("".join(row[key] + "\n" for row in rows), encoding="utf-8")
        for suffix, key in (("src", "source"), ("tgt", "target")):
            (data / f"{name}.{suffix}").write_text("".join(row[key] + "\n" for row in rows), encoding="utf-8")
    more = ("train.eval_written=0", "train.max_steps=2")
    files = {
        "jsonl": {"train": str(data / "train.jsonl"), "eval": str(data / "dev.jsonl")},
        "src": {"train": str(data / "train.src"), "eval": str(data / "dev.src")},
        "folders": {"train": str(data / "train"), "eval": str(data / "dev")},
    }
    results = [Trainer(config(data, "decoder", name, *more, data=found)).train() for name, found in files.items()]
    assert results[0].metrics == results[1].metrics == results[2].metrics
    (data / "train.tgt").write_text("one line\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"train.src has 48 lines, train.tgt has 1"):
        Trainer(config(data, "decoder", "bad", *more, data=files["src"])).train()


@pytest.mark.parametrize(
    ("overrides", "where"),
    [
        (("generate.top_p=2",), "generate.top_p"),
        (("generate.beams=2",), "generate"),
        (("train.best_metric=rouge_1", "train.eval_written=0"), "train.eval_written"),
        (("task.template=x",), "task.template"),
        (("task.multi_label=true",), "task.multi_label"),
        (("data.stride=4",), "data.stride"),
        (("task=classification", "train.eval_written=4"), "train.eval_written"),
        (("task=classification", "data.max_target_length=4"), "data.max_target_length"),
        (("task=classification", "generate.num_beams=2"), "generate"),
    ],
)
def test_settings_that_cannot_be_meant(overrides: tuple[str, ...], where: str, data: Path, no_device: None) -> None:
    with pytest.raises(ConfigError) as error:
        Trainer(config(data, "encoder", "run", *overrides)).train()
    assert error.value.where == where


def test_a_long_source_is_an_error_before_a_model_is_moved(data: Path, no_device: None) -> None:
    row = {"source": " ".join(LETTERS * 3), "target": "a"}
    (data / "train.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="more than there is room for") as error:
        Trainer(config(data, "encoder", "run")).train()
    assert "data.max_length" in error.value.fix


@pytest.mark.parametrize("family", ["decoder", "glm"])
def test_texts_are_learned_and_written_on(family: str, data: Path) -> None:
    rows = [{"content": "a b c d e f"}, {"content": "x y z x y z"}] * 12
    for name in ("train", "dev"):
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = ("train.max_steps=40", "data.max_length=32", "data.columns.text=content", "train.eval_steps=20")
    result = Trainer(config(data, family, "run", *settings, task="lm", generate={"max_new_tokens": 12})).train()
    logged = rows_of(data / "run", "eval")
    assert logged[-1]["perplexity"] < logged[0]["perplexity"]
    metrics = result.metrics["eval"]
    assert metrics.keys() == {"loss", "perplexity"} and metrics["perplexity"] < 1.5
    predictor = Predictor.from_folder(result.folder)
    measured = evaluate_records(predictor, data / "dev.jsonl", hints={"text": "content"})["metrics"]
    assert measured["loss"]["value"] == pytest.approx(metrics["loss"], abs=1e-6)
    if family == "decoder":  # a GLM learned to write whole texts, behind no prompt
        written = predictor.predict("a b")
        assert written.text == "a b c d e f" and 0 < written.score <= 1


@pytest.mark.parametrize("family", ["decoder", "glm"])
def test_adapters_learn_to_write(family: str, data: Path) -> None:
    pytest.importorskip("peft")
    base = Trainer(config(data, family, "base", "train.max_steps=2", "train.eval_written=0")).train().folder
    more = ("train.max_steps=4", "train.eval_written=0")
    result = Trainer(config(data, family, "run", *more, model={"name": str(base), "lora": {"r": 2}})).train()
    assert not (result.folder / "model.safetensors").exists()
    answers = Predictor.from_folder(result.folder).predict(["a", "b"])
    assert all(isinstance(one, Written) for one in answers)


def test_a_run_goes_on_from_the_folder_of_another(data: Path) -> None:
    first = Trainer(config(data, "glm", "first", "train.max_steps=40", "train.eval_written=0")).train()
    more = ("train.max_steps=1", "train.eval_written=0", "train.learning_rate=1e-6")
    again = config(data, "glm", "again", *more, model=str(first.folder))
    result = Trainer(again).train()
    assert rows_of(data / "again", "train")[0]["loss"] < 0.5 < rows_of(data / "first", "train")[0]["loss"]
    assert result.metrics["eval"]["exact_match"] > 0.9


@pytest.mark.parametrize("family", [*FAMILIES, "bart"])
def test_a_run_in_bfloat16_is_measured_by_writing(family: str, data: Path) -> None:
    """Answers are written in the type of the weights, so that the saved model gives the same ones."""
    more: dict[str, Any] = {}
    if family == "bart":
        config(data, "decoder", "unused")  # makes the tokenizer
        sizes = {f"{part}_{name}": 2 for part in ("encoder", "decoder") for name in ("layers", "attention_heads")}
        sizes |= {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "d_model": 32, "max_position_embeddings": 48}
        bart = {"model_type": "bart", "pad_token_id": 0, "dropout": 0.0} | sizes
        more = {"model": {"config": bart, "tokenizer": str(data / "tokenizer-decoder")}}
    overrides = ("train.max_steps=10", "train.precision=bf16", "train.eval_written=0", "generate.num_beams=2")
    result = Trainer(config(data, "decoder" if more else family, "run", *overrides, **more)).train()
    again = evaluate_records(Predictor.from_folder(result.folder), data / "dev.jsonl")["metrics"]
    assert again["chrf"]["value"] == pytest.approx(result.metrics["eval"]["chrf"], abs=1e-9)

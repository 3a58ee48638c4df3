"""Masked language modelling: which tokens are hidden, that their loss is the model's, and masks filled in texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.tasks.writers import LETTERS

from flagai import AutoLoader, Trainer, load_config
from flagai.config import TaskConfig
from flagai.data.record import Record
from flagai.errors import DataError, ModelError
from flagai.models.tokenizers import build_tokenizer
from flagai.parallel.native import SingleProcess
from flagai.predict import loop
from flagai.predict.evaluate import evaluate_records
from flagai.predict.predictor import Predictor
from flagai.tasks.table import make_task


def learner(folder: Path, *, learning: bool = True, **options: Any) -> Any:
    task = make_task(TaskConfig(name="masklm"), build_tokenizer(folder), max_length=32, **options)
    if learning:
        task.fit([])
    return task


def test_about_a_seventh_of_the_tokens_is_hidden_anew_in_every_epoch(tiny_bert: Path) -> None:
    task = learner(tiny_bert)
    texts = [Record({"text": " ".join(LETTERS[i % 7 :])}) for i in range(200)]
    examples = [example for windows in task.encode_many(texts) for example in windows]
    batches = [task.collate_training(examples, epoch=epoch, seed=1) for epoch in (0, 0, 1)]
    assert all((batches[0][name] == batches[1][name]).all() for name in batches[0])
    assert (batches[0]["labels"] != batches[2]["labels"]).any()
    plain, hidden = task._inputs(examples)["input_ids"], batches[0]
    chosen = hidden["logits_to_keep"]
    assert (hidden["labels"][chosen] == plain[chosen]).all() and (hidden["input_ids"] == plain)[~chosen].all()
    special = np.isin(plain, task.tokenizer.all_special_ids)
    assert not (chosen & special).any() and chosen.sum() / (~special).sum() == pytest.approx(0.15, abs=0.02)
    masked = hidden["input_ids"][chosen] == task.tokenizer.mask_token_id
    same = (hidden["input_ids"] == plain)[chosen]
    assert masked.mean() == pytest.approx(0.8, abs=0.05) and same.mean() == pytest.approx(0.1, abs=0.05)


def test_held_out_texts_hide_the_same_whatever_the_seed(tiny_bert: Path) -> None:
    task, other = learner(tiny_bert), learner(tiny_bert)
    records = [Record({"text": "the film was very good"}), Record({"text": "a meal"})]
    first = task.collate([windows[0] for windows in task.encode_many(records)])
    again = other.collate([windows[0] for windows in other.encode_many(records[::-1], start=7)][::-1])
    assert all((first[name] == again[name]).all() for name in first)


def test_the_loss_is_the_models_own(tiny_bert: Path, calm_bert: Path) -> None:
    loader = AutoLoader("masklm", calm_bert)
    model, task = loader.get_model(), learner(calm_bert)
    examples = task.encode_many([Record({"text": "the film was good"}), Record({"text": "bad"})])
    batch = task.collate([windows[0] for windows in examples])
    strategy = SingleProcess(device="cpu")
    strategy.place(model)
    measured = strategy.evaluate(batch, task.loss)[1]
    names = ("input_ids", "attention_mask", "token_type_ids", "labels")
    with torch.no_grad():
        wanted = model(**{name: torch.from_numpy(batch[name]) for name in names}).loss.item()
    assert measured is not None and measured[0] / measured[1] == pytest.approx(wanted, rel=1e-5)


def test_each_mask_gets_the_most_probable_token(tiny_bert: Path) -> None:
    loader = AutoLoader("masklm", tiny_bert)
    predictor = Predictor(loader.get_model(), loader.get_tokenizer())
    texts = ["the [MASK] was [MASK]", "good", "a [MASK]!"]
    found = predictor.predict(texts)
    assert [len(one.blanks) for one in found] == [2, 0, 1]
    assert found[0].text == f"the {found[0].blanks[0]} was {found[0].blanks[1]}" and found[1].text == "good"
    assert [one.text for one in found] == [predictor.predict(text).text for text in texts]
    assert 0 < found[0].score < 1 and found[1].score == 1
    tokens = loader.get_tokenizer()
    with torch.no_grad():
        logits = loader.get_model()(**tokens("a [MASK]!", return_tensors="pt")).logits[0, 2]
    logits[tokens.all_special_ids] = -torch.inf
    assert found[2].blanks[0] == tokens.decode([int(logits.argmax())]).removeprefix("##")


def test_a_run_learns_and_is_measured_by_its_loss(tiny_bert: Path, tmp_path: Path) -> None:
    text = "".join(json.dumps({"text": "the film was very good"}) + "\n" for _ in range(40))
    (tmp_path / "train.jsonl").write_text(text, encoding="utf-8")
    settings = {
        "model": str(tiny_bert),
        "task": "masklm",
        "data": {"train": str(tmp_path / "train.jsonl"), "eval": str(tmp_path / "train.jsonl")},
        "train": {"max_steps": 20, "batch_size": 20, "learning_rate": 0.01, "eval_steps": 10, "device": "cpu"},
        "output": str(tmp_path / "run"),
    }
    result = Trainer(load_config(settings)).train()
    metrics = result.metrics["eval"]
    assert metrics.keys() == {"loss", "perplexity"} and metrics["perplexity"] < 3
    predictor = Predictor.from_folder(result.folder)
    assert predictor.predict("the [MASK] was very good").text == "the film was very good"
    measured = evaluate_records(predictor, tmp_path / "train.jsonl")
    assert measured["metrics"]["loss"]["value"] == pytest.approx(metrics["loss"], abs=1e-5)


def test_mistakes(tiny_bert: Path, tmp_path: Path) -> None:
    task = learner(tiny_bert, learning=False)
    with pytest.raises(DataError, match="the text is empty"):
        task.encode(Record({"text": " "}))
    with pytest.raises(DataError, match="beyond 32 tokens"):
        task.encode(Record({"text": "the " * 40}))
    long = learner(tiny_bert, stride=4).encode(Record({"text": "the film " * 40}))
    assert len(long) > 2 and long[0].target is True
    tokenizer = build_tokenizer(tiny_bert)
    tokenizer.mask_token = None
    with pytest.raises(ModelError, match="has no mask token"):
        make_task(TaskConfig(name="masklm"), tokenizer, max_length=32)
    assert loop.loss_metrics(None) == {} and loop.loss_metrics(1e4)["perplexity"] > 1e300

"""Every task of the table: packed = bucketed = padded = one by one, and predict = eval = Predictor, saved or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flagai import AutoLoader, Predictor, Trainer, load_config
from flagai.auto import load_saved, save_folder
from flagai.data.records import read_records
from flagai.models import packing
from flagai.models.checkpoints import fingerprint
from flagai.parallel.native import SingleProcess
from flagai.predict import loop
from flagai.predict.evaluate import evaluate_records
from flagai.tasks.results import Embedding, Entity, Label, Labels, Similarity, dumps, to_json
from flagai.tasks.saved import FILE, read_task_json, task_from_json, task_to_json
from flagai.tasks.table import TASKS
from flagai.train import assemble
from flagai.train.prepare import prepare, read_sources

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "classification": ("label", {"name": "classification"}),
    "classification-pooled": ("label", {"name": "classification", "pooling": "mean", "class_weights": "balanced"}),
    "classification-cosine": ("label", {"name": "classification", "head": "cosine"}),
    "classification-multi-label": ("labels", {"name": "classification", "multi_label": True}),
    "classification-of-pairs": ("pair", {"name": "classification", "label_smoothing": 0.1}),
    "semantic-matching": ("pair", {"name": "semantic-matching"}),
    "semantic-matching-regression": ("score", {"name": "semantic-matching", "regression": True}),
    "sequence-labeling": ("entities", {"name": "sequence-labeling"}),
    "sequence-labeling-crf": ("entities", {"name": "sequence-labeling-crf"}),
    "sequence-labeling-gp": ("entities", {"name": "sequence-labeling-gp", "inner_dim": 8}),
    "ner": ("entities", {"name": "ner"}),
    "ner-crf": ("entities", {"name": "ner-crf"}),
    "ner-gp": ("entities", {"name": "ner-gp", "inner_dim": 8, "threshold": 0.3}),
    "classification-in-windows": ("label", {"name": "classification"}),
    "ner-in-windows": ("entities", {"name": "ner"}),
    "ner-crf-in-windows": ("entities", {"name": "ner-crf"}),
    "ner-gp-in-windows": ("entities", {"name": "ner-gp", "inner_dim": 8}),
    "embedding": ("score", {"name": "embedding"}),
    "embedding-cls-cosent": ("score", {"name": "embedding", "pooling": "cls", "loss": "cosent"}),
}
EVERY_CASE = pytest.mark.parametrize("name", CASES)


WRITING = {"seq2seq", "title-generation", "summarization", "couplet", "question-generation", "lm", "poetry", "masklm"}
ELSEWHERE = WRITING | {"blank-infilling"}
"""tests/train/test_{generation,pretraining}.py, tests/tasks/test_{generation,masked}.py and tests/predict ask it"""


def test_every_task_is_here():
    assert {options["name"] for _, options in CASES.values()} | ELSEWHERE == set(TASKS)


def config(name: str, data: Path, model: Path, output: Path, *overrides: str):
    values = {
        "model": str(model),
        "task": CASES[name][1],
        "data": {
            "train": str(data / "train.jsonl"),
            "eval": str(data / "dev.jsonl"),
            **({"max_length": 9, "stride": 3} if "windows" in name else {}),
        },
        "train": {"max_steps": 4, "batch_size": 8, "learning_rate": 0.002, "device": "cpu"},
        "output": str(output),
    }
    return load_config(values, overrides)


def parts_of(result: Any) -> tuple[Any, list[float]]:
    """What must be equal (labels, spans) and what may differ by rounding (scores)."""
    if isinstance(result, list):
        pairs = [parts_of(item) for item in result]
        return [pair[0] for pair in pairs], [score for pair in pairs for score in pair[1]]
    if isinstance(result, Label):
        return result.label, [result.score, *(result.scores[label] for label in sorted(result.scores))]
    if isinstance(result, Labels):
        return result.labels, [result.scores[label] for label in sorted(result.scores)]
    if isinstance(result, Entity):
        return (result.text, result.label, result.start, result.end), [result.score]
    if isinstance(result, Similarity):
        return None, [result.score]
    assert isinstance(result, Embedding)
    return None, list(result.vector)


def assert_same(left: Any, right: Any, bound: float = 1e-5) -> None:
    assert len(left) == len(right)
    assert [parts_of(a)[0] for a in left] == [parts_of(b)[0] for b in right]
    for a, b in zip(left, right, strict=True):
        assert parts_of(a)[1] == pytest.approx(parts_of(b)[1], abs=bound)


@EVERY_CASE
def test_train_save_load_predict_equals_eval(tiny_data, tiny_bert, tmp_path, name):
    data = tiny_data(CASES[name][0])
    result = Trainer(config(name, data, tiny_bert, tmp_path / "run")).train()
    measured = result.metrics["eval"]
    assert all(np.isfinite(value) for value in measured.values()), measured

    predictor = Predictor.from_folder(result.folder, device="cpu")
    task = predictor.task
    again = evaluate_records(predictor, data / "dev.jsonl")["metrics"]
    assert {key: row["value"] for key, row in again.items()} == pytest.approx(
        {key: value for key, value in measured.items() if key != "loss"}, abs=1e-9
    )

    records = read_records(data / "dev.jsonl", kind=task.kind)
    whole = list(predictor.predict_records(records))
    assert task.metrics(whole, [task.gold(record) for record in records]) == pytest.approx(
        {key: value for key, value in measured.items() if key != "loss"}, abs=1e-9
    )
    inputs = [{key: value for key, value in record.fields.items() if key != "label"} for record in records]
    assert_same(predictor.predict(inputs), whole, 0.0)
    assert_same(predictor.predict(inputs, batch_size=1), whole)
    assert_same(predictor.predict(inputs, batch_size=4), whole)
    assert_same(predictor.predict(inputs[::-1], batch_tokens=60)[::-1], whole)
    assert_same([predictor.predict(item) for item in inputs], whole)
    assert_same(Predictor(*_pair(result.folder), pack=False).predict(inputs), whole)
    for item in whole:
        assert json.loads(dumps(to_json(item))) == to_json(item)


def test_windows_are_more_than_texts(tiny_data, tiny_bert):
    """What the cases in windows prove, they prove only if there are windows."""
    _, _, examples = ready("ner-in-windows", tiny_data("entities"), tiny_bert)
    assert max(example.window for example in examples) > 1
    assert max(map(len, examples)) == 9


@EVERY_CASE
def test_auto_loader_gives_the_same_model(tiny_data, tiny_bert, tmp_path, name):
    kind, options = CASES[name]
    data = tiny_data(kind)
    result = Trainer(config(name, data, tiny_bert, tmp_path / "run", "train.max_steps=2")).train()
    loader = AutoLoader(options["name"], result.folder)
    inputs = [record.fields for record in read_records(data / "dev.jsonl", kind=loader.get_task().kind)]
    right = Predictor.from_folder(result.folder, device="cpu").predict(inputs)
    assert_same(Predictor(loader.get_model(), loader.get_tokenizer()).predict(inputs), right)


def test_hugging_face_reads_what_was_saved(tiny_data, tiny_bert, tmp_path):
    """`final` of a task with a stock head is a model of that library: the same scores under the same names."""
    from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

    data = tiny_data("label")
    folder = Trainer(config("classification", data, tiny_bert, tmp_path / "a")).train().folder
    model = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    texts = [record.text for record in read_records(data / "dev.jsonl", kind="text")]
    with torch.no_grad():
        scores = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.softmax(-1)
    for row, mine in zip(scores, Predictor.from_folder(folder, device="cpu").predict(texts), strict=True):
        assert {model.config.id2label[i]: p.item() for i, p in enumerate(row)} == pytest.approx(mine.scores, abs=1e-6)

    data = tiny_data("entities")
    folder = Trainer(config("ner", data, tiny_bert, tmp_path / "b")).train().folder
    model, info = AutoModelForTokenClassification.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert model.config.id2label[0] == "O" and set(model.config.label2id) > {"B-WORK", "I-WORK", "B-PLACE"}


def _pair(folder: Path) -> tuple[Any, Any]:
    loaded = load_saved(folder)
    return loaded.model, loaded.tokenizer


@EVERY_CASE
def test_task_json_and_weights_go_round(tiny_data, tiny_bert, tmp_path, name):
    result = Trainer(config(name, tiny_data(CASES[name][0]), tiny_bert, tmp_path / "run", "train.max_steps=1")).train()
    values = read_task_json(result.folder)
    assert values is not None
    loaded = load_saved(result.folder)
    task = task_from_json(values, loaded.tokenizer, fingerprint(loaded.tokenizer), FILE)
    assert task_to_json(task, fingerprint(loaded.tokenizer)) == values
    assert task.head() == loaded.task.head()
    assert task.label_names() == loaded.task.label_names()
    save_folder(tmp_path / "copy", loaded)
    assert (tmp_path / "copy" / FILE).read_bytes() == (result.folder / FILE).read_bytes()
    before, after = loaded.model.state_dict(), load_saved(tmp_path / "copy").model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


# -- packed = bucketed = padded one by one ----------------------------------------------------------------------


def ready(name: str, data: Path, model: Path) -> tuple[Any, Any, list[Any]]:
    """Task, a new model and the training examples of a run, as the trainer makes them."""
    settings = config(name, data, model, data / "unused")
    parts = assemble.ingredients(settings, offline=True)
    prepared = prepare(settings, parts.task, read_sources(settings, parts.task, print), print)
    return parts.task, assemble.new_model(settings, parts), prepared.examples["train"]


def gradients(task: Any, model: Any, batches: list[list[Any]]) -> tuple[float, dict[str, torch.Tensor]]:
    """Mean loss and its gradients over the batches of one step."""
    strategy = SingleProcess(device="cpu")
    strategy.place(model)
    model.zero_grad(set_to_none=True)
    loss, count = strategy.accumulate([task.collate(batch) for batch in batches], task.loss)
    strategy.clip(None)
    return loss / count, {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}


WITHOUT_COSENT = [name for name in CASES if "cosent" not in name]  # that loss compares the pairs of one batch


@pytest.mark.parametrize("name", WITHOUT_COSENT)
def test_training_gradients(tiny_data, calm_bert, name, monkeypatch):
    monkeypatch.setitem(
        CASES, name, (CASES[name][0], CASES[name][1] | ({} if "embedding" in name else {"dropout": 0.0}))
    )
    task, model, examples = ready(name, tiny_data(CASES[name][0]), calm_bert)
    assert len({len(example) for example in examples}) > 3, "all lengths equal: nothing to pad"
    by_length = sorted(examples, key=len)
    one_by_one = gradients(task, model, [[example] for example in examples])
    ways = {
        "padded": gradients(task, model, [examples]),
        "bucketed": gradients(task, model, [by_length[i : i + 5] for i in range(0, len(by_length), 5)]),
    }
    assert packing.enable(model)
    ways["packed"] = gradients(task, model, [examples])
    ways["packed in parts"] = gradients(task, model, [examples[:9], examples[9:]])
    packing.disable(model)
    largest = max(value.abs().max().item() for value in one_by_one[1].values())
    assert largest > 1e-4
    for way, (loss, found) in ways.items():
        assert loss == pytest.approx(one_by_one[0], rel=2e-6), way
        assert found.keys() == one_by_one[1].keys()
        for key, value in found.items():
            torch.testing.assert_close(
                value,
                one_by_one[1][key],
                atol=2e-6 * max(1.0, largest),
                rtol=1e-4,
                msg=lambda m, w=way, k=key: f"{w} {k}: {m}",
            )


@pytest.mark.parametrize("name", [name for name in CASES if "embedding" not in name])
def test_dropout_before_the_head_is_as_asked(tiny_data, calm_bert, name, monkeypatch):
    """`calm_bert` has no dropout of its own, and `task.dropout` is the only one there is, whatever the head."""
    kind, options = CASES[name]
    monkeypatch.setitem(CASES, name, (kind, options | {"dropout": 0.37}))
    _, model, _ = ready(name, tiny_data(kind), calm_bert)
    rates = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    assert 0.37 in rates
    assert rates <= {0.0, 0.37}


@EVERY_CASE
def test_prediction(tiny_data, tiny_bert, name):
    task, model, examples = ready(name, tiny_data(CASES[name][0]), tiny_bert)
    strategy = SingleProcess(device="cpu")
    strategy.place(model)
    padded = loop.run(task, strategy.evaluate, examples, batch_size=1)
    ways = {"bucketed": loop.run(task, strategy.evaluate, examples, batch_size=7)}
    assert packing.enable(model)
    ways["packed"] = loop.run(task, strategy.evaluate, examples)
    ways["packed in parts"] = loop.run(task, strategy.evaluate, examples, batch_tokens=90)
    for way, outputs in ways.items():
        for one, other in zip(padded, outputs, strict=True):
            assert one.keys() == other.keys()
            for key in one:
                np.testing.assert_allclose(other[key], one[key], atol=2e-5, rtol=1e-5, err_msg=f"{way} {key}")

"""Label tables, class weights, thresholds and their errors; parity of logits and losses stands in test_parity.py."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from flagai import Trainer, load_config
from flagai.config import TaskConfig
from flagai.data.record import Record
from flagai.errors import ConfigError, DataError
from flagai.models.tokenizers import build_tokenizer
from flagai.tasks.results import Labels
from flagai.tasks.table import make_task


def records(*pairs):
    return [Record({"text": text, "label": label}, "file.csv", i + 2) for i, (text, label) in enumerate(pairs)]


def task(tiny_bert, **options):
    return make_task(TaskConfig(name="classification", **options), build_tokenizer(tiny_bert), max_length=32)


def test_labels_are_those_of_the_data_in_order(tiny_bert):
    made = task(tiny_bert)
    made.fit(records(("a", "z"), ("b", "a"), ("c", "z")))
    assert made.labels == ["a", "z"]


def test_one_class_only_is_refused(tiny_bert):
    with pytest.raises(DataError, match=r"file\.csv: all 2 training records have the label 'a'"):
        task(tiny_bert).fit(records(("x", "a"), ("y", "a")))


def test_an_unknown_label_names_its_line(tiny_bert):
    made = task(tiny_bert, labels=("a", "b"))
    made.fit(records(("x", "a"), ("y", "b")))
    with pytest.raises(DataError, match=r"file\.csv:2: unknown label 'c'"):
        made.encode_many(records(("x", "c")))


def test_balanced_weights_are_inverse_to_frequency(tiny_bert):
    made = task(tiny_bert, class_weights="balanced")
    made.fit(records(("1", "a"), ("2", "a"), ("3", "a"), ("4", "b")))
    assert made.class_weights == pytest.approx([4 / (2 * 3), 4 / (2 * 1)])


def test_given_weights_and_an_unknown_one(tiny_bert):
    made = task(tiny_bert, class_weights={"b": 3.0})
    made.fit(records(("1", "a"), ("2", "b")))
    assert made.class_weights == [1.0, 3.0]
    with pytest.raises(ConfigError, match="class_weights"):
        task(tiny_bert, class_weights={"c": 3.0}).fit(records(("1", "a"), ("2", "b")))


@pytest.mark.parametrize("cell", ["a|b", "a;b", "a, b", ["a", "b"]])
def test_several_labels_of_one_cell(tiny_bert, cell):
    made = task(tiny_bert, multi_label=True)
    assert made.labels_of(Record({"text": "x", "label": cell})) == ["a", "b"]


def test_thresholds_are_tuned_on_evaluation_data(tiny_bert):
    made = task(tiny_bert, multi_label=True)
    made.fit(records(("1", ["a"]), ("2", ["b"])))
    scores = [0.9, 0.35, 0.3, 0.1]
    results = [Labels((), {"a": score, "b": 0.5}) for score in scores]
    made.tune(results, [("a",), ("a",), ("a",), ()])
    assert 0.1 < made.thresholds[0] <= 0.3
    assert made.state()["thresholds"] == made.thresholds
    fixed = task(tiny_bert, multi_label=True, threshold=0.7)
    fixed.fit(records(("1", ["a"]), ("2", ["b"])))
    fixed.tune(results, [("a",), ("a",), ("a",), ()])
    assert fixed.thresholds == [0.7, 0.7]


def test_an_empty_cell_is_no_label_among_several(tiny_bert, tmp_path):
    with (tmp_path / "train.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for i in range(16):
            writer.writerow([f"a good film {i}", "good|film"])
            writer.writerow([f"the hotel was {i}", ""])
    config = load_config(
        {
            "model": str(tiny_bert),
            "task": {"name": "classification", "multi_label": True},
            "data": {"train": str(tmp_path / "train.csv")},
            "train": {"max_steps": 3, "device": "cpu"},
            "output": str(tmp_path / "run"),
        }
    )
    result = Trainer(config).train()
    assert "f1_micro" in result.metrics["eval"]
    saved = json.loads((result.folder / "task.json").read_text())
    assert saved["state"]["labels"] == ["film", "good"]
    assert len(saved["state"]["thresholds"]) == 2


@pytest.mark.parametrize(
    ("options", "key"),
    [({"scale": 5.0, "head": "linear"}, "task.scale"), ({"threshold": 0.4}, "task.threshold")],
)
def test_an_option_without_effect_is_refused(tiny_bert, options, key):
    with pytest.raises(ConfigError, match=key):
        task(tiny_bert, **options)


def test_windows_weigh_as_much_as_their_text(tiny_bert):
    made = make_task(
        TaskConfig(name="classification", labels=("a", "b")), build_tokenizer(tiny_bert), max_length=10, stride=2
    )
    windows = made.encode(Record({"text": "good film " * 10, "label": "a"}))
    assert len(windows) > 2
    batch = made.collate(windows)
    assert batch["weights"].sum() == pytest.approx(1.0)
    assert set(batch["labels"]) == {0}
    assert np.all(batch["attention_mask"].sum(1) <= 10)

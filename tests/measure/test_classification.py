from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from flagai.errors import DataError
from flagai.measure.classification import (
    classification_intervals,
    classification_metrics,
    confusion_matrix,
    per_label_table,
)
from flagai.measure.intervals import bootstrap

LABELS = ["spam", "ham", "未知", "unseen"]
GOLD = ["spam", "ham", "ham", "未知", "spam", "ham"]
PREDICTED = ["spam", "spam", "ham", "ham", "spam", "ham"]


def _many(n: int, classes: int) -> tuple[list[str], list[str], list[str]]:
    rng = np.random.default_rng(1)
    labels = [f"label {i}" for i in range(classes)]
    gold = rng.integers(0, classes, n)
    predicted = np.where(rng.random(n) < 0.9, gold, rng.integers(0, classes, n))
    return [labels[i] for i in gold], [labels[i] for i in predicted], labels


def test_metrics_by_hand() -> None:
    found = classification_metrics(GOLD, PREDICTED, LABELS)
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["f1_macro"] == pytest.approx((0.8 + 2 / 3 + 0) / 3)  # "unseen" occurs nowhere and is not averaged in
    assert found["f1_weighted"] == pytest.approx((2 * 0.8 + 3 * 2 / 3 + 0) / 6)


def test_metrics_equal_scikit_learn_on_strings() -> None:
    gold, predicted, labels = _many(400, 30)
    found = classification_metrics(gold, predicted, labels)
    assert found["accuracy"] == accuracy_score(gold, predicted)
    assert found["f1_macro"] == pytest.approx(f1_score(gold, predicted, average="macro"))
    assert found["f1_weighted"] == pytest.approx(f1_score(gold, predicted, average="weighted"))
    precision, recall, _, _ = precision_recall_fscore_support(gold, predicted, average="macro")
    assert found["precision_macro"] == pytest.approx(precision)
    assert found["recall_macro"] == pytest.approx(recall)


def test_confusion_matrix_has_gold_in_rows_and_every_label() -> None:
    assert confusion_matrix(GOLD, PREDICTED, LABELS) == [[2, 0, 0, 0], [1, 2, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]


def test_per_label_table_keeps_the_order_and_labels_without_records() -> None:
    rows = per_label_table(GOLD, PREDICTED, LABELS)
    assert [row["label"] for row in rows] == LABELS
    assert rows[0] == {"label": "spam", "precision": 2 / 3, "recall": 1.0, "f1": pytest.approx(0.8), "support": 2}
    assert rows[3] == {"label": "unseen", "precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}


def test_intervals_have_the_values_of_the_metrics_and_contain_them() -> None:
    gold, predicted, labels = _many(300, 12)
    metrics = classification_metrics(gold, predicted, labels)
    intervals = classification_intervals(gold, predicted, labels)
    assert intervals.keys() == metrics.keys()
    for name, interval in intervals.items():
        assert interval.value == pytest.approx(metrics[name], abs=1e-12)
        assert interval.low < interval.value < interval.high


@pytest.mark.parametrize("name", ["accuracy", "f1_macro", "f1_weighted", "precision_macro", "recall_macro"])
def test_fast_intervals_equal_the_generic_bootstrap(name: str) -> None:
    gold, predicted, labels = _many(60, 25)  # so few records that most resamples lack some label

    def slow(rows: np.ndarray) -> float:
        return classification_metrics([gold[i] for i in rows], [predicted[i] for i in rows], labels)[name]

    expected = bootstrap(slow, len(gold), resamples=60, seed=3)
    found = classification_intervals(gold, predicted, labels, resamples=60, seed=3)[name]
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high), 1e-12)


def test_banking77_size_takes_less_than_three_seconds_of_cpu() -> None:
    gold, predicted, labels = _many(1540, 77)
    start = time.process_time()
    classification_intervals(gold, predicted, labels)
    assert time.process_time() - start < 3


def test_bad_input_is_named() -> None:
    with pytest.raises(DataError, match="2 gold and 1 predicted"):
        classification_metrics(["spam", "ham"], ["spam"], LABELS)
    with pytest.raises(DataError, match="no records"):
        classification_metrics([], [], LABELS)
    with pytest.raises(DataError, match="gold label 'eggs' is not in the label table"):
        per_label_table(["eggs"], ["spam"], LABELS)
    with pytest.raises(DataError, match=r"predicted label 'a' .*\(and 1 more\)"):
        confusion_matrix(["spam", "ham"], ["b", "a"], LABELS)

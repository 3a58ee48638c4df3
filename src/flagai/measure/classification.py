"""Metrics of one label a record (those of several are in `multi_label.py` and offered here too). It knows no model.

The arithmetic of the metrics is scikit-learn's. Macro averages run over the labels that occur in gold or predicted, as
scikit-learn does without a label list: a label that a test file lacks is not counted as a failure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flagai.measure.counts import Counts
from flagai.measure.intervals import Interval, bootstrap_mean, bootstrap_prf
from flagai.measure.multi_label import best_thresholds, multi_label_intervals, multi_label_metrics, multi_label_table
from flagai.measure.rows import label_ids, label_rows, scores

__all__ = [
    "best_thresholds",
    "classification_intervals",
    "classification_metrics",
    "confusion_matrix",
    "multi_label_intervals",
    "multi_label_metrics",
    "multi_label_table",
    "per_label_table",
]


def classification_metrics(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """accuracy, f1_macro, f1_weighted, precision_macro and recall_macro, all in [0, 1]; 0/0 counts as 0.

    Raises DataError for lists of different length, no records, or a label that is not in `labels`.
    """
    g, p = label_ids(gold, predicted, labels)
    precision, recall, f1, _ = scores(g, p, average="macro")
    weighted = scores(g, p, average="weighted")[2]
    return {
        "accuracy": float((g == p).mean()),
        "f1_macro": float(f1),
        "f1_weighted": float(weighted),
        "precision_macro": float(precision),
        "recall_macro": float(recall),
    }


def classification_intervals(
    gold: Sequence[str],
    predicted: Sequence[str],
    labels: Sequence[str],
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Interval]:
    """The names and values of `classification_metrics`, each with its bootstrap interval over records."""
    g, p = label_ids(gold, predicted, labels)
    options: dict[str, Any] = {"resamples": resamples, "seed": seed, "level": level}
    counts = Counts.of_single(g, p, len(labels))
    precision, recall, f1 = bootstrap_prf(counts, average="macro", **options)
    return {
        "accuracy": bootstrap_mean(g == p, **options),
        "f1_macro": f1,
        "f1_weighted": bootstrap_prf(counts, average="weighted", **options)[2],
        "precision_macro": precision,
        "recall_macro": recall,
    }


def confusion_matrix(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> list[list[int]]:
    """Counts [C][C] in the order of `labels`: the row is the gold label, the column the predicted one."""
    from sklearn.metrics import confusion_matrix as count_pairs

    g, p = label_ids(gold, predicted, labels)
    return count_pairs(g, p, labels=np.arange(len(labels))).tolist()


def per_label_table(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> list[dict[str, Any]]:
    """One row for every label, in the order of `labels`: label, precision, recall, f1, support (gold records)."""
    g, p = label_ids(gold, predicted, labels)
    return label_rows(g, p, labels, np.arange(len(labels)))

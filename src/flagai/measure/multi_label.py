"""Metrics of any number of labels a record, and the thresholds that turn scores into labels. It knows no model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from flagai.errors import DataError
from flagai.measure.counts import Counts
from flagai.measure.intervals import Interval, bootstrap_mean, bootstrap_prf
from flagai.measure.rows import check_known, check_lengths, label_rows, scores

LabelSets = Sequence[Collection[str]]

NO_EVIDENCE = 0.5
"""the threshold of a label that no record of the eval split carries"""


def multi_label_metrics(gold: LabelSets, predicted: LabelSets, labels: Sequence[str]) -> dict[str, float]:
    """f1_micro, f1_macro, precision_micro, recall_micro and subset_accuracy (all labels of a record right), in [0, 1].

    The macro average runs over the labels that occur in gold or predicted; 0/0 counts as 0.
    Raises DataError for lists of different length, no records, or a label that is not in `labels`.
    """
    g, p = indicators(gold, predicted, labels)
    precision, recall, f1, _ = scores(g, p, average="micro")
    present = np.flatnonzero((g | p).any(axis=0))
    macro = scores(g, p, labels=present, average="macro")[2] if len(present) else 0.0
    return {
        "f1_micro": float(f1),
        "f1_macro": float(macro),
        "precision_micro": float(precision),
        "recall_micro": float(recall),
        "subset_accuracy": float((g == p).all(axis=1).mean()),
    }


def multi_label_intervals(
    gold: LabelSets,
    predicted: LabelSets,
    labels: Sequence[str],
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Interval]:
    """The names and values of `multi_label_metrics`, each with its bootstrap interval over records."""
    g, p = indicators(gold, predicted, labels)
    options: dict[str, Any] = {"resamples": resamples, "seed": seed, "level": level}
    counts = Counts.of_multi(g, p)
    precision, recall, f1 = bootstrap_prf(counts, average="micro", **options)
    return {
        "f1_micro": f1,
        "f1_macro": bootstrap_prf(counts, average="macro", **options)[2],
        "precision_micro": precision,
        "recall_micro": recall,
        "subset_accuracy": bootstrap_mean((g == p).all(axis=1), **options),
    }


def multi_label_table(gold: LabelSets, predicted: LabelSets, labels: Sequence[str]) -> list[dict[str, Any]]:
    """One row for every label, in the order of `labels`: label, precision, recall, f1, support (gold records)."""
    g, p = indicators(gold, predicted, labels)
    if len(labels) == 1:
        # A single column would read as class ids 0 and 1, not as one label.
        return label_rows(g[:, 0], p[:, 0], labels, np.array([1]))
    return label_rows(g, p, labels, np.arange(len(labels)))


def indicators(gold: LabelSets, predicted: LabelSets, labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Gold and predicted label sets as booleans [N, C]; checked."""
    check_lengths(gold, predicted)
    place = {label: i for i, label in enumerate(labels)}
    check_known({x for row in gold for x in row}, place, "gold")
    check_known({x for row in predicted for x in row}, place, "predicted")
    return _indicator(gold, place), _indicator(predicted, place)


def _indicator(rows: LabelSets, place: dict[str, int]) -> np.ndarray:
    table = np.zeros((len(rows), len(place)), dtype=bool)
    for i, row in enumerate(rows):
        table[i, [place[x] for x in row]] = True
    return table


def best_thresholds(gold: np.ndarray, scores: np.ndarray) -> list[float]:
    """For every label the threshold with the best F1, where a label is given if `score >= threshold`.

    Args:
        gold: booleans [N, C].
        scores: probabilities in [0, 1], [N, C].

    Thresholds lie midway between neighbouring scores; of equally good ones the nearest to 0.5 is taken, then the
    lower. A label without gold records gets 0.5. Raises DataError if the shapes differ.
    """
    gold, scores = np.asarray(gold, dtype=bool), np.asarray(scores)
    if gold.shape != scores.shape or gold.ndim != 2:
        raise DataError(f"gold of shape {gold.shape}, scores of shape {scores.shape}", expected="both [N, C]")
    return [_best_threshold(gold[:, c], scores[:, c]) for c in range(gold.shape[1])]


def _best_threshold(gold: np.ndarray, scores: np.ndarray) -> float:
    if not gold.any():
        return NO_EVIDENCE
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    following = np.append(ranked[1:], ranked.dtype.type(0))
    # In the dtype of the scores: comparing a float32 array with a Python float rounds the float to float32.
    middle = (ranked + (following - ranked) / 2).astype(ranked.dtype)
    thresholds = np.where(middle > following, middle, ranked)
    tp, given = np.cumsum(gold[order]), np.arange(1, len(gold) + 1)
    f1 = 2 * tp / (given + gold.sum())
    borders = np.append(ranked[1:] < ranked[:-1], True)
    best = thresholds[borders & (f1 == f1[borders].max())]
    return float(min(best, key=lambda t: (abs(t - NO_EVIDENCE), t)))

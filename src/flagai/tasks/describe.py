"""Results beside gold answers → the task's part of a report: intervals, tables, confident errors. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flagai.data.record import Record

_MOST_ERRORS = 30


def describe_labels(
    results: Sequence[Any], golds: Sequence[str], records: Sequence[Record], labels: Sequence[str]
) -> dict[str, Any]:
    """The report's part of single-label answers: intervals, confusion, a row a label, confident errors."""
    from flagai.measure import classification

    predicted = [result.label for result in results]
    return {
        "intervals": classification.classification_intervals(golds, predicted, labels),
        "confusion": {
            "labels": list(labels),
            "matrix": classification.confusion_matrix(golds, predicted, labels),
        },
        "per_label": classification.per_label_table(golds, predicted, labels),
        "errors": confident_errors(
            [(r.score, g, r.label, rec) for r, g, rec in zip(results, golds, records, strict=True) if r.label != g]
        ),
    }


def describe_multi_label(
    results: Sequence[Any], golds: Sequence[Sequence[str]], records: Sequence[Record], labels: Sequence[str]
) -> dict[str, Any]:
    """The report's part of multi-label answers: as above without a confusion; labels are joined by " | "."""
    from flagai.measure import multi_label

    predicted = [result.labels for result in results]
    wrong = [
        (_certainty(r, set(g)), " | ".join(g), " | ".join(r.labels), rec)
        for r, g, rec in zip(results, golds, records, strict=True)
        if set(r.labels) != set(g)
    ]
    return {
        "intervals": multi_label.multi_label_intervals(golds, predicted, labels),
        "confusion": None,
        "per_label": multi_label.multi_label_table(golds, predicted, labels),
        "errors": confident_errors(wrong),
    }


def confident_errors(wrong: Sequence[tuple[float, Any, Any, Record]]) -> list[dict[str, Any]]:
    """The most confident errors first: (score, gold, predicted, record) → rows of the report."""
    ranked = sorted(wrong, key=lambda item: -item[0])[:_MOST_ERRORS]
    return [_error(score, gold, predicted, record) for score, gold, predicted, record in ranked]


def _error(score: float, gold: Any, predicted: Any, record: Record) -> dict[str, Any]:
    row = {"text": record.text, "gold": gold, "predicted": predicted, "score": float(score), "where": record.where}
    if record.get("text_pair") is not None:
        row["text_pair"] = record.fields["text_pair"]
    return row


def _certainty(result: Any, gold: set[str]) -> float:
    """How far the worst label of a multi-label answer is from its gold value."""
    return max(score if label not in gold else 1 - score for label, score in result.scores.items())

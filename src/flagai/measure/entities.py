"""Precision, recall and F1 of entities by exact span and type, nested spans allowed. It knows no tags and no tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from flagai.measure.counts import Counts
from flagai.measure.intervals import Interval, bootstrap_prf
from flagai.measure.rows import check_lengths, scores

Span = tuple[int, int, str]
"""start, end (exclusive), type"""

Spans = Sequence[Sequence[Span]]


def entity_metrics(gold: Spans, predicted: Spans) -> dict[str, float]:
    """precision, recall, f1 (micro) and f1_macro (mean over types), in [0, 1]; 0/0 counts as 0.

    An entity is right if start, end and type all are. A span listed twice in a record counts once. Equal to seqeval's
    default mode on flat BIO tags. Raises DataError for lists of different length or no records.
    """
    check_lengths(gold, predicted)
    precision, recall, f1 = _scores(list(_pairs(gold, predicted)))
    rows = _type_rows(gold, predicted)
    macro = sum(row["f1"] for row in rows) / len(rows) if rows else 0.0
    return {"precision": precision, "recall": recall, "f1": f1, "f1_macro": macro}


def entity_intervals(
    gold: Spans, predicted: Spans, *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, Interval]:
    """The names and values of `entity_metrics`, each with its bootstrap interval over records."""
    check_lengths(gold, predicted)
    counts = _counts(gold, predicted)
    options: dict[str, Any] = {"resamples": resamples, "seed": seed, "level": level}
    precision, recall, f1 = bootstrap_prf(counts, average="micro", **options)
    macro = bootstrap_prf(counts, average="macro", **options)[2]
    return {"precision": precision, "recall": recall, "f1": f1, "f1_macro": macro}


def entity_table(gold: Spans, predicted: Spans) -> list[dict[str, Any]]:
    """One row for every type that occurs, sorted: label, precision, recall, f1, support (gold entities)."""
    check_lengths(gold, predicted)
    return _type_rows(gold, predicted)


def _type_rows(gold: Spans, predicted: Spans) -> list[dict[str, Any]]:
    by_type: dict[str, list[tuple[bool, bool]]] = {}
    for label, in_gold, in_predicted in _pairs(gold, predicted):
        by_type.setdefault(label, []).append((in_gold, in_predicted))
    rows = []
    for label, pairs in sorted(by_type.items()):
        precision, recall, f1 = _scores([(label, *pair) for pair in pairs])
        support = sum(in_gold for in_gold, _ in pairs)
        rows.append({"label": label, "precision": precision, "recall": recall, "f1": f1, "support": support})
    return rows


def _pairs(gold: Spans, predicted: Spans) -> Iterator[tuple[str, bool, bool]]:
    """Every span of gold or predicted once: its type, whether it is in gold, whether it is in predicted."""
    for g, p in zip(gold, predicted, strict=True):
        gold_set, predicted_set = {(s[0], s[1], s[2]) for s in g}, {(s[0], s[1], s[2]) for s in p}
        for span in sorted(gold_set | predicted_set):
            yield span[2], span in gold_set, span in predicted_set


def _scores(pairs: list[tuple[str, bool, bool]]) -> tuple[float, float, float]:
    if not pairs:
        return 0.0, 0.0, 0.0
    in_gold, in_predicted = ([pair[i] for pair in pairs] for i in (1, 2))
    precision, recall, f1, _ = scores(in_gold, in_predicted, average="binary")
    return float(precision), float(recall), float(f1)


def _counts(gold: Spans, predicted: Spans) -> Counts:
    """tp, fp and fn of every record and type, [N, T]."""
    types = sorted({span[2] for rows in (gold, predicted) for row in rows for span in row})
    place = {label: i for i, label in enumerate(types)}
    table = np.zeros((3, len(gold), max(1, len(types))))
    for i, (g, p) in enumerate(zip(gold, predicted, strict=True)):
        for label, in_gold, in_predicted in _pairs([g], [p]):
            kind = 0 if in_gold and in_predicted else 1 if in_predicted else 2
            table[kind, i, place[label]] += 1
    return Counts(tp=table[0], fp=table[1], fn=table[2])

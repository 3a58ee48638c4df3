"""Checks of gold and predicted answers, and the table with a row for every label. It computes no single metric."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Any

import numpy as np

from flagai.errors import DataError


def label_rows(gold: np.ndarray, predicted: np.ndarray, labels: Sequence[str], ids: np.ndarray) -> list[dict[str, Any]]:
    """The rows for class ids [N] or indicators [N, C]."""
    columns = scores(gold, predicted, labels=ids, average=None)
    return [
        {"label": label, "precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
        for label, p, r, f, s in zip(labels, *columns, strict=True)
    ]


def scores(gold: Any, predicted: Any, **options: Any) -> Any:
    """scikit-learn's precision, recall, F1 and support, with 0/0 = 0. Imported here: the import takes a second."""
    from sklearn import metrics

    function: Any = metrics.precision_recall_fscore_support
    return function(gold, predicted, zero_division=0, **options)


def label_ids(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Gold and predicted labels as places in `labels`, [N] each; checked."""
    check_lengths(gold, predicted)
    place = {label: i for i, label in enumerate(labels)}
    check_known(set(gold), place, "gold")
    check_known(set(predicted), place, "predicted")
    return np.array([place[x] for x in gold]), np.array([place[x] for x in predicted])


def check_lengths(gold: Sized, predicted: Sized) -> None:
    """Raise DataError unless there is one predicted answer for each gold one, and at least one."""
    if len(gold) != len(predicted):
        raise DataError(f"{len(gold)} gold and {len(predicted)} predicted answers", expected="one of each a record")
    if len(gold) == 0:
        raise DataError("no records to measure", expected="at least one record with a gold answer")


def check_known(found: set[str], known: dict[str, int], kind: str) -> None:
    """Raise DataError for a label outside the table; `kind` ("gold", "predicted") says in the message whose it is."""
    unknown = sorted(found - known.keys())
    if unknown:
        raise DataError(
            f"{kind} label {unknown[0]!r} is not in the label table" + _and_more(len(unknown) - 1),
            expected=f"one of the {len(known)} labels of the model",
            fix="correct the label in the file, or train with it",
        )


def _and_more(count: int) -> str:
    return f" (and {count} more)" if count else ""

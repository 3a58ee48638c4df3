"""A predictor and a labelled file → metrics with intervals: the same loop, decoding and metrics as in training."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flagai.data.record import Record
from flagai.data.records import read_records, read_split
from flagai.errors import unknown_label
from flagai.predict import loop
from flagai.predict.predictor import Predictor
from flagai.tasks.base import Task


def evaluate_records(
    predictor: Predictor,
    source: str | Path | list[Record],
    *,
    split: str = "test",
    hints: Mapping[str, str] | None = None,
    encoding: str | None = None,
    batch_tokens: int | None = None,
) -> dict[str, Any]:
    """{"records": number, "metrics": {name: {"value", "low", "high"}}} of a file, a folder's split, or records.

    Args:
        hints, encoding: of the file, see `data.records.read_records`.

    Raises:
        UnknownLabelError: a record has a label that the model cannot give.
    """
    task = predictor.task
    options = {
        "kind": task.kind,
        "hints": hints,
        "encoding": encoding,
        "label_required": task.label_required,
    }
    records = source if isinstance(source, list) else _read(Path(source), split, **options)
    _check_labels(task, records)
    if task.measured_by_loss:
        return {"records": len(records), "metrics": _losses(predictor, records)}
    results = list(predictor.predict_records(records, batch_tokens=batch_tokens))
    golds = [task.gold(record) for record in records]
    rows: dict[str, dict[str, float]] = {k: {"value": v} for k, v in task.metrics(results, golds).items()}
    for name, interval in task.describe(results, golds, records)["intervals"].items():
        rows[name] |= {"low": interval.low, "high": interval.high}
    return {"records": len(records), "metrics": rows}


def _losses(predictor: Predictor, records: list[Record]) -> dict[str, dict[str, float]]:
    """Loss and perplexity, where these are what a task is measured by."""
    task = copy.copy(predictor.task)
    task.fit(records)  # from now on texts are to be learned, not to be written on
    examples = [example for windows in task.encode_many(records) for example in windows]
    found = loop.loss_metrics(loop.mean_loss(task, predictor.evaluate, examples))
    return {name: {"value": value} for name, value in found.items()}


def _check_labels(task: Task, records: list[Record]) -> None:
    """As in training, a label that the model cannot give is an error and not a mistake of the model."""
    known = task.label_names()
    if known is None:
        return
    for record in records:
        for label in task.labels_of(record):
            if label not in known:
                raise unknown_label(label, known, where=record.where)


def _read(path: Path, split: Any, **options: Any) -> list[Record]:
    if path.is_dir():
        return read_split(path, split, **options)
    return read_records(path, **options)

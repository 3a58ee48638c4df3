"""A predictor and a labelled file → metrics with intervals: the same loop, decoding and metrics as in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flagai.data.record import Record
from flagai.data.records import read_records, read_split
from flagai.predict.predictor import Predictor


def evaluate_records(
    predictor: Predictor, source: str | Path | list[Record], *, split: str = "test", batch_tokens: int | None = None
) -> dict[str, Any]:
    """{"records": number, "metrics": {name: {"value", "low", "high"}}} of a file, a folder's split, or records."""
    task = predictor.task
    records = source if isinstance(source, list) else _read(Path(source), task.kind, split)
    results = list(predictor.predict_records(records, batch_tokens=batch_tokens))
    golds = [task.gold(record) for record in records]
    rows: dict[str, dict[str, float]] = {k: {"value": v} for k, v in task.metrics(results, golds).items()}
    for name, interval in task.describe(results, golds, records)["intervals"].items():
        rows[name] |= {"low": interval.low, "high": interval.high}
    return {"records": len(records), "metrics": rows}


def _read(path: Path, kind: Any, split: Any) -> list[Record]:
    if path.is_dir():
        return read_split(path, split, kind=kind, label_required=True)
    return read_records(path, kind=kind, label_required=True)

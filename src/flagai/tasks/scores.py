"""Similarity scores: their range, their place in [0, 1], their metrics, their task. Knows no texts and no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from flagai.data.example import Example
from flagai.data.record import Record
from flagai.errors import DataError
from flagai.tasks.base import Task


class ScoreTable:
    """What a label column of numbers means.

    Args:
        score_range: lowest and highest score; None takes those of the training records.
    """

    metric_names: ClassVar[tuple[str, ...]] = ("spearman", "pearson", "mse", "mae")

    def __init__(self, score_range: tuple[float, float] | None) -> None:
        self._range = score_range

    def fit(self, records: Sequence[Record]) -> None:
        """Settle the range. Raises DataError for fewer than two different scores, or one outside a given range."""
        values = [self.gold(record) for record in records]
        if len(set(values)) < 2:
            raise DataError(
                f"all {len(values)} training records have the score {values[0]}" if values else "no record has a score",
                where=records[0].file if records else "",
                expected="at least two different scores",
                fix="check data.columns.label",
            )
        if self._range is None:
            self._range = (min(values), max(values))
        for record, value in zip(records, values, strict=True):
            self._check(value, record)

    def gold(self, record: Record) -> float:
        """The record's score on its own scale. Raises DataError for what is no number."""
        value = record.get("label")
        try:
            return float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise DataError(
                f"the score is {value!r}",
                where=record.where,
                expected="a number",
                fix="correct it, or name the column in data.columns.label",
            ) from None

    def target(self, record: Record) -> float | None:
        """The score in [0, 1], None for a record without one."""
        if record.get("label") is None:
            return None
        value = self.gold(record)
        self._check(value, record)
        low, high = self._bounds
        return (value - low) / (high - low)

    def unscale(self, value: float) -> float:
        """From [0, 1] back to the scale of the labels."""
        low, high = self._bounds
        return low + value * (high - low)

    def metrics(self, scores: Sequence[float], golds: Sequence[float]) -> dict[str, float]:
        """`metric_names` → value, of scores and gold scores on the scale of the labels."""
        from flagai.measure.regression import regression_metrics

        return dict(regression_metrics(golds, scores))

    def describe(self, scores: Sequence[float], golds: Sequence[float], records: Sequence[Record]) -> dict[str, Any]:
        """The report's part: intervals, and the records whose score is farthest off."""
        from flagai.measure.regression import regression_intervals
        from flagai.tasks.describe import confident_errors

        low, high = self._bounds
        far = [(abs(p - g) / (high - low), g, p, r) for p, g, r in zip(scores, golds, records, strict=True)]
        return {
            "intervals": regression_intervals(golds, scores),
            "confusion": None,
            "per_label": [],
            "errors": [row | {"score": None} for row in confident_errors(far)],
        }

    def state(self) -> dict[str, Any]:
        """The range, for task.json."""
        return {"score_range": list(self._bounds)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        low, high = state["score_range"]
        self._range = (float(low), float(high))

    @property
    def _bounds(self) -> tuple[float, float]:
        assert self._range is not None, "fit or restore comes first"
        return self._range

    def _check(self, value: float, record: Record) -> None:
        low, high = self._bounds
        if not low <= value <= high:
            raise DataError(
                f"the score is {value}",
                where=record.where,
                expected=f"between {low} and {high}",
                fix="set task.score_range to the range of all your files, or correct it",
            )


class ScoreTask(Task):
    """What tasks have in common whose label is a number; they keep their scores in `_scores`."""

    metric_names: ClassVar[tuple[str, ...]] = ScoreTable.metric_names

    def __init__(self, options: Any, tokenizer: Any, *, max_length: int, stride: int | None = None) -> None:
        super().__init__(options, tokenizer, max_length=max_length, stride=stride)
        self._scores = ScoreTable(options.score_range)

    @property
    def best_metric(self) -> str:
        return "spearman"

    def fit(self, records: Sequence[Record]) -> None:
        """The range of the scores, see `ScoreTable.fit`."""
        self._scores.fit(records)

    def targets(self, examples: Sequence[Example], length: int) -> dict[str, np.ndarray]:
        """labels fp32 [B], the scores in [0, 1]."""
        return {"labels": np.array([example.target for example in examples], dtype=np.float32)}

    def gold(self, record: Record) -> float:
        return self._scores.gold(record)

    def state(self) -> dict[str, Any]:
        return self._scores.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self._scores.restore(state)

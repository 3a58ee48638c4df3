"""A run's results → report.json, report.html and the model card. Knows no training."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flagai.config import RunConfig
from flagai.data.record import Record
from flagai.measure.baselines import best_untrained
from flagai.measure.intervals import Interval
from flagai.report.card import model_card
from flagai.report.page import save
from flagai.report.schema import REPORT_VERSION
from flagai.tasks.base import Task
from flagai.text import language
from flagai.train.environment import peak_memory
from flagai.train.logs import read_log
from flagai.train.run_folder import RunFolder
from flagai.train.state import TrainState


@dataclass(frozen=True, slots=True)
class Measurement:
    """Results of one split beside their gold answers, in the order of the records."""

    split: str
    records: Sequence[Record]
    results: Sequence[Any]
    golds: Sequence[Any]
    metrics: dict[str, float]
    seconds: float


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """How large a model is; counted before it is spread, for afterwards no process has all of it."""

    parameters: int
    trainable: int

    @classmethod
    def of(cls, model: Any) -> ModelFacts:
        """Of a model as one process has it."""
        parameters = list(model.parameters())
        return cls(sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad))


@dataclass(frozen=True, kw_only=True)
class Summary:
    """All that a report is made from."""

    config: RunConfig
    data: dict[str, Any]
    environment: dict[str, Any]
    state: TrainState
    best_metric: str
    measured: Sequence[Measurement]
    train_golds: Sequence[Any]
    model: ModelFacts
    task: Task | None
    source: str
    """where the weights came from: a hub id, or in words"""
    handed_over: bool
    """whether model, tokenizer or task came as objects and not by the configuration"""
    weights_sha256: str
    """of the weights the run started from, "" for random ones"""


def write_report(folder: RunFolder, summary: Summary) -> str:
    """Write report.json and report.html; returns the text of the model card."""
    report = build(summary, read_log(folder / "log.jsonl"))
    save(report, folder.root)
    return model_card(report)


def build(summary: Summary, log: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The report as plain JSON (`report/schema.py`)."""
    config, last = summary.config, summary.measured[-1] if summary.measured else None
    described = _describe(summary, last) if last else {}
    model = config.model.name or (
        f"a new {config.model.config.get('model_type')}" if config.model.config else "a model"
    )
    return {
        "version": REPORT_VERSION,
        "title": f"{config.task.name}: {model}",
        "task": config.task.name,
        "model": model,
        "language": "zh" if _mostly_chinese(last) else "en",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": _command(summary),
        "status": "finished",
        "data": summary.data,
        "config": config.to_dict(),
        "curves": {
            "train": [_without_kind(row) for row in log if row["kind"] == "train"],
            "eval": [_without_kind(row) for row in log if row["kind"] == "eval"],
        },
        "metrics": {m.split: _measured(summary, m) for m in summary.measured},
        "best_metric": summary.best_metric,
        "baseline": _untrained(summary, last) if described.get("writing") else _majority(summary, last),
        "confusion": described.get("confusion"),
        "per_label": described.get("per_label", []),
        "errors": described.get("errors", []),
        "writing": described.get("writing"),
        "speed": _speed(summary),
        "model_info": _model_info(summary),
        "environment": summary.environment,
    }


def _command(summary: Summary) -> str:
    """The command that repeats the run; a model that was handed over in Python cannot be named in one."""
    output = summary.config.output
    if summary.handed_over:
        return "Trainer(config, model=…), with the model, tokenizer or task that was handed over in Python"
    return shlex.join(["flagai", "train", f"{output}/run.yaml", f"output={output}-again"])


def _describe(summary: Summary, measured: Measurement) -> dict[str, Any]:
    assert summary.task is not None
    return summary.task.describe(measured.results, measured.golds, measured.records)


def _measured(summary: Summary, measurement: Measurement) -> dict[str, dict[str, float]]:
    """Each metric with its bootstrap interval where the task gives one."""
    intervals: dict[str, Interval] = _describe(summary, measurement).get("intervals", {})
    rows: dict[str, dict[str, float]] = {name: {"value": value} for name, value in measurement.metrics.items()}
    for name, interval in intervals.items():
        rows[name] |= {"low": interval.low, "high": interval.high}
    return rows


def _majority(summary: Summary, last: Measurement | None) -> dict[str, Any] | None:
    """What always answering the most frequent training label would reach, for single-label tasks."""
    if last is None or "accuracy" not in last.metrics or not summary.train_golds:
        return None
    label, _ = Counter(summary.train_golds).most_common(1)[0]
    share = sum(gold == label for gold in last.golds) / len(last.golds)
    return {"name": f"always {label!r}", "metrics": {"accuracy": share}}


def _untrained(summary: Summary, last: Measurement | None) -> dict[str, Any] | None:
    """What the source itself, or its beginning, would reach as an answer: the best of them."""
    if last is None:
        return None
    name, metrics = best_untrained([record.text for record in last.records], last.golds, summary.train_golds)
    return {"name": name, "metrics": metrics}


def _speed(summary: Summary) -> dict[str, float]:
    state, last = summary.state, summary.measured[-1] if summary.measured else None
    if not state.seconds:
        return {}
    speed = {
        "seconds": state.seconds,
        "train_samples_per_second": state.examples / state.seconds,
        "useful_tokens_per_second": state.tokens / state.seconds,
        "useful_token_share": state.tokens / state.slots,
        "peak_memory_bytes": float(peak_memory(summary.environment["device"].partition(" ")[0])),
    }
    if last is not None and last.seconds > 0:
        speed["predict_samples_per_second"] = len(last.records) / last.seconds
    return speed


def _model_info(summary: Summary) -> dict[str, Any]:
    return {
        "parameters": summary.model.parameters,
        "trainable": summary.model.trainable,
        "source": summary.source,
        "weights_sha256": summary.weights_sha256,
    }


def _mostly_chinese(measured: Measurement | None) -> bool:
    """Whether the texts are Chinese, and so whoever reads the report."""
    texts = [record.text for record in measured.records[:100]] if measured else []
    return sum(language(text) == "zh" for text in texts) * 2 > len(texts)


def _without_kind(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in ("kind", "best")}

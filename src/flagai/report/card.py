"""The model card (README.md with YAML front matter) of a run, from the same dict as the report. It reads no weights."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from pathlib import PureWindowsPath
from typing import Any, Final

from flagai.report.heatmap import confused_pairs
from flagai.report.numbers import count, duration, interval, is_number, metric_value, percent, plain
from flagai.report.reading import headline_of, metrics_of
from flagai.report.words import words

_PIPELINES: Final = {
    "classification": "text-classification",
    "semantic-matching": "text-classification",
    "ner": "token-classification",
    "sequence-labeling": "token-classification",
    "embedding": "sentence-similarity",
    "summarization": "summarization",
    "title-generation": "summarization",
    "lm": "text-generation",
    "poetry": "text-generation",
    "couplet": "text-generation",
}
_WEAKEST = 5
_HUB_ID: Final = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def model_card(report: Mapping[str, Any]) -> str:
    """Markdown for the `final/` folder: what the model is, how to use it, measured how, trained on what, its limits.

    Files appear by name only: a card travels further than a report, and folders of a machine are nobody's business.
    """
    parts = [
        _front(report),
        f"# {_line(report.get('title') or 'A flagai model')}",
        _summary(report),
        _section("Use", _use()),
        _section("Results", _results(report)),
        _section("Where it is weak", _limits(report)),
        _section("Training data", _data(report)),
        _section("Training", _training(report)),
        _section("Environment", _environment(report)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front(report: Mapping[str, Any]) -> str:
    info, task = report.get("model_info") or {}, str(report.get("task") or "")
    lines = ["---", "library_name: transformers"]
    if info.get("licence"):
        lines.append(f"license: {_quoted(str(info['licence']).lower())}")
    base = str(info.get("source") or "")
    if _HUB_ID.fullmatch(base):
        lines.append(f"base_model: {_quoted(base)}")
    pipeline = next((value for key, value in _PIPELINES.items() if task.startswith(key)), "")
    if pipeline:
        lines.append(f"pipeline_tag: {pipeline}")
    lines.append(f"tags: {json.dumps(['flagai', *([task] if task else [])], ensure_ascii=False)}")
    names = list(dict.fromkeys(n for table in metrics_of(report).values() for n in table))
    return "\n".join([*lines, *([f"metrics: {json.dumps(names)}"] if names else []), "---"])


def _summary(report: Mapping[str, Any]) -> str:
    task, model = report.get("task"), report.get("model")
    start = f"A model for {_line(task)}" if task else "A model"
    start += f", fine-tuned from {_line(_base_name(model))} with flagai." if model else ", trained with flagai."
    name, split = headline_of(report)
    if not name:
        return start
    measured = metrics_of(report)[split][name]
    band = interval(name, measured)
    found = f" {words('en')(name)} on {_line(split)}: **{metric_value(name, measured.get('value'))}**"
    return start + found + (f" (95 % interval {band})." if band else ".")


def _base_name(model: Any) -> str:
    """A hub id as it is, of a folder of this machine only its last part."""
    name = str(model)
    is_folder = name.startswith(("/", ".", "~")) or "\\" in name
    return PureWindowsPath(name).name if is_folder else name


def _use() -> str:
    return (
        "```python\nfrom flagai import Predictor\n\n"
        'predictor = Predictor.from_folder("path/to/this/folder")\n'
        'print(predictor.predict(["a text", "another text"]))\n```\n\n'
        "The folder holds the task beside the weights (`task.json`), so nothing else needs to be given."
    )


def _results(report: Mapping[str, Any]) -> str:
    say = words("en")
    rows = [
        [split, say(name), metric_value(name, measured.get("value")), interval(name, measured) or "–"]
        for split, table in metrics_of(report).items()
        for name, measured in table.items()
    ]
    base = report.get("baseline") or {}
    rows += [
        [str(base.get("name") or "baseline"), say(n), metric_value(n, v), "–"]
        for n, v in (base.get("metrics") or {}).items()
    ]
    table = _table(["Split", "Metric", "Value", "95 % interval"], rows)
    segmentation = (report.get("writing") or {}).get("segmentation")
    return f"{table}\n\nTexts are compared so: {_line(segmentation)}." if table and segmentation else table


def _limits(report: Mapping[str, Any]) -> str:
    rows = [row for row in report.get("per_label") or [] if row.get("support") and is_number(row.get("f1"))]
    weak = sorted(rows, key=lambda row: (row["f1"], str(row.get("label"))))[:_WEAKEST]
    lines = []
    empty = (report.get("writing") or {}).get("empty")
    if empty:
        lines.append(f"- {count(empty)} of the written answers were empty.")
    if weak:
        listed = ", ".join(f"{_line(row['label'])} ({percent(row['f1'], 0)})" for row in weak)
        lines.append(f"- Labels with the lowest F1: {listed}.")
    part = report.get("confusion") or {}
    pairs = confused_pairs(part.get("labels") or [], part.get("matrix") or [])[:_WEAKEST]
    lines += [
        f"- {_line(g)} was taken for {_line(p)} {n} times ({percent(s, 0)} of its records)." for g, p, n, s in pairs
    ]
    return "\n".join(lines)


def _data(report: Mapping[str, Any]) -> str:
    splits = (report.get("data") or {}).get("splits") or {}
    rows = [
        [
            name,
            plain((part or {}).get("records")),
            PureWindowsPath(str((part or {}).get("file") or "–")).name,
            (part or {}).get("sha256") or "–",
        ]
        for name, part in splits.items()
    ]
    return _table(["Split", "Records", "File", "SHA-256"], rows)


def _training(report: Mapping[str, Any]) -> str:
    train = (report.get("config") or {}).get("train") or {}
    names = ("epochs", "max_steps", "batch_size", "batch_tokens", "learning_rate", "scheduler", "precision", "seed")
    info, speed = report.get("model_info") or {}, report.get("speed") or {}
    rows = [[name.replace("_", " "), str(train[name])] for name in names if train.get(name) is not None]
    if info.get("parameters"):
        rows.append(["parameters", f"{count(info['parameters'])}, trained {count(info.get('trainable'))}"])
    if speed.get("seconds"):
        rows.append(["duration", duration(speed["seconds"])])
    return _table(["Setting", "Value"], rows)


def _environment(report: Mapping[str, Any]) -> str:
    return _table(
        ["What", "Value"], [[k, str(v)] for k, v in (report.get("environment") or {}).items() if v is not None]
    )


def _section(title: str, content: str) -> str:
    return f"## {title}\n\n{content}" if content else ""


def _table(heads: list[str], rows: list[list[Any]]) -> str:
    if not rows:
        return ""
    lines = [heads, ["---"] * len(heads), *([_line(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _line(value: Any) -> str:
    """One line of Markdown that means itself: no HTML, no table cell, no emphasis, no link."""
    flat = html.escape(" ".join(str(value).split()), quote=False)
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", flat)


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)

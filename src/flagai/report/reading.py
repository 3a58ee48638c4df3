"""What several parts of the page ask of a report: its metrics, headline and baseline. It draws nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flagai.report.numbers import is_number

Report = Mapping[str, Any]


def metrics_of(report: Report) -> dict[str, dict[str, Mapping[str, Any]]]:
    """split → metric → {value, low, high}, without empty splits; a bare number is a value without an interval."""
    found = {}
    for split, table in (report.get("metrics") or {}).items():
        rows = {name: {"value": m} if is_number(m) else m for name, m in (table or {}).items() if m is not None}
        if rows:
            found[split] = rows
    return found


def headline_of(report: Report) -> tuple[str, str]:
    """(metric, split) of the headline: `best_metric`, else the first, on "test", else the last split; "" if none."""
    metrics = metrics_of(report)
    if not metrics:
        return "", ""
    split = "test" if "test" in metrics else list(metrics)[-1]
    best = str(report.get("best_metric"))
    return (best if best in metrics[split] else next(iter(metrics[split]))), split


def records_of(report: Report, split: str) -> int | None:
    """The number of records of a split, None where the report does not say."""
    splits = (report.get("data") or {}).get("splits") or {}
    return (splits.get(split) or {}).get("records")


def baseline_value(report: Report, metric: str) -> float | None:
    """The baseline's value of a metric, None where there is none."""
    value = ((report.get("baseline") or {}).get("metrics") or {}).get(metric)
    return value if is_number(value) else None

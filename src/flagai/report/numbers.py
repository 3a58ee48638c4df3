"""Numbers as people read them: percentages, sizes, durations. It knows which metric names are shares of one."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from typing import Any, Final, TypeGuard

DASH: Final = "–"
_SHARES: Final = (
    *("accuracy", "f1", "precision", "recall", "exact", "map", "mrr", "ndcg", "hit"),
    *("rouge", "bleu", "chrf", "distinct"),
)
_LESS_IS_BETTER: Final = ("loss", "mse", "mae", "rmse", "perplexity", "error")


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite number; a bool is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_share(metric: str) -> bool:
    """Whether a metric lies in [0, 1] and reads as a percentage, by its name."""
    return any(part in metric.lower() for part in _SHARES)


def less_is_better(metric: str) -> bool:
    """Whether a lower value of a metric is the better one, by a word of its name."""
    return any(part in metric.lower().split("_") for part in _LESS_IS_BETTER)


def metric_value(metric: str, value: Any) -> str:
    """0.9273 → "92.7 %" for shares, "0.927" for correlations and losses."""
    if not is_number(value):
        return DASH
    return percent(value) if is_share(metric) else plain(value)


def interval(metric: str, measured: Mapping[str, Any]) -> str:
    """The ends `low` and `high` as "91.9–93.5 %" or "0.320–0.410"; "" where one is missing."""
    low, high = measured.get("low"), measured.get("high")
    if not (is_number(low) and is_number(high)):
        return ""
    if is_share(metric):
        return f"{100 * low:.1f}{DASH}{percent(high)}"
    return f"{plain(low)} to {plain(high)}" if low < 0 else f"{plain(low)}{DASH}{plain(high)}"


def percent(value: Any, digits: int = 1) -> str:
    """0.927 → "92.7 %"; a dash for what is no number."""
    return f"{100 * value:.{digits}f} %" if is_number(value) else DASH


def plain(value: Any) -> str:
    """About three meaningful digits; whole numbers in full with separators."""
    if not is_number(value):
        return DASH
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}" if size >= 1000 else f"{value:.1f}"
    if size >= 1:
        return f"{value:.2f}"
    return f"{value:.3f}" if size >= 0.001 else f"{value:.1e}"


def count(value: Any) -> str:
    """1234567 → "1.2 M" from a million on, else with separators."""
    if not is_number(value):
        return DASH
    for size, unit in ((1e9, "B"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{int(value):,}"


def memory(value: Any) -> str:
    """Bytes in MiB, from 2³⁰ on in GiB; a dash for what is no number."""
    if not is_number(value):
        return DASH
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


def duration(value: Any) -> str:
    """Seconds as "8.2 s", "3 min 05 s" or "2 h 10 min"; a dash for what is no number."""
    if not is_number(value):
        return DASH
    if value < 60:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten) that lie in [low, high]."""
    if high <= low:
        return [low]
    raw = (high - low) / wanted
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def tick(value: float) -> str:
    """2e-05, 0.25, 1,500, 20k."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.0e}".replace("e-0", "e-") if abs(value) < 0.001 else f"{value:,.4g}"


def columns_of(text: str) -> int:
    """The width of a text in columns: a Chinese character takes two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)

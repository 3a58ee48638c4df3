"""Metrics of one number a record: correlations and errors. It knows no task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flagai.errors import DataError
from flagai.measure.intervals import Interval, bootstrap_mean, bootstrap_rows
from flagai.measure.rows import check_lengths

Numbers = Sequence[float] | np.ndarray


def regression_metrics(gold: Numbers, predicted: Numbers) -> dict[str, float]:
    """pearson and spearman in [-1, 1], mse and mae in units of the gold numbers.

    A correlation of a constant list does not exist; it is given as 0.0, since a constant says nothing of the order.
    Raises DataError for lists of different length, no records, or a number that is not finite.
    """
    g, p = _checked(gold, predicted)
    return {
        "pearson": _correlation(g, p, "pearsonr"),
        "spearman": _correlation(g, p, "spearmanr"),
        "mse": float(((g - p) ** 2).mean()),
        "mae": float(np.abs(g - p).mean()),
    }


def regression_intervals(
    gold: Numbers, predicted: Numbers, *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, Interval]:
    """The names and values of `regression_metrics`, each with its bootstrap interval over records."""
    from scipy.stats import rankdata

    g, p = _checked(gold, predicted)
    options: dict[str, Any] = {"resamples": resamples, "seed": seed, "level": level}
    return {
        "pearson": bootstrap_rows(lambda rows: _row_correlations(g[rows], p[rows]), len(g), **options),
        "spearman": bootstrap_rows(
            lambda rows: _row_correlations(rankdata(g[rows], axis=1), rankdata(p[rows], axis=1)), len(g), **options
        ),
        "mse": bootstrap_mean((g - p) ** 2, **options),
        "mae": bootstrap_mean(np.abs(g - p), **options),
    }


def _correlation(gold: np.ndarray, predicted: np.ndarray, name: str) -> float:
    from scipy import stats

    if np.ptp(gold) == 0 or np.ptp(predicted) == 0:
        return 0.0
    return float(getattr(stats, name)(gold, predicted).statistic)


def _row_correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's r of each pair of rows, [R, n] and [R, n] → [R]; 0 where a row is constant."""
    varies = (np.ptp(a, axis=1) > 0) & (np.ptp(b, axis=1) > 0)
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    scale = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    varies &= scale > 0
    return np.divide((a * b).sum(axis=1), scale, out=np.zeros(len(a)), where=varies)


def _checked(gold: Numbers, predicted: Numbers) -> tuple[np.ndarray, np.ndarray]:
    check_lengths(gold, predicted)
    g, p = np.asarray(gold, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    for name, values in (("gold", g), ("predicted", p)):
        if not np.isfinite(values).all():
            place = int(np.flatnonzero(~np.isfinite(values))[0])
            raise DataError(f"{name} number {place} is {values[place]}", expected="finite numbers")
    return g, p

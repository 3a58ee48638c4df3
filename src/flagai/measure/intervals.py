"""Bootstrap intervals and paired comparisons by resampling records. It knows no metric by name.

All functions draw the same resamples for the same `(n, resamples, seed)`, so that the fast statistics equal the generic
one and the intervals of two metrics of one run rest on the same draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from flagai.errors import DataError
from flagai.measure.counts import Average, Counts, precision_recall_f1

_BLOCK = 4_000_000
"""indices drawn at a time: bounds the memory at 32 MB, whatever the number of records"""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A measured value and the percentile interval of it over resamples of the records."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """value, low and high as a plain dict."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two systems on the same records: mean of b minus mean of a, and how easily chance would show such a gap."""

    difference: Interval
    p_value: float


def bootstrap(
    statistic: Callable[[np.ndarray], float], n: int, *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Percentile bootstrap (Efron 1979) of any statistic of `n` records; `statistic` gets record numbers [n].

    The slow, general way. Raises DataError without records.
    """
    draws = [statistic(row) for block in _resamples(n, resamples, seed) for row in block]
    return _percentiles(statistic(np.arange(n)), np.asarray(draws, dtype=np.float64), level)


def bootstrap_rows(
    statistic: Callable[[np.ndarray], np.ndarray], n: int, *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval:
    """As `bootstrap` for a statistic that takes many resamples at once: record numbers [R, n] → values [R]."""
    draws = np.concatenate([statistic(block) for block in _resamples(n, resamples, seed)])
    return _percentiles(statistic(np.arange(n)[None])[0], draws, level)


def bootstrap_mean(per_record: np.ndarray, *, resamples: int = 1000, seed: int = 0, level: float = 0.95) -> Interval:
    """Interval of the mean of one number a record [N]: accuracy from right/wrong, an error from absolute errors."""
    values = np.asarray(per_record, dtype=np.float64)
    sums = _resampled_sums([values[:, None]], resamples, seed)[0][:, 0]
    return _percentiles(values.sum() / len(values), sums / len(values), level)


def bootstrap_sums(
    statistic: Callable[[np.ndarray], np.ndarray],
    counts: np.ndarray,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Interval of a statistic of summed counts: `counts` [N, C] a record, `statistic` takes sums [..., C] to [...]."""
    table = np.asarray(counts, dtype=np.float64)
    draws = statistic(_resampled_sums([table], resamples, seed)[0])
    return _percentiles(statistic(table.sum(axis=0)), draws, level)


def bootstrap_f1(
    tp: np.ndarray,
    fp: np.ndarray,
    fn: np.ndarray,
    *,
    average: Average = "micro",
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Interval of F1 from the counts of each record, [N] or [N, C]."""
    counts = Counts(tp=np.asarray(tp), fp=np.asarray(fp), fn=np.asarray(fn))
    return bootstrap_prf(counts, average=average, resamples=resamples, seed=seed, level=level)[2]


def bootstrap_prf(
    counts: Counts,
    *,
    average: Average = "micro",
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[Interval, Interval, Interval]:
    """Intervals of precision, recall and F1 from the counts of each record, [N] or [N, C]."""
    arrays = [np.asarray(a, dtype=np.float64).reshape(len(a), -1) for a in (counts.tp, counts.fp, counts.fn)]
    tp, fp, fn = (a.sum(axis=0) for a in arrays)
    values = precision_recall_f1(tp, fp, fn, average)
    tp, fp, fn = _resampled_sums(arrays, resamples, seed)
    draws = precision_recall_f1(tp, fp, fn, average)
    precision, recall, f1 = (_percentiles(v, d, level) for v, d in zip(values, draws, strict=True))
    return precision, recall, f1


def paired_bootstrap(
    correct_a: np.ndarray, correct_b: np.ndarray, *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> Comparison:
    """Whether system b is better than a on the same records [N] (right/wrong, or any score a record).

    Each resample draws records, never systems, so what both find hard cancels out. The p-value is two-sided: twice
    the smaller share of resamples on either side of zero, with one added to each count so that it is never 0
    (Davison and Hinkley 1997, §4.2.5).
    """
    a, b = np.asarray(correct_a, dtype=np.float64), np.asarray(correct_b, dtype=np.float64)
    if a.shape != b.shape:
        raise DataError(f"{len(a)} results of one system and {len(b)} of the other", expected="the same records")
    gap = b - a
    sums = _resampled_sums([gap[:, None]], resamples, seed)[0][:, 0]
    tail = min(int((sums <= 0).sum()), int((sums >= 0).sum()))
    difference = _percentiles(gap.sum() / len(gap), sums / len(gap), level)
    return Comparison(difference=difference, p_value=min(1.0, 2 * (tail + 1) / (resamples + 1)))


def _resamples(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Record numbers in blocks [r, n]. The blocks do not change the stream, so their size changes no result."""
    if n < 1:
        raise DataError("no records to measure", expected="at least one record with a gold answer")
    generator = np.random.default_rng(seed)
    rows = max(1, _BLOCK // n)
    for start in range(0, resamples, rows):
        yield generator.integers(0, n, size=(min(rows, resamples - start), n))


def _resampled_sums(arrays: list[np.ndarray], resamples: int, seed: int) -> list[np.ndarray]:
    """The columns of each array [N, C] added up over every resample, [R, C]: times drawn @ array."""
    n = len(arrays[0])
    parts: list[list[np.ndarray]] = [[] for _ in arrays]
    for block in _resamples(n, resamples, seed):
        drawn = np.stack([np.bincount(row, minlength=n) for row in block]).astype(np.float64)
        for part, array in zip(parts, arrays, strict=True):
            part.append(drawn @ array)
    return [np.concatenate(part) for part in parts]


def _percentiles(value: float | np.ndarray, draws: np.ndarray, level: float) -> Interval:
    tail = (1 - level) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(value=float(value), low=float(low), high=float(high))

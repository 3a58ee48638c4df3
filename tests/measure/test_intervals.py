from __future__ import annotations

import numpy as np
import pytest

from flagai.errors import DataError
from flagai.measure import intervals
from flagai.measure.intervals import bootstrap, bootstrap_f1, bootstrap_mean, paired_bootstrap


def test_mean_equals_the_generic_bootstrap() -> None:
    values = np.random.default_rng(0).normal(size=90)
    slow = bootstrap(lambda rows: float(values[rows].mean()), 90, resamples=200, seed=4)
    fast = bootstrap_mean(values, resamples=200, seed=4)
    assert (fast.value, fast.low, fast.high) == pytest.approx((slow.value, slow.low, slow.high), abs=1e-12)
    assert fast.to_json() == {"value": fast.value, "low": fast.low, "high": fast.high}


def test_micro_f1_of_one_count_a_record_equals_the_generic_bootstrap() -> None:
    tp, fp, fn = np.random.default_rng(0).integers(0, 4, size=(3, 50))

    def slow(rows: np.ndarray) -> float:
        right = 2 * tp[rows].sum()
        return float(right / (right + fp[rows].sum() + fn[rows].sum()))

    expected = bootstrap(slow, 50, resamples=100)
    assert bootstrap_f1(tp, fp, fn, resamples=100) == expected


def test_block_size_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=33)
    whole = bootstrap_mean(values, resamples=50)
    monkeypatch.setattr(intervals, "_BLOCK", 100)
    cut = bootstrap_mean(values, resamples=50)
    assert (cut.low, cut.high) == pytest.approx((whole.low, whole.high), abs=1e-15)


def test_interval_of_a_proportion_is_near_the_normal_one() -> None:
    right = np.arange(1000) < 900
    found = bootstrap_mean(right, resamples=2000)
    half = 1.96 * (0.9 * 0.1 / 1000) ** 0.5
    assert found.value == pytest.approx(0.9)
    assert (found.value - found.low, found.high - found.value) == pytest.approx((half, half), rel=0.12)


def test_level_seed_and_repetition() -> None:
    values = np.random.default_rng(0).normal(size=60)
    wide, narrow = bootstrap_mean(values, level=0.99), bootstrap_mean(values, level=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values, seed=1).low != bootstrap_mean(values, seed=2).low


def test_paired_comparison_sees_what_separate_intervals_hide() -> None:
    rng = np.random.default_rng(0)
    a = rng.random(800) < 0.7
    b = a | (rng.random(800) < 0.06)  # b is right wherever a is, and a little more often
    found = paired_bootstrap(a, b)
    assert found.difference.value == pytest.approx(b.mean() - a.mean())
    assert found.difference.low > 0
    assert found.p_value < 0.01
    assert bootstrap_mean(a).high > bootstrap_mean(b).low


def test_paired_comparison_of_equals_and_the_other_way_round() -> None:
    right = np.random.default_rng(0).random(100) < 0.8
    other = np.random.default_rng(1).random(100) < 0.8
    assert paired_bootstrap(right, right).p_value == 1
    there, back = paired_bootstrap(right, other), paired_bootstrap(other, right)
    assert there.difference.value == pytest.approx(-back.difference.value)
    assert there.p_value == pytest.approx(back.p_value)


def test_bad_input_is_named() -> None:
    with pytest.raises(DataError, match="no records"):
        bootstrap_mean(np.zeros(0))
    with pytest.raises(DataError, match="3 results of one system and 2 of the other"):
        paired_bootstrap(np.zeros(3), np.zeros(2))

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from flagai.errors import DataError
from flagai.measure.intervals import bootstrap
from flagai.measure.regression import regression_intervals, regression_metrics


def _pair(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    gold = np.round(rng.random(n) * 5)  # ties, as in human ratings
    return gold, gold + rng.normal(size=n)


def test_metrics_equal_scipy_and_arithmetic() -> None:
    gold, predicted = _pair(50)
    found = regression_metrics(gold, predicted)
    assert found["pearson"] == pytest.approx(pearsonr(gold, predicted)[0])
    assert found["spearman"] == pytest.approx(spearmanr(gold, predicted)[0])
    assert found["mse"] == pytest.approx(sum((a - b) ** 2 for a, b in zip(gold, predicted, strict=True)) / 50)
    assert found["mae"] == pytest.approx(sum(abs(a - b) for a, b in zip(gold, predicted, strict=True)) / 50)


@pytest.mark.parametrize("gold", [[1.0, 2.0, 3.0], [2.0, 2.0, 2.0]])
def test_constant_predictions_give_zero_without_a_warning(gold: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = regression_metrics(gold, [2.0, 2.0, 2.0])
        intervals = regression_intervals(gold, [2.0, 2.0, 2.0], resamples=20)
    assert found["pearson"] == found["spearman"] == 0
    assert intervals["spearman"].low == intervals["spearman"].high == 0


@pytest.mark.parametrize("name", ["pearson", "spearman", "mse", "mae"])
def test_fast_intervals_equal_the_generic_bootstrap(name: str) -> None:
    gold, predicted = _pair(40)
    expected = bootstrap(lambda rows: regression_metrics(gold[rows], predicted[rows])[name], 40, resamples=50, seed=1)
    found = regression_intervals(gold, predicted, resamples=50, seed=1)[name]
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high), 1e-9)


def test_bad_input_is_named() -> None:
    with pytest.raises(DataError, match="predicted number 1 is nan"):
        regression_metrics([1.0, 2.0], [1.0, float("nan")])

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from flagai.errors import DataError
from flagai.measure.intervals import bootstrap
from flagai.measure.multi_label import (
    best_thresholds,
    multi_label_intervals,
    multi_label_metrics,
    multi_label_table,
)

LABELS = ["a", "b", "c", "d"]
GOLD = [{"a", "b"}, {"b"}, set(), {"c"}, {"a"}]
PREDICTED = [["a"], ["b", "c"], [], ["c"], ["a", "a"]]


def _random_sets(n: int) -> tuple[list[list[str]], list[list[str]]]:
    rng = np.random.default_rng(5)
    gold = rng.random((n, len(LABELS))) < 0.3
    predicted = gold ^ (rng.random(gold.shape) < 0.15)
    return tuple([[LABELS[c] for c in np.flatnonzero(row)] for row in table] for table in (gold, predicted))  # type: ignore[return-value]


def test_metrics_by_hand() -> None:
    found = multi_label_metrics(GOLD, PREDICTED, LABELS)
    assert found["precision_micro"] == pytest.approx(4 / 5)
    assert found["recall_micro"] == pytest.approx(4 / 5)
    assert found["f1_micro"] == pytest.approx(4 / 5)
    assert found["f1_macro"] == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)  # "d" occurs nowhere
    assert found["subset_accuracy"] == pytest.approx(3 / 5)


def test_no_label_anywhere_is_zero_not_an_error() -> None:
    found = multi_label_metrics([[], []], [[], []], LABELS)
    assert found["f1_micro"] == found["f1_macro"] == 0
    assert found["subset_accuracy"] == 1


def test_table_has_a_row_for_every_label() -> None:
    rows = multi_label_table(GOLD, PREDICTED, LABELS)
    assert [row["label"] for row in rows] == LABELS
    assert [row["support"] for row in rows] == [2, 2, 1, 0]
    assert rows[2] == {"label": "c", "precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "support": 1}


def test_table_of_a_single_label() -> None:
    rows = multi_label_table([["x"], [], ["x"]], [["x"], ["x"], []], ["x"])
    assert rows == [{"label": "x", "precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}]


@pytest.mark.parametrize("name", ["f1_micro", "f1_macro", "precision_micro", "recall_micro", "subset_accuracy"])
def test_fast_intervals_equal_the_generic_bootstrap(name: str) -> None:
    gold, predicted = _random_sets(80)

    def slow(rows: np.ndarray) -> float:
        return multi_label_metrics([gold[i] for i in rows], [predicted[i] for i in rows], LABELS)[name]

    expected = bootstrap(slow, len(gold), resamples=50, seed=2)
    found = multi_label_intervals(gold, predicted, LABELS, resamples=50, seed=2)[name]
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high), 1e-12)


def test_thresholds_equal_trying_every_cut() -> None:
    rng = np.random.default_rng(0)
    for decimals in (1, 2, 8):  # one decimal makes many ties
        gold = rng.random((30, 5)) < 0.3
        scores = np.round(np.clip(0.3 * gold + rng.random(gold.shape) * 0.7, 0, 1), decimals)
        for c, threshold in enumerate(best_thresholds(gold, scores)):
            reached = f1_score(gold[:, c], scores[:, c] >= threshold)
            best = max(f1_score(gold[:, c], scores[:, c] >= cut) for cut in scores[:, c])
            assert reached == pytest.approx(best, abs=1e-15)


def test_thresholds_lie_midway_and_near_one_half() -> None:
    gold = np.array([[1, 0], [1, 0], [0, 0]], dtype=bool)
    scores = np.array([[0.9, 0.2], [0.7, 0.3], [0.1, 0.9]])
    assert best_thresholds(gold, scores) == [pytest.approx(0.4), 0.5]


def test_thresholds_of_equal_worth_take_the_one_nearest_one_half() -> None:
    gold = np.array([[1], [0], [1], [1], [0]], dtype=bool)
    scores = np.array([[0.95], [0.55], [0.45], [0.35], [0.05]])
    # 0.2 (three right, one wrong) is the best; then with a tie between cutting at 0.75 and 0.5:
    assert best_thresholds(gold, scores) == [pytest.approx(0.2)]
    tied = np.array([[1], [0], [0], [1]], dtype=bool)
    ranks = np.array([[0.9], [0.8], [0.7], [0.6]])
    # one given: F1 2/3; all four given: F1 2/3. Cuts 0.85 and 0.3: 0.3 is nearer to 0.5.
    assert best_thresholds(tied, ranks) == [pytest.approx(0.3)]


def test_thresholds_separate_neighbouring_float32_scores() -> None:
    low = np.float32(0.7)
    for _ in range(4):  # midway between neighbours rounds up or down in turn
        high = np.nextafter(low, np.float32(1))
        scores = np.array([[high], [low]], dtype=np.float32)
        (threshold,) = best_thresholds(np.array([[True], [False]]), scores)
        assert (scores[:, 0] >= threshold).tolist() == [True, False]
        low = high


def test_bad_input_is_named() -> None:
    with pytest.raises(DataError, match="shape"):
        best_thresholds(np.zeros((2, 2), dtype=bool), np.zeros((2, 3)))
    with pytest.raises(DataError, match="gold label 'z'"):
        multi_label_metrics([["z"]], [[]], LABELS)

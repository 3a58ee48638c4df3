from __future__ import annotations

import numpy as np
import pytest
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities

from flagai.errors import DataError
from flagai.measure.entities import entity_intervals, entity_metrics, entity_table
from flagai.measure.intervals import bootstrap

GOLD = [[(0, 4, "ORG"), (0, 2, "LOC")], [(3, 5, "PER")], []]
PREDICTED = [[(0, 4, "ORG"), (0, 2, "PER")], [(3, 5, "PER"), (3, 5, "PER")], [(1, 2, "LOC")]]


def _random_bio(rng: np.random.Generator, n: int) -> list[list[str]]:
    """Well-formed BIO: an I- tag only continues an entity of its type."""
    rows = []
    for _ in range(n):
        tags, last = [], ""
        for _ in range(rng.integers(1, 15)):
            kind = ("PER", "ORG", "LOC")[rng.integers(3)]
            tag = ("O", f"B-{kind}", f"I-{last}" if last else "O")[rng.integers(3)]
            last = tag[2:]
            tags.append(tag)
        rows.append(tags)
    return rows


def _spans(rows: list[list[str]]) -> list[list[tuple[int, int, str]]]:
    return [[(start, end + 1, kind) for kind, start, end in get_entities(tags)] for tags in rows]


def test_metrics_by_hand_with_nested_and_repeated_spans() -> None:
    found = entity_metrics(GOLD, PREDICTED)
    assert found["precision"] == pytest.approx(2 / 4)
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["f1"] == pytest.approx(4 / 7)
    assert found["f1_macro"] == pytest.approx((0 + 1 + 2 / 3) / 3)


def test_table_has_a_row_for_every_type() -> None:
    rows = {row["label"]: row for row in entity_table(GOLD, PREDICTED)}
    assert list(rows) == ["LOC", "ORG", "PER"]
    assert rows["PER"] == {"label": "PER", "precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "support": 1}
    assert rows["LOC"]["support"] == 1
    assert rows["LOC"]["f1"] == 0


def test_equal_to_seqeval_on_flat_tags() -> None:
    rng = np.random.default_rng(0)
    gold = _random_bio(rng, 200)
    predicted = [
        row if rng.random() < 0.6 else other[: len(row)] + ["O"] * (len(row) - len(other))
        for row, other in zip(gold, _random_bio(rng, 200), strict=True)
    ]
    found = entity_metrics(_spans(gold), _spans(predicted))
    assert 0.3 < found["f1"] < 0.9
    assert found["precision"] == pytest.approx(precision_score(gold, predicted), abs=1e-12)
    assert found["recall"] == pytest.approx(recall_score(gold, predicted), abs=1e-12)
    assert found["f1"] == pytest.approx(f1_score(gold, predicted), abs=1e-12)
    assert found["f1_macro"] == pytest.approx(f1_score(gold, predicted, average="macro"), abs=1e-12)


@pytest.mark.parametrize("name", ["precision", "recall", "f1", "f1_macro"])
def test_fast_intervals_equal_the_generic_bootstrap(name: str) -> None:
    rng = np.random.default_rng(4)
    gold, predicted = _spans(_random_bio(rng, 40)), _spans(_random_bio(rng, 40))
    predicted[:25] = gold[:25]

    def slow(rows: np.ndarray) -> float:
        return entity_metrics([gold[i] for i in rows], [predicted[i] for i in rows])[name]

    expected = bootstrap(slow, len(gold), resamples=40, seed=9)
    found = entity_intervals(gold, predicted, resamples=40, seed=9)[name]
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high), 1e-12)


def test_no_entity_anywhere_is_zero() -> None:
    assert entity_metrics([[], []], [[], []]) == {"precision": 0, "recall": 0, "f1": 0, "f1_macro": 0}
    assert entity_table([[]], [[]]) == []
    assert entity_intervals([[], []], [[], []], resamples=5)["f1"].high == 0


def test_bad_input_is_named() -> None:
    with pytest.raises(DataError, match="1 gold and 2 predicted"):
        entity_metrics([[]], [[], []])

"""The seeded split: pure, stratified, and duplicates on one side."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from typing import Any

import pytest

from flagai.data.record import Record
from flagai.data.splits import split_records
from flagai.errors import ConfigError, DataError


def records_of(*rows: tuple[str, Any]) -> list[Record]:
    return [Record({"text": text, "label": label}, "x.csv", line) for line, (text, label) in enumerate(rows, start=2)]


def many(counts: dict[str, int]) -> list[Record]:
    return records_of(*((f"text {label} {at}", label) for label, count in counts.items() for at in range(count)))


def texts(records: list[Record]) -> list[str]:
    return [record.text for record in records]


def test_every_record_is_on_one_side_in_order() -> None:
    records = many({"a": 60, "b": 40})
    train, held_out = split_records(records, 0.2, seed=7)
    assert len(held_out) == 20
    assert sorted(train + held_out, key=lambda record: record.line) == records
    assert [record.line for record in train] == sorted(record.line for record in train)
    assert [record.line for record in held_out] == sorted(record.line for record in held_out)


def test_pure_function_of_content_and_seed() -> None:
    records = many({"a": 30, "b": 30})
    chosen = set(texts(split_records(records, seed=1)[1]))
    assert chosen == set(texts(split_records(many({"a": 30, "b": 30}), seed=1)[1]))
    assert chosen != set(texts(split_records(records, seed=2)[1]))
    shuffled = random.Random(0).sample(records, len(records))
    assert chosen == set(texts(split_records(shuffled, seed=1)[1]))


def test_known_members() -> None:
    """Frozen: another version must not move a user's eval records."""
    _, held_out = split_records(many({"a": 10, "b": 10}), 0.2, seed=0)
    assert texts(held_out) == ["text a 3", "text a 7", "text b 7", "text b 9"]
    for label in "ab":
        digests = {at: hashlib.sha256(f"0\0text {label} {at}\0".encode()).digest() for at in range(10)}
        first = sorted(sorted(digests, key=digests.__getitem__)[:2])
        assert [text for text in texts(held_out) if label in text.split()] == [f"text {label} {at}" for at in first]


def test_strata_give_their_share() -> None:
    _, held_out = split_records(many({"a": 100, "b": 50, "c": 25, "d": 5, "e": 1}), 0.2, seed=3)
    counts = Counter(record.fields["label"] for record in held_out)
    assert len(held_out) == 36
    assert (counts["a"], counts["b"], counts["c"], counts["d"], counts["e"]) == (20, 10, 5, 1, 0)


def test_labels_of_eval_are_in_train() -> None:
    for seed in range(30):
        records = many({f"label {number}": 1 + number % 3 for number in range(40)})
        train, held_out = split_records(records, 0.3, seed=seed)
        assert held_out
        assert {record.fields["label"] for record in held_out} <= {record.fields["label"] for record in train}


def numbers(records: list[Record]) -> set[str]:
    return {record.text.split()[1].rstrip("！!") for record in records}


def test_duplicates_never_straddle() -> None:
    forms = ("Text  {}！", "ｔext {}!", "TEXT {}!")
    records = records_of(*((forms[at % 3].format(at % 40), "ab"[at % 7 == 0]) for at in range(400)))
    for seed in range(20):
        train, held_out = split_records(records, 0.25, seed=seed)
        assert held_out
        assert not numbers(train) & numbers(held_out)


def test_pairs_are_told_apart_by_both_texts() -> None:
    records = [Record({"text": "same", "text_pair": f"other {number}", "label": "1"}) for number in range(10)]
    assert len(split_records(records, 0.3)[1]) == 3


def test_entities_and_scores() -> None:
    entities = [{"start": 0, "end": 4, "label": "X"}]
    named = [Record({"text": f"text {number}", "label": entities if number % 2 else []}) for number in range(100)]
    _, held_out = split_records(named, 0.1)
    assert sum(bool(record.fields["label"]) for record in held_out) == 5
    scored = [Record({"text": f"text {number}", "label": number / 7}) for number in range(100)]
    assert len(split_records(scored, 0.1)[1]) == 10


def test_stratify_off() -> None:
    assert len(split_records(many({str(number): 1 for number in range(100)}), 0.1, stratify=False)[1]) == 10


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5])
def test_fraction_must_be_a_share(fraction: float) -> None:
    with pytest.raises(ConfigError, match="above 0 and below 1"):
        split_records(many({"a": 10}), fraction)


@pytest.mark.parametrize("rows", [[], [("a", "x")], [("a", "x"), ("Ａ ", "x")], [("a", "x"), ("b", "y")]])
def test_nothing_to_hold_out(rows: list[tuple[str, str]]) -> None:
    with pytest.raises(DataError, match=r"data\.eval") as caught:
        split_records(records_of(*rows))
    assert "nothing can be held out" in caught.value.found

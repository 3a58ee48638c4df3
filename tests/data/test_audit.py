"""Planted defects must be found with their exact numbers."""

from __future__ import annotations

import json
import math
import time

import pytest

from flagai.data.audit import Audit, audit
from flagai.data.example import Example
from flagai.data.record import Record
from flagai.errors import ConfigError, DataError

LIMIT = 8


def rec(text: str, label: object = "a", line: int = 0, **fields: object) -> Record:
    return Record({"text": text, "label": label, **fields}, "f.csv", line)


def encode(record: Record, index: int) -> list[Example]:
    """A token a word, [CLS] and [SEP] around, cut to 8; the target is cut if the last word is `answer`."""
    words = record.text.split()
    kept = words[: LIMIT - 2]
    lost = len(words) - len(kept)
    cut = lost > 0 and words[-1] == "answer"
    return [Example(input_ids=[0] * (len(kept) + 2), record=index, tokens_lost=lost, target_cut=cut)]


def encode_windows(record: Record, index: int) -> list[Example]:
    """The same in windows of 6 words that share 2; every character of "**" is two tokens."""
    offsets, at = [], 0
    for word in record.text.split():
        offsets += [(at, at + len(word))] * (2 if word == "**" else 1)
        at += len(word) + 1
    starts = range(0, max(1, len(offsets) - 2), 4)
    windows = [[(0, 0), *offsets[start : start + 6], (0, 0)] for start in starts]
    return [
        Example(input_ids=[0] * len(window), record=index, offsets=window, window=number)
        for number, window in enumerate(windows)
    ]


def words(count: int, last: str = "w") -> str:
    return " ".join([f"w{number}" for number in range(count - 1)] + [last])


def test_tokens_and_losses() -> None:
    records = [rec(words(count), line=count) for count in range(1, 6)] * 3  # 3…7 tokens, three times: duplicates
    records += [rec(words(10), line=90), rec(words(9, "answer"), line=91), rec(words(20), line=92)]
    found = audit({"train": records}, encode, max_length=LIMIT).splits["train"]
    tokens = found.tokens
    assert tokens is not None
    assert tokens.read == 3 * 25 + 3 * 8
    assert tokens.lost == 4 + 3 + 14
    assert tokens.total == 75 + 12 + 11 + 22
    assert tokens.lost_share == 21 / 120
    assert tokens.mean == 120 / 18
    assert (tokens.p95, tokens.max) == (22, 22)
    assert (tokens.records_truncated, tokens.targets_cut, tokens.records_losing) == (3, 1, 3)
    assert (tokens.windows, tokens.records_in_windows) == (18, 0)
    assert (found.records, found.duplicates, found.conflicts) == (18, 10, 0)


@pytest.mark.parametrize("count", [1, 19, 20, 21, 40, 41])
def test_p95_is_the_smallest_that_covers(count: int) -> None:
    lengths = [(7 * number) % count for number in range(count)]
    tokens = audit({"x": [rec("t")] * count}, lambda _, at: [Example([0] * lengths[at], at)]).splits["x"].tokens
    assert tokens is not None
    slow = next(length for length in sorted(lengths) if sum(other <= length for other in lengths) >= 0.95 * count)
    assert tokens.p95 == slow
    assert math.isclose(tokens.mean, sum(lengths) / count)


def test_tokens_that_windows_share_count_once() -> None:
    records = [rec("a b c d e f g h i j"), rec("a b"), rec("a ** c d e f g")]
    found = audit({"train": records}, encode_windows).splits["train"].tokens
    assert found is not None
    assert found.total == 12 + 4 + 10
    assert found.read == (8 + 8) + 4 + (8 + 6)
    assert (found.windows, found.records_in_windows, found.lost, found.records_losing) == (5, 2, 0, 0)


def test_empty_duplicate_and_conflicting_texts() -> None:
    records = [
        rec("Hello, world", "a", 2),
        rec("hello，　world ", "a", 3),  # the same after normalisation
        rec("HELLO, WORLD", "b", 4),  # the same, another label
        rec("unique", "b", 5),
        rec("", "a", 6),
        rec(" \u200b\u3000", "b", 7),  # empty too, and no duplicate
        rec("multi", ["x", "y"], 8),
        rec("multi", ["y", "x"], 9),  # the same labels in another order
    ]
    report = audit({"train": records})
    found = report.splits["train"]
    assert found.tokens is None
    assert (found.empty, found.duplicates, found.conflicts, found.conflict_records) == (2, 3, 1, 3)
    conflict = next(problem for problem in report.worst if problem.reason == "conflicting label")
    assert (conflict.where, conflict.detail) == ("f.csv:4", "'b', but 'a' in f.csv:2")


def test_pairs() -> None:
    records = [
        rec("a", text_pair="b"),
        rec("a", text_pair="c"),
        rec("A", text_pair="b"),
        rec("b", text_pair="a"),
        rec("a", text_pair=""),
    ]
    found = audit({"train": records}).splits["train"]
    assert (found.duplicates, found.empty) == (1, 1)


def test_labels() -> None:
    entities = [{"start": at, "end": at + 1, "label": label} for at, label in enumerate("PLP")]
    train = [rec("one", "a"), rec("two", ["a", "b"]), rec("three", entities), rec("four", 3), rec("five", 0.5)]
    train.append(Record({"text": "six"}))
    report = audit({"train": train, "eval": [rec("x", "a"), rec("y", ["c", "d", "c"]), rec("z", "c")]})
    assert dict(report.splits["train"].labels) == {"a": 2, "b": 1, "P": 2, "L": 1, "3": 1}
    assert report.splits["train"].unlabelled == 1
    assert not report.splits["train"].unknown_labels
    assert dict(report.splits["eval"].unknown_labels) == {"c": 3, "d": 1}
    assert report.splits["eval"].unknown_records == 2
    told = audit({"train": train}, labels=["a", "P", "L", "3"], label_of=lambda record: [str(record.get("label"))][:1])
    assert told.splits["train"].unknown_records == 4


def test_leaks() -> None:
    train = [rec("Same text.", line=2), rec("other", line=3), rec("", line=4), rec("same text。", line=5)]
    held_out = [rec("same  text。", line=2), rec("fresh", line=3), rec("", line=4), rec("OTHER", line=5)]
    test = [rec("fresh", line=2), rec("new", line=3)]
    report = audit({"train": train, "eval": held_out, "test": test})
    assert [(leak.source, leak.target, leak.records, leak.share) for leak in report.leaks] == [
        ("train", "eval", 2, 0.5),
        ("eval", "test", 1, 0.5),
    ]
    assert report.leaks[0].examples == (("f.csv:2", "f.csv:2", "same text。"), ("f.csv:3", "f.csv:5", "OTHER"))


def test_worst_come_gravest_first() -> None:
    records = [
        rec("", line=1),
        rec(words(9), line=2),
        rec(words(12), line=3),
        rec(words(7, "answer"), line=4),
        rec("fine", line=5),
        rec("odd", "zzz", line=6),
    ]
    report = audit({"train": records}, encode, labels=["a"], worst=4)
    assert [(item.where, item.reason, item.tokens_lost) for item in report.worst] == [
        ("f.csv:4", "target cut", 1),
        ("f.csv:3", "tokens lost", 6),
        ("f.csv:2", "tokens lost", 3),
        ("f.csv:6", "unknown label", 0),
    ]
    assert report.worst[1].detail == "6 of 14 tokens lost"
    assert len(audit({"train": records}, encode, labels=["a"]).worst) == 5
    assert len(report.worst[1].text) <= 80


@pytest.fixture
def damaged() -> Audit:
    train = [rec(words(2, f"t{number}"), line=number) for number in range(95)]
    train += [rec(words(9 + number, f"long{number}"), line=95 + number) for number in range(4)]
    train.append(rec(words(9, "answer"), line=99))
    return audit({"train": train, "eval": [rec("w0 t1", line=2), rec("fresh", line=3)]}, encode, max_length=LIMIT)


def test_check_compares_the_share_of_losing_records(damaged: Audit) -> None:
    assert damaged.shares("train")["lost"] == 0.05
    damaged.check(0.05)
    with pytest.raises(DataError) as caught:
        damaged.check(0.049)
    message = str(caught.value)
    assert caught.value.where == "f.csv:99"
    for part in ("5 of 100 train records (5 %)", "max_length of 8", "at most 4.9 %", "data.audit.fail_above", "stride"):
        assert part in message


def test_check_by_kind(damaged: Audit) -> None:
    damaged.check({"target_cut": 0.01, "tokens_lost": 0.05, "leaks": 0.5, "empty": 0, "duplicates": 0})
    with pytest.raises(DataError, match="1 of 100 train records"):
        damaged.check({"target_cut": 0.009})
    with pytest.raises(DataError, match=r"1 of 2 eval records .* stand in train as well"):
        damaged.check({"leaks": 0.4})
    with pytest.raises(ConfigError, match="did you mean 'leaks'"):
        damaged.check({"leak": 0.4})
    with pytest.raises(ConfigError, match="from 0 to 1"):
        damaged.check(5)


def test_json_and_lines(damaged: Audit) -> None:
    plain = json.loads(json.dumps(damaged.to_json()))
    assert plain["splits"]["train"]["tokens"]["records_losing"] == 5
    assert plain["leaks"][0]["records"] == 1
    assert plain["max_length"] == LIMIT
    text = "\n".join(damaged.lines())
    parts = ("train: 100 records", "5 records", "1 records lose a part", "leak: 1 of", "f.csv:99  target cut", "a 100")
    for part in parts:
        assert part in text


def test_nothing_to_say() -> None:
    report = audit({"train": [rec("a"), rec("b", "b")], "eval": []}, encode)
    report.check(0)
    assert report.lines() == [
        "train: 2 records, 6 tokens (mean 3.0, 95 % up to 3, longest 3)",
        "  2 labels: a 1, b 1",
        "eval: 0 records, 0 tokens (mean 0.0, 95 % up to 0, longest 0)",
    ]


def test_fifty_thousand_records_take_seconds() -> None:
    records = [rec(f"第{number}条，今天天气很好 and the weather is fine {number}") for number in range(50_000)]
    begin = time.process_time()
    found = audit({"train": records}, encode)
    assert found.splits["train"].duplicates == 0
    assert time.process_time() - begin < 10

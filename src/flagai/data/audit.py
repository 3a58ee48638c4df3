"""What is wrong with the data before a model sees it: losses, duplicates, leaks, labels. Knows no task and no model.

How a record becomes tokens is told by the argument `encode`.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Protocol

from flagai.data.example import Example
from flagai.data.findings import SEVERITY, Audit, Leak, Problem, SplitAudit, TokenAudit
from flagai.data.keys import content_key, labels_of
from flagai.data.record import Record

__all__ = ["Audit", "Leak", "Problem", "SplitAudit", "TokenAudit", "audit"]

Encode = Callable[[Record, int], list[Example]]
LabelOf = Callable[[Record], list[str]]
Key = tuple[str, str]

_SNIPPET: Final = 80
_MOST_EXAMPLES: Final = 5


class Report(Protocol):
    """Notes one problem of record `at` of the split under examination."""

    def __call__(self, at: int, reason: str, *, tokens_lost: int = 0, detail: str = "") -> None: ...


def audit(
    splits: Mapping[str, Sequence[Record]],
    encode: Encode | None = None,
    *,
    labels: Sequence[str] | None = None,
    max_length: int | None = None,
    worst: int = 20,
    label_of: LabelOf | None = None,
    one_label: bool = True,
) -> Audit:
    """Examine all splits; changes nothing and raises nothing of its own.

    Args:
        splits: name → records, "train" first among them if there is one; leaks are reported from earlier to later
            splits.
        encode: (record, index) → its examples, as `Task.encode`; without it nothing is said of tokens.
        labels: the label table; without it, labels of the other splits are compared with those of train.
        max_length: for messages.
        worst: how many of the gravest problems are kept.
        label_of: the label names of a record; by default classes and entity types as in the file, real numbers ignored.
        one_label: whether a text that returns with another label is a conflict; written answers may be several.
    """
    label_of = label_of or labels_of
    keys = {split: [content_key(record) for record in records] for split, records in splits.items()}
    known = set(labels) if labels is not None else _train_labels(splits, label_of)
    problems: list[Problem] = []
    found = {
        split: _audit_split(split, records, keys[split], encode, known, label_of, problems, one_label)
        for split, records in splits.items()
    }
    order = {reason: at for at, reason in enumerate(SEVERITY)}
    gravest = heapq.nsmallest(worst, problems, key=lambda item: (order[item.reason], -item.tokens_lost))
    return Audit(splits=found, leaks=tuple(_leaks(splits, keys)), worst=tuple(gravest), max_length=max_length)


def _train_labels(splits: Mapping[str, Sequence[Record]], label_of: LabelOf) -> set[str] | None:
    if "train" not in splits:
        return None
    return {label for record in splits["train"] for label in label_of(record)}


def _audit_split(
    split: str,
    records: Sequence[Record],
    keys: Sequence[Key],
    encode: Encode | None,
    known: set[str] | None,
    label_of: LabelOf,
    problems: list[Problem],
    one_label: bool,
) -> SplitAudit:
    def report(at: int, reason: str, *, tokens_lost: int = 0, detail: str = "") -> None:
        record = records[at]
        text = _snippet(record.text)
        problem = Problem(
            split=split, where=record.where, text=text, reason=reason, tokens_lost=tokens_lost, detail=detail
        )
        problems.append(problem)

    empty = _empty(records, keys, report)
    duplicates, conflicts, conflict_records = _duplicates(records, keys, report if one_label else _nothing)
    if not one_label:
        conflicts = conflict_records = 0
    counts, unknown, unknown_records = _labels(records, label_of, known, report)
    return SplitAudit(
        records=len(records),
        tokens=_tokens(records, encode, report) if encode else None,
        empty=empty,
        duplicates=duplicates,
        conflicts=conflicts,
        conflict_records=conflict_records,
        unlabelled=sum(record.get("label") is None for record in records),
        labels=dict(counts),
        unknown_labels=unknown,
        unknown_records=unknown_records,
    )


def _nothing(at: int, reason: str, *, tokens_lost: int = 0, detail: str = "") -> None:
    """Notes no problem."""


def _snippet(text: str) -> str:
    begun = " ".join(text[: 2 * _SNIPPET].split())
    return begun if len(begun) <= _SNIPPET else begun[: _SNIPPET - 1] + "…"


def _is_empty(key: Key, record: Record) -> bool:
    return not key[0] or (record.get("text_pair") is not None and not key[1])


def _empty(records: Sequence[Record], keys: Sequence[Key], report: Report) -> int:
    empty = [at for at, key in enumerate(keys) if _is_empty(key, records[at])]
    for at in empty:
        report(at, "empty text")
    return len(empty)


def _duplicates(records: Sequence[Record], keys: Sequence[Key], report: Report) -> tuple[int, int, int]:
    """Repetitions, texts with more than one label, and the records of these texts."""
    copies: dict[Key, list[int]] = defaultdict(list)
    for at, key in enumerate(keys):
        if not _is_empty(key, records[at]):
            copies[key].append(at)
    repeated = [group for group in copies.values() if len(group) > 1]
    conflicting = [group for group in repeated if len({_label_key(records[at]) for at in group}) > 1]
    for group in conflicting:
        first = records[group[0]]
        for at in group[1:]:
            if _label_key(records[at]) != _label_key(first):
                report(at, "conflicting label", detail=f"{_shown(records[at])}, but {_shown(first)} in {first.where}")
    return sum(len(group) - 1 for group in repeated), len(conflicting), sum(map(len, conflicting))


def _label_key(record: Record) -> str:
    label = record.get("label")
    return repr(sorted(map(repr, label)) if isinstance(label, list) else label)


def _shown(record: Record) -> str:
    shown = repr(record.get("label"))
    return shown if len(shown) <= _SNIPPET else shown[: _SNIPPET - 1] + "…"


def _labels(
    records: Sequence[Record], label_of: LabelOf, known: set[str] | None, report: Report
) -> tuple[Counter[str], dict[str, int], int]:
    """How often each label stands there, those that are not known, and the number of records with one of them."""
    counts: Counter[str] = Counter()
    unknown_records = 0
    for at, record in enumerate(records):
        labels = label_of(record)
        counts.update(labels)
        if known is not None and (strange := [label for label in labels if label not in known]):
            unknown_records += 1
            report(at, "unknown label", detail=repr(strange[0]))
    unknown = {} if known is None else {label: count for label, count in counts.items() if label not in known}
    return counts, unknown, unknown_records


def _tokens(records: Sequence[Record], encode: Encode, report: Report) -> TokenAudit:
    lengths: list[int] = []
    read = lost = windows = in_windows = truncated = cut = losing = 0
    for at, record in enumerate(records):
        examples = encode(record, at)
        record_lost = sum(example.tokens_lost for example in examples)
        is_cut = any(example.target_cut for example in examples)
        lengths.append(_length(examples) + record_lost)
        read += sum(map(len, examples))
        windows += len(examples)
        in_windows += len(examples) > 1
        lost += record_lost
        truncated += record_lost > 0
        cut += is_cut
        if record_lost or is_cut:
            losing += 1
            detail = f"{record_lost} of {lengths[-1]} tokens lost"
            report(at, "target cut" if is_cut else "tokens lost", tokens_lost=record_lost, detail=detail)
    lengths.sort()
    total = sum(lengths)
    return TokenAudit(
        read=read,
        total=total,
        mean=total / len(lengths) if lengths else 0.0,
        p95=lengths[math.ceil(0.95 * len(lengths)) - 1] if lengths else 0,
        max=lengths[-1] if lengths else 0,
        lost=lost,
        lost_share=lost / total if total else 0.0,
        windows=windows,
        records_in_windows=in_windows,
        records_truncated=truncated,
        targets_cut=cut,
        records_losing=losing,
    )


def _length(examples: Sequence[Example]) -> int:
    """Tokens of a record that are in some window; a token that several windows share counts once.

    Tokens are told apart by segment and offsets. Several tokens of one window may have the same (the bytes of one
    character), so that the largest number in any one window counts. This also counts special tokens once.
    """
    if len(examples) == 1:
        return len(examples[0])
    union: Counter[tuple[int, tuple[int, int]]] = Counter()
    for example in examples:
        if example.offsets is None:
            return sum(map(len, examples))
        segments = example.token_type_ids or [0] * len(example)
        union |= Counter(zip(segments, map(_pair, example.offsets), strict=True))
    return union.total()


def _pair(offsets: Sequence[int]) -> tuple[int, int]:
    return offsets[0], offsets[1]


def _leaks(splits: Mapping[str, Sequence[Record]], keys: Mapping[str, Sequence[Key]]) -> Iterator[Leak]:
    """Texts that an earlier and a later split share."""
    names = list(splits)
    for source, target in ((a, b) for at, a in enumerate(names) for b in names[at + 1 :]):
        first: dict[Key, int] = {}
        for at, key in enumerate(keys[source]):
            first.setdefault(key, at)
        shared = [
            (first[key], at)
            for at, key in enumerate(keys[target])
            if key in first and not _is_empty(key, splits[target][at])
        ]
        if shared:
            yield Leak(
                source=source,
                target=target,
                records=len(shared),
                share=len(shared) / len(keys[target]),
                examples=tuple(
                    (splits[source][there].where, splits[target][here].where, _snippet(splits[target][here].text))
                    for there, here in shared[:_MOST_EXAMPLES]
                ),
            )

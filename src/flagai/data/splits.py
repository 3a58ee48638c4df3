"""A seeded split of records into train and eval, for runs that name no eval file. Knows no task and no model."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence

from flagai.data.keys import content_key, labels_of
from flagai.data.record import Record
from flagai.errors import ConfigError, DataError

Group = list[int]
"""positions of records that have the same text and therefore stay together"""


def split_records(
    records: Sequence[Record], fraction: float = 0.1, *, seed: int = 0, stratify: bool = True
) -> tuple[list[Record], list[Record]]:
    """Split into (train, eval), both in the order of the file.

    A pure function of the records and the seed: membership follows from a hash of (seed, text), so that it depends
    neither on the order of the file nor on a random state. Records whose normalised texts are equal go to the same
    side. Each label gives its share as nearly as whole records allow, and every label of eval is also in train.

    Args:
        records: all records.
        fraction: share of the records for eval, above 0 and below 1; at least one record is taken.
        seed: another seed is another split.
        stratify: whether each label (or set of labels, or set of entity types) gives the same share; real numbers do
            not count.

    Raises:
        ConfigError: the fraction is not between 0 and 1.
        DataError: fewer than two different texts, or no text that train could spare.
    """
    if not 0 < fraction < 1:
        raise ConfigError(
            f"an eval fraction of {fraction}", expected="a number above 0 and below 1", where="data.eval_fraction"
        )
    groups = _groups(records)
    if len(groups) < 2:
        raise _too_few(records, f"{len(groups)} different text{'s' if len(groups) != 1 else ''}")
    strata = _strata(records, groups, seed, stratify)
    chosen = _choose(strata, max(1, round(fraction * len(records))))
    held_out = _without_unseen(records, chosen, stratify)
    if not held_out:
        raise _too_few(records, "no label with two different texts")
    return (
        [record for at, record in enumerate(records) if at not in held_out],
        [record for at, record in enumerate(records) if at in held_out],
    )


def _too_few(records: Sequence[Record], found: str) -> DataError:
    return DataError(
        f"{found} in {len(records)} records: nothing can be held out for evaluation",
        expected="at least two different texts with the same label",
        fix="name an eval file in data.eval, or set data.eval_fraction: 0 to train without evaluation",
        where=records[0].file if records else "",
    )


def _groups(records: Sequence[Record]) -> list[Group]:
    by_key: dict[Hashable, Group] = defaultdict(list)
    for at, record in enumerate(records):
        by_key[content_key(record)].append(at)
    return list(by_key.values())


def _rank(seed: int, *parts: str) -> bytes:
    return hashlib.sha256("\0".join((str(seed), *parts)).encode("utf-8", "surrogatepass")).digest()


def _strata(records: Sequence[Record], groups: Sequence[Group], seed: int, stratify: bool) -> list[list[Group]]:
    """Groups by their set of labels, each stratum and the strata themselves in hashed order."""
    strata: dict[tuple[str, ...], list[Group]] = defaultdict(list)
    for group in groups:
        labels = {label for at in group for label in labels_of(records[at])} if stratify else ()
        strata[tuple(sorted(labels))].append(group)
    for members in strata.values():
        members.sort(key=lambda group: _rank(seed, *content_key(records[group[0]])))
    return [strata[labels] for labels in sorted(strata, key=lambda labels: _rank(seed, "stratum", *labels))]


def _choose(strata: Sequence[list[Group]], wanted: int) -> list[Group]:
    """Groups for eval: the whole part of each stratum's share, then the largest remainders."""
    sizes = [sum(map(len, stratum)) for stratum in strata]
    shares = [wanted * size / sum(sizes) for size in sizes]
    quotas = [int(share) for share in shares]
    by_remainder = sorted(range(len(strata)), key=lambda at: quotas[at] - shares[at])
    for at in by_remainder[: wanted - sum(quotas)]:
        quotas[at] += 1
    return [group for stratum, quota in zip(strata, quotas, strict=True) for group in _fill(stratum, quota)]


def _fill(stratum: Sequence[Group], quota: int) -> list[Group]:
    taken: list[Group] = []
    left = quota
    for group in stratum:
        if len(group) <= left:
            taken.append(group)
            left -= len(group)
    return taken


def _without_unseen(records: Sequence[Record], chosen: Sequence[Group], stratify: bool) -> set[int]:
    """Positions for eval, less those groups that would take a label away from train altogether."""
    left: Counter[str] = Counter()
    if stratify:
        left = Counter(label for record in records for label in labels_of(record))
    held_out: set[int] = set()
    spare = len(records)
    for group in chosen:
        taken: Mapping[str, int] = (
            Counter(label for at in group for label in labels_of(records[at])) if stratify else {}
        )
        if len(group) < spare and all(left[label] > count for label, count in taken.items()):
            left.subtract(taken)
            held_out.update(group)
            spare -= len(group)
    return held_out

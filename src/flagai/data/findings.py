"""What an audit found, as plain values: to keep, to print, to stop a run by. Knows not how it was found."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from flagai.errors import ConfigError, DataError, unknown_name

SEVERITY: Final = ("target cut", "tokens lost", "unknown label", "conflicting label", "empty text")
"""the reasons of problems, from the gravest on"""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One record with something wrong."""

    split: str
    where: str
    text: str
    """the beginning of the text"""
    reason: str
    """one of `SEVERITY`"""
    tokens_lost: int = 0
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class TokenAudit:
    """Lengths in tokens, special tokens counted. Lengths of records are those before cutting."""

    read: int
    """tokens that the model reads, over all windows"""
    total: int
    """sum of the records' lengths before cutting; tokens that windows share count once"""
    mean: float
    p95: int
    """the smallest length that at least 95 % of the records do not exceed"""
    max: int
    lost: int
    lost_share: float
    """lost / total"""
    windows: int
    records_in_windows: int
    """records of more than one window"""
    records_truncated: int
    targets_cut: int
    """records whose label, entity or answer is cut"""
    records_losing: int
    """records that are truncated or whose target is cut"""


@dataclass(frozen=True, kw_only=True)
class SplitAudit:
    """The findings in one split."""

    records: int
    tokens: TokenAudit | None
    """None without `encode`"""
    empty: int
    duplicates: int
    """records whose text stood before in the split (after `text.normalize`); empty texts do not count"""
    conflicts: int
    """different texts that stand there with more than one label"""
    conflict_records: int
    """records of these texts"""
    unlabelled: int
    labels: Mapping[str, int]
    unknown_labels: Mapping[str, int]
    """labels outside of the table (without one: outside of train) and how often they stand there"""
    unknown_records: int


@dataclass(frozen=True, kw_only=True)
class Leak:
    """Texts of one split that stand in another as well."""

    source: str
    target: str
    records: int
    """records of `target` whose text is in `source`"""
    share: float
    examples: tuple[tuple[str, str, str], ...]
    """(place in source, place in target, beginning of the text)"""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The findings in all splits; `worst` from the gravest on."""

    splits: Mapping[str, SplitAudit]
    leaks: tuple[Leak, ...]
    worst: tuple[Problem, ...]
    max_length: int | None

    def to_json(self) -> dict[str, Any]:
        """Plain values, for data.json and the report."""
        return dataclasses.asdict(self)

    def shares(self, split: str) -> dict[str, float]:
        """The share of a split's records with each kind of problem; "lost" is tokens or target lost."""
        found = self.splits[split]
        tokens = found.tokens
        leaks = sum(leak.records for leak in self.leaks if leak.target == split and leak.source == "train")
        counts = {
            "lost": tokens.records_losing if tokens else 0,
            "tokens_lost": tokens.records_truncated if tokens else 0,
            "target_cut": tokens.targets_cut if tokens else 0,
            "empty": found.empty,
            "duplicates": found.duplicates,
            "conflicts": found.conflict_records,
            "unknown_labels": found.unknown_records,
            "leaks": leaks,
        }
        return {name: count / found.records if found.records else 0.0 for name, count in counts.items()}

    def check(self, fail_above: float | Mapping[str, float]) -> None:
        """Raise if too large a share of some split's records has a problem.

        Args:
            fail_above: the largest share, 0 to 1, of records that may lose tokens or a part of their target; or
                {kind: share} with the kinds of `shares`.

        Raises:
            DataError: a share is above.
            ConfigError: an unknown kind, or a number that is no share.
        """
        limits = fail_above if isinstance(fail_above, Mapping) else {"lost": fail_above}
        for split in self.splits:
            shares = self.shares(split)
            for kind, limit in limits.items():
                if kind not in shares:
                    raise unknown_name("kind of problem", kind, shares, where="data.audit.fail_above")
                if not 0 <= limit <= 1:
                    raise ConfigError(
                        f"a share of {limit}", expected="a number from 0 to 1", where="data.audit.fail_above"
                    )
                if shares[kind] > limit:
                    raise self._failure(split, kind, shares[kind], limit)

    def _failure(self, split: str, kind: str, share: float, limit: float) -> DataError:
        what, fix = _KINDS[kind]
        reasons = _REASONS.get(kind, ())
        first = next((item for item in self.worst if item.split == split and item.reason in reasons), None)
        count = round(share * self.splits[split].records)
        limited = f" with a max_length of {self.max_length}" if self.max_length and fix == _LONGER else ""
        return DataError(
            f"{count:,} of {self.splits[split].records:,} {split} records ({_percent(share)}) {what}{limited}",
            expected=f"at most {_percent(limit)}, as data.audit.fail_above says",
            fix=f"{fix}, or set data.audit.fail_above higher",
            where=first.where if first else "",
        )

    def lines(self) -> list[str]:
        """The findings in lines for a terminal."""
        found = [line for split, audit in self.splits.items() for line in _split_lines(split, audit)]
        found += [
            f"leak: {leak.records:,} of the {leak.target} texts ({_percent(leak.share)}) are also in {leak.source}, "
            f"for example {leak.examples[0][1] or leak.target} = {leak.examples[0][0] or leak.source}"
            for leak in self.leaks
        ]
        if self.worst:
            found.append(f"worst {len(self.worst)} records:")
            found += [
                f"  {item.where or item.split}  {item.reason}{_in_brackets(item.detail)}  {item.text}"
                for item in self.worst
            ]
        return found


_LONGER: Final = "raise data.max_length, or set data.stride to read long texts in windows"
_KINDS: Final[dict[str, tuple[str, str]]] = {
    "lost": ("lose tokens or a part of their target", _LONGER),
    "tokens_lost": ("lose tokens", _LONGER),
    "target_cut": ("lose a part of their target", _LONGER),
    "empty": ("have no text", "remove these rows"),
    "duplicates": ("repeat an earlier text", "remove the repetitions"),
    "conflicts": ("have a text that stands there with another label too", "decide for one label a text"),
    "unknown_labels": ("have a label outside of the table", "correct the labels, or add them to task.labels"),
    "leaks": ("stand in train as well", "remove them from train"),
}
_REASONS: Final[dict[str, tuple[str, ...]]] = {
    "lost": ("target cut", "tokens lost"),
    "tokens_lost": ("tokens lost", "target cut"),
    "target_cut": ("target cut",),
    "empty": ("empty text",),
    "conflicts": ("conflicting label",),
    "unknown_labels": ("unknown label",),
}


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.1f} %"


def _in_brackets(detail: str) -> str:
    return f" ({detail})" if detail else ""


def _split_lines(split: str, audit: SplitAudit) -> list[str]:
    head = f"{split}: {audit.records:,} records"
    tokens = audit.tokens
    if tokens is None:
        lines = [head]
    else:
        lines = [
            f"{head}, {tokens.total:,} tokens (mean {tokens.mean:.1f}, 95 % up to {tokens.p95}, longest {tokens.max})"
        ]
        if tokens.lost or tokens.targets_cut:
            lines.append(
                f"  {tokens.lost:,} tokens lost ({_percent(tokens.lost_share)}) "
                f"in {tokens.records_truncated:,} records; "
                f"{tokens.targets_cut:,} records lose a part of their target"
            )
        if tokens.records_in_windows:
            lines.append(f"  {tokens.records_in_windows:,} long records in windows, {tokens.windows:,} windows in all")
    counts = (
        (audit.empty, "without text"),
        (audit.duplicates, "duplicates"),
        (audit.conflicts, "texts with more than one label"),
        (audit.unlabelled, "without label"),
        (audit.unknown_records, "with an unknown label: " + ", ".join(map(repr, list(audit.unknown_labels)[:5]))),
    )
    if said := "; ".join(f"{count:,} {what}" for count, what in counts if count):
        lines.append("  " + said)
    if audit.labels:
        ranked = sorted(audit.labels.items(), key=lambda item: -item[1])
        rare = f" … {ranked[-1][0]} {ranked[-1][1]:,}" if len(ranked) > 4 else ""
        shown = ", ".join(f"{label} {count:,}" for label, count in ranked[:4])
        lines.append(f"  {len(ranked)} label{'s' if len(ranked) != 1 else ''}: {shown}{rare}")
    return lines

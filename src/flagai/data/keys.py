"""When two records are the same text, and which labels a record has: one definition for the audit and for splits."""

from __future__ import annotations

from flagai.data.record import Record
from flagai.text import normalize


def content_key(record: Record) -> tuple[str, str]:
    """What two duplicates share: the normalised text and second text; ("", "") where there is no text at all."""
    pair = record.get("text_pair")
    return normalize(record.text), normalize(pair) if pair else ""


def labels_of(record: Record) -> list[str]:
    """The names of a record's labels, one for each entity or class; a real number is a score and no label."""
    label = record.get("label")
    if label is None or isinstance(label, float):
        return []
    items = label if isinstance(label, list) else [label]
    return [str(item["label"] if isinstance(item, dict) else item) for item in items]

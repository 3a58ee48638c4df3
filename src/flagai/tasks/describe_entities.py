"""Found entities beside gold ones → the task's part of a report. Knows no tags, no tokens and no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flagai.data.record import Record
from flagai.tasks.describe import confident_errors
from flagai.tasks.results import Entity

Triple = tuple[int, int, str]


def describe_entities(
    results: Sequence[Sequence[Entity]], golds: Sequence[Sequence[Triple]], records: Sequence[Record]
) -> dict[str, Any]:
    """Intervals, a row for each type, and the texts with the most confident wrong entity first."""
    from flagai.measure.entities import entity_intervals, entity_table

    found = [[(entity.start, entity.end, entity.label) for entity in result] for result in results]
    wrong = [
        (_confidence(result, gold), _parts(gold), _parts(triples), record)
        for result, gold, triples, record in zip(results, golds, found, records, strict=True)
        if set(gold) != set(triples)
    ]
    return {
        "intervals": entity_intervals(golds, found),
        "confusion": None,
        "per_label": entity_table(golds, found),
        "errors": confident_errors(wrong),
    }


def _confidence(result: Sequence[Entity], gold: Sequence[Triple]) -> float:
    """The highest probability of an entity that is not there; 0 where entities are only missing."""
    right = set(gold)
    return max((e.score for e in result if (e.start, e.end, e.label) not in right), default=0.0)


def _parts(entities: Sequence[Triple]) -> list[dict[str, Any]]:
    return [{"start": start, "end": end, "label": label} for start, end, label in entities]

"""Written answers beside their references: what the report keeps of them, from plain lists. It draws nothing.

It knows no model and no task; how texts are compared is `measure/generation.py`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from flagai.measure.generation import SEGMENTATION, References, record_scores, units
from flagai.report.numbers import nice_ticks

MOST_SAMPLES: Final = 24
_BINS: Final = 12
_SHOWN: Final = ("rouge_1", "rouge_l")


def writing_part(
    sources: Sequence[str], gold: References, predicted: Sequence[str], where: Sequence[str] | None = None
) -> dict[str, Any]:
    """The report's `writing` (`schema.WritingPart`) of one split.

    Args:
        sources, gold, predicted: one each a record, in order; `gold` as of `measure.generation`.
        where: file:line of each record.

    The samples are records evenly spread over the split, not picked by their scores: they show the usual answer.
    Raises DataError for lists of different length, no records, or a record without a reference.
    """
    scores = record_scores(gold, predicted)
    golds = [[entry] if isinstance(entry, str) else list(entry) for entry in gold]
    lengths = {
        "source": [len(units(text)) for text in sources],
        "reference": [len(units(references[0])) for references in golds],
        "predicted": [len(units(text)) for text in predicted],
    }
    return {
        "segmentation": SEGMENTATION,
        "samples": [
            {
                "source": sources[at],
                "references": golds[at],
                "predicted": predicted[at],
                "scores": {name: float(scores[name][at]) for name in _SHOWN},
                "where": where[at] if where else "",
            }
            for at in _spread(len(golds))
        ],
        "lengths": {
            "source": _histogram([lengths["source"]], ["source"]),
            "answer": _histogram([lengths["reference"], lengths["predicted"]], ["reference", "predicted"]),
        },
        "empty": sum(not text.strip() for text in predicted),
    }


def _spread(count: int) -> list[int]:
    """At most `MOST_SAMPLES` places in a row of `count`, as far apart as they can be."""
    shown = min(count, MOST_SAMPLES)
    return [at * count // shown for at in range(shown)]


def _histogram(columns: Sequence[Sequence[int]], names: Sequence[str]) -> dict[str, Any]:
    """How many lengths lie in each bin: `edges` [B + 1], `counts` name → [B]; a bin holds its lower edge alone."""
    most = max((max(column, default=0) for column in columns), default=0)
    ticks = nice_ticks(0, max(most, _BINS), _BINS)
    width = max(1, round(ticks[1] - ticks[0]))
    bins = most // width + 1
    counts = {}
    for name, column in zip(names, columns, strict=True):
        row = [0] * bins
        for length in column:
            row[length // width] += 1
        counts[name] = row
    return {"edges": [width * at for at in range(bins + 1)], "counts": counts}

"""Entities drawn as marks inside their text, nested ones too, gold against predicted. It knows no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flagai.report.markup import Html, el, join


@dataclass(frozen=True, order=True)
class Mark:
    """A span of the text, `end` exclusive, and what became of it: "right", "missed" or "spurious"."""

    start: int
    end: int
    label: str
    kind: str


def is_spans(answer: Any) -> bool:
    """Whether an answer is a list of `{start, end, label}`."""
    return (
        isinstance(answer, list | tuple)
        and bool(answer)
        and all(isinstance(a, Mapping) and "start" in a for a in answer)
    )


def compare(gold: Sequence[Mapping[str, Any]], predicted: Sequence[Mapping[str, Any]]) -> tuple[list[Mark], list[Mark]]:
    """The marks of the gold row (right or missed) and of the predicted row (right or spurious)."""
    g, p = ({(int(s["start"]), int(s["end"]), str(s["label"])) for s in spans} for spans in (gold, predicted))
    return (
        [Mark(*span, "right" if span in p else "missed") for span in sorted(g)],
        [Mark(*span, "right" if span in g else "spurious") for span in sorted(p)],
    )


def highlighted(text: str, marks: Sequence[Mark]) -> Html:
    """The text with its marks as nested `<mark>` elements.

    A span that only overlaps another (does not lie inside it) is drawn up to where the other ends: HTML cannot cross
    elements. Spans outside the text are left out.
    """
    inside = [m for m in marks if 0 <= m.start < m.end <= len(text)]
    return _draw(text, sorted(inside, key=lambda m: (m.start, -m.end, m.label)), 0, len(text))


def _draw(text: str, marks: list[Mark], start: int, end: int) -> Html:
    parts: list[object] = []
    at = start
    while marks:
        first, *rest = marks
        stop = min(first.end, end)
        inner = [m for m in rest if m.start < stop]
        marks = rest[len(inner) :]
        parts += [text[at : first.start], _mark(_draw(text, inner, first.start, stop), first)]
        at = stop
    return join(parts, text[at:end])


def _mark(content: Html, mark: Mark) -> Html:
    return el("mark", content, el("small", mark.label), class_=mark.kind)

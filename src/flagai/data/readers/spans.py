"""Entities written as offsets in JSON become checked {"start", "end", "label"}. Knows no tags and no model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeGuard

from flagai.data.readers.jsons import describe
from flagai.errors import DataError

_LABEL_KEYS: Final = ("label", "type", "entity_type", "entity_group", "tag")
_SURFACE_KEYS: Final = ("text", "surface", "word", "entity", "mention")
_SHAPES: Final = (
    '[{"start": 0, "end": 2, "label": "LOC"}], [[0, 2, "LOC"]] or, with inclusive ends, {"LOC": {"北京": [[0, 1]]}}'
)


def is_spans(value: Any) -> bool:
    """Whether a label has the shape of entities (an empty list has not: it may be no class label as well)."""
    if isinstance(value, Mapping):
        return all(isinstance(item, Mapping) for item in value.values())
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        return False
    return all(_is_span(item) for item in value)


def _is_span(item: Any) -> bool:
    if isinstance(item, Mapping):
        return "start" in item and "end" in item
    return isinstance(item, list) and len(item) == 3 and isinstance(item[2], str)


def spans_of(value: Any, text: str, where: str) -> list[dict[str, Any]]:
    """The entities of one text, sorted, with exclusive ends in code points.

    Args:
        value: a list of {"start", "end", "label"}, a list of [start, end, label], or CLUENER's
            {label: {surface: [[start, inclusive end]]}}.
        text: what the offsets count in.
        where: place, for messages.

    Raises:
        DataError: another shape, offsets outside of the text, or a surface that is not what stands there.
    """
    if isinstance(value, Mapping):
        found = list(_cluener(value, text, where))
    elif isinstance(value, list):
        found = [_span(item, text, where) for item in value]
    else:
        raise _shape(value, where)
    return sorted(found, key=lambda span: (span["start"], span["end"], span["label"]))


def _shape(value: Any, where: str) -> DataError:
    return DataError(f"entities are {describe(value)}", expected=_SHAPES, fix="correct this row", where=where)


def _cluener(value: Mapping[str, Any], text: str, where: str) -> Iterator[dict[str, Any]]:
    for label, surfaces in value.items():
        if not isinstance(surfaces, Mapping):
            raise _shape(value, where)
        for surface, places in surfaces.items():
            for place in places if isinstance(places, list) else [places]:
                if not isinstance(place, list) or len(place) != 2 or not all(_is_int(at) for at in place):
                    raise _shape(value, where)
                yield _checked(place[0], place[1] + 1, label, surface, text, where)


def _span(item: Any, text: str, where: str) -> dict[str, Any]:
    if isinstance(item, list) and len(item) == 3:
        start, end, label, surface = *item, None
    elif isinstance(item, Mapping):
        label = next((item[key] for key in _LABEL_KEYS if key in item), None)
        surface = next((item[key] for key in _SURFACE_KEYS if isinstance(item.get(key), str)), None)
        start, end = item.get("start"), item.get("end")
    else:
        raise _shape(item, where)
    if not (_is_int(start) and _is_int(end)) or not isinstance(label, str) or not label:
        raise _shape(item, where)
    return _checked(start, end, label, surface, text, where)


def _is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _checked(start: int, end: int, label: str, surface: str | None, text: str, where: str) -> dict[str, Any]:
    there = text[max(start, 0) : max(end, 0)]
    if surface is not None and there != surface:
        raise DataError(
            f"the {label} entity at {start}:{end} is {there!r}, and its text is given as {surface!r}",
            expected="offsets that count Unicode code points from 0, the end exclusive (in CLUENER's form inclusive)",
            fix=_offset_advice(start, end, surface, text),
            where=where,
        )
    if not 0 <= start < end <= len(text):
        raise DataError(
            f"the {label} entity {start}:{end} is not in the text, which has {len(text)} characters",
            expected=f"0 <= start < end <= {len(text)}, in Unicode code points, the end exclusive",
            fix="correct the offsets of this row",
            where=where,
        )
    return {"start": start, "end": end, "label": label}


def _offset_advice(start: int, end: int, surface: str, text: str) -> str:
    """Which other way of counting would make the offsets right."""
    if text[start : end + 1] == surface:
        return "the end is inclusive here: add 1 to every end"
    for name, codec, width in (("UTF-16 units", "utf-16-le", 2), ("UTF-8 bytes", "utf-8", 1)):
        data = text.encode(codec, "surrogatepass")
        if data[start * width : end * width] == surface.encode(codec, "surrogatepass"):
            return f"the offsets count {name} here: convert them to code points"
    if start and text[start - 1 : end - 1] == surface:
        return "the offsets count from 1 here: subtract 1 from start and end"
    at = text.find(surface)
    return f"it stands at {at}:{at + len(surface)}" if at >= 0 else "it stands nowhere in the text"

"""The most confident errors as cards: text, right answer, wrong answer. It knows no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flagai.report.markup import Html, breakable, el, join
from flagai.report.numbers import columns_of, is_number, percent, plain
from flagai.report.spans import compare, highlighted, is_spans
from flagai.report.words import Say

_OPEN_CARDS = 10
_LONG_TEXT = 360
"""in columns: a Chinese character takes two"""
_LONGEST_TEXT = 6000


def mistakes(report: Mapping[str, Any], say: Say) -> Html:
    """The errors of the report in their order, ten open and the rest folded; empty where there are none."""
    rows = report.get("errors") or []
    if not rows:
        return Html("")
    cards = [_card(row, say) for row in rows]
    rest = cards[_OPEN_CARDS:]
    return join(
        el("p", say("errors_note"), _key(say) if any(map(_has_spans, rows)) else None, class_="hint"),
        el("ol", cards[:_OPEN_CARDS], class_="errors"),
        el("details", el("summary", say("more_errors").format(count=len(rest))),
           el("ol", rest, class_="errors", start=_OPEN_CARDS + 1)) if rest else None,
    )  # fmt: skip


def _card(row: Mapping[str, Any], say: Say) -> Html:
    certainty = _certainty(row, say)
    foot = [
        el("span", certainty) if certainty else None,
        el("span", row["where"], class_="where") if row.get("where") else None,
    ]
    body = _entities(row, say) if _has_spans(row) else _labels(row, say)
    return el("li", body, el("p", foot, class_="foot") if any(foot) else None)


def _certainty(row: Mapping[str, Any], say: Say) -> str:
    """How sure the model was; of two numbers how far they are apart."""
    gold, predicted, score = row.get("gold"), row.get("predicted"), row.get("score")
    if is_number(gold) and is_number(predicted):
        return f"{say('difference')} {plain(abs(gold - predicted))}"
    return f"{say('confidence')} {percent(score, 0)}" if is_number(score) else ""


def _has_spans(row: Mapping[str, Any]) -> bool:
    return is_spans(row.get("gold")) or is_spans(row.get("predicted"))


def _labels(row: Mapping[str, Any], say: Say) -> Html:
    texts = [passage(row.get("text"), say)]
    if row.get("text_pair"):
        texts.append(passage(row["text_pair"], say))
    answers = [
        el("dt", say("gold")), el("dd", breakable(_answer(row.get("gold"), say)), class_="right"),
        el("dt", say("predicted")), el("dd", breakable(_answer(row.get("predicted"), say)), class_="wrong"),
    ]  # fmt: skip
    return join(texts, el("dl", answers))


def _entities(row: Mapping[str, Any], say: Say) -> Html:
    text = str(row.get("text") or "")
    gold, predicted = compare(row.get("gold") or [], row.get("predicted") or [])
    lines = [(say("gold"), highlighted(text, gold)), (say("predicted"), highlighted(text, predicted))]
    return el(
        "dl", [(el("dt", name), el("dd", line, class_="text", dir="auto")) for name, line in lines], class_="spans"
    )


def _key(say: Say) -> Html:
    return el("span", [el("mark", say(kind), class_=kind) for kind in ("right", "missed", "spurious")], class_="key")


def _answer(answer: Any, say: Say) -> str:
    if isinstance(answer, Sequence) and not isinstance(answer, str):
        return ", ".join(map(str, answer)) or say("nothing")
    if answer is None or answer == "":
        return say("nothing")
    return plain(answer) if is_number(answer) else str(answer)


def passage(value: Any, say: Say) -> Html:
    """A text in full if it is short, else its beginning with the whole folded behind it."""
    text = str(value if value is not None else "")
    limit = _characters_in(text, _LONG_TEXT)
    if len(text) <= limit:
        return el("p", text, class_="text", dir="auto")
    whole = text[:_LONGEST_TEXT]
    if len(text) > _LONGEST_TEXT:
        whole += say("cut_here").format(count=plain(len(text) - _LONGEST_TEXT))
    begin = el("span", text[:limit].rstrip() + "… ", el("u", say("whole_text")), class_="begin")
    return el("details", el("summary", begin), el("p", whole, class_="text", dir="auto"), class_="long", dir="auto")


def _characters_in(text: str, columns: int) -> int:
    """How many characters of the text fill so many columns."""
    for i, character in enumerate(text[: columns + 1]):
        columns -= columns_of(character)
        if columns < 0:
            return i
    return len(text)

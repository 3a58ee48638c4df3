"""The section on written answers: samples beside references, lengths, how texts were compared. It measures nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flagai.report.bars import bar_chart
from flagai.report.markup import Html, el, join
from flagai.report.mistakes import passage
from flagai.report.numbers import is_number, metric_value, percent, plain
from flagai.report.reading import headline_of
from flagai.report.words import Say

_OPEN_CARDS = 8


def written(report: Mapping[str, Any], say: Say) -> Html:
    """Samples, eight open and the rest folded; lengths of sources and answers; empty where nothing was written."""
    part = report.get("writing") or {}
    if not part:
        return Html("")
    facts = [_segmentation(part, say), _cut(report, say), _empty(part, say)]
    return join(
        el("p", say("samples_note"), class_="hint") if part.get("samples") else None,
        _samples(part.get("samples") or [], say),
        _lengths(part.get("lengths") or {}, say),
        [el("p", fact, class_="hint") for fact in facts if fact],
    )


def sources_cut(report: Mapping[str, Any]) -> tuple[int, int, str]:
    """(sources that lost tokens, records, split) of the split that the headline is on, as the audit counted them."""
    _, split = headline_of(report)
    audit = ((report.get("data") or {}).get("audit") or {}).get("splits") or {}
    found = audit.get(split) or {}
    cut = (found.get("tokens") or {}).get("records_truncated")
    return (int(cut) if is_number(cut) else 0), found.get("records") or 0, split


def _samples(rows: Sequence[Mapping[str, Any]], say: Say) -> Html:
    if not rows:
        return Html("")
    cards = [_card(row, say) for row in rows]
    rest = cards[_OPEN_CARDS:]
    return join(
        el("ol", cards[:_OPEN_CARDS], class_="errors samples"),
        el("details", el("summary", say("more_samples").format(count=len(rest))),
           el("ol", rest, class_="errors samples", start=_OPEN_CARDS + 1)) if rest else None,
    )  # fmt: skip


def _card(row: Mapping[str, Any], say: Say) -> Html:
    references = row.get("references") or []
    name = say("reference") if len(references) == 1 else say("references")
    answer = str(row.get("predicted") or "")
    answer = answer if answer.strip() else say("nothing")
    lines = el(
        "dl",
        el("dt", name), [el("dd", reference, class_="reference", dir="auto") for reference in references],
        el("dt", say("written_answer")), el("dd", answer, class_="answer", dir="auto"),
    )  # fmt: skip
    scores = " · ".join(f"{say(key)} {metric_value(key, value)}" for key, value in (row.get("scores") or {}).items())
    foot = [
        el("span", scores) if scores else None,
        el("span", row["where"], class_="where") if row.get("where") else None,
    ]
    return el("li", passage(row.get("source"), say), lines, el("p", foot, class_="foot") if any(foot) else None)


def _lengths(parts: Mapping[str, Any], say: Say) -> Html:
    charts = [
        bar_chart(
            say(f"lengths_{key}"),
            part.get("edges") or [],
            {say(f"{name}_lengths"): counts for name, counts in (part.get("counts") or {}).items()},
            x_name=say("length_units"),
        )
        for key, part in parts.items()
    ]
    return join(el("h3", say("lengths")), el("div", charts, class_="charts")) if any(charts) else Html("")


def _segmentation(part: Mapping[str, Any], say: Say) -> str:
    return f"{say('segmentation')}: {part['segmentation']}." if part.get("segmentation") else ""


def _cut(report: Mapping[str, Any], say: Say) -> str:
    cut, records, split = sources_cut(report)
    if not records:
        return ""
    share = percent(cut / records)
    return say("sources_cut").format(cut=plain(cut), records=plain(records), share=share, split=say(split))


def _empty(part: Mapping[str, Any], say: Say) -> str:
    return say("note_empty").format(count=plain(part["empty"])) if part.get("empty") else ""

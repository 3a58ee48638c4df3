"""The top of the page: title, headline number, what is worth knowing, and the table of metrics. It draws no data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from flagai.report.audit import leaked, lost_share, targets_cut
from flagai.report.charts import whisker
from flagai.report.markup import Html, el, join
from flagai.report.numbers import interval, is_number, is_share, less_is_better, metric_value, percent, plain
from flagai.report.reading import baseline_value, headline_of, metrics_of, records_of
from flagai.report.words import Say

_SMALL_SPLIT = 300
_LOST_WORTH_SAYING = 0.0005


def head(report: Mapping[str, Any], say: Say) -> Html:
    """Title, task, model, moment and status; what the report lacks is left out."""
    status = str(report.get("status") or "")
    facts = [report.get("task"), report.get("model"), _moment(report.get("created"))]
    return el(
        "header",
        el("p", say("report"), class_="eyebrow"),
        el("h1", report.get("title") or say("report")),
        el(
            "p",
            [el("span", fact) for fact in facts if fact],
            el("span", say(status), class_=f"status {'good' if status == 'finished' else 'warn'}") if status else None,
            class_="facts",
        ),
    )


def headline(report: Mapping[str, Any], say: Say) -> Html:
    """The best metric on the split that counts, large, with its interval and the baseline."""
    name, split = headline_of(report)
    if not name:
        return Html("")
    measured = metrics_of(report)[split][name]
    records = records_of(report, split)
    where = "headline_on" if records else "headline_on_split"
    band = interval(name, measured)
    base = baseline_value(report, name)
    return el(
        "div",
        el("p", say(name), " ", el("span", say(where).format(split=say(split), records=plain(records))), class_="what"),
        el("p", metric_value(name, measured.get("value")), class_="number"),
        el("p", say("interval_95").format(interval=band), class_="band") if band else None,
        el("p", f"{_baseline_name(report, say)} {metric_value(name, base)}", class_="band")
        if base is not None
        else None,
        class_="headline",
    )


def notes(report: Mapping[str, Any], say: Say) -> Html:
    """What a reader should know before believing the numbers, found in the report itself."""
    found = [note for note in (_status(report, say), *_audit_notes(report, say), _zero_labels(report, say),
             _empty_answers(report, say), _small_split(report, say), _baseline_note(report, say)) if note]  # fmt: skip
    if not found:
        return Html("")
    return el("aside", el("h2", say("worth_knowing")), el("ul", [el("li", note) for note in found]), class_="notes")


def metrics_table(report: Mapping[str, Any], say: Say) -> Html:
    """Metrics in rows, splits in columns, each value with its interval as words and as a line."""
    splits = metrics_of(report)
    if not splits:
        return Html("")
    names = list(dict.fromkeys(name for table in splits.values() for name in table))
    best, shown = headline_of(report)
    bases = {name: baseline_value(report, name) for name in names}
    base = any(value is not None for value in bases.values())
    floor = _floor(splits)
    marked = any(value is not None and is_share(name) and value >= floor for name, value in bases.items())
    rows = []
    for name in names:
        cells = [
            _cell(name, t.get(name), bases[name] if split == shown else None, floor) for split, t in splits.items()
        ]
        extra = el("td", metric_value(name, bases[name]), class_="n") if base else None
        rows.append(el("tr", el("th", say(name), scope="row"), cells, extra, class_="best" if name == best else None))
    titles = [say("metric"), *(say(split) for split in splits), *([_baseline_name(report, say)] if base else [])]
    head_row = el("tr", [el("th", t, scope="col", class_="n" if i else None) for i, t in enumerate(titles)])
    table = el("table", el("thead", head_row), el("tbody", rows), class_="metrics")
    return join(el("div", table, class_="scroll"), _legend(splits, floor, say, marked))


def _floor(splits: Mapping[str, Mapping[str, Any]]) -> float:
    """Where the lines of all intervals begin: the tenth below the smallest value, so that lines can be compared."""
    values = [m["low"] for t in splits.values() for name, m in t.items() if is_share(name) and is_number(m.get("low"))]
    return max(0.0, math.floor(min(values, default=0.0) * 10 - 0.5) / 10)


def _legend(splits: Mapping[str, Mapping[str, Any]], floor: float, say: Say, base: bool) -> Html:
    banded = [name for table in splits.values() for name, m in table.items() if interval(name, m)]
    if not banded:
        return Html("")
    parts = [say("interval_note")]
    if any(map(is_share, banded)):
        parts.append(say("whisker_scale").format(low=percent(floor, 0), high=percent(1, 0)))
        parts += [say("baseline_mark")] if base else []
    return el("p", " ".join(parts), class_="hint")


def _baseline_name(report: Mapping[str, Any], say: Say) -> str:
    return str((report.get("baseline") or {}).get("name") or say("baseline"))


def _cell(name: str, measured: Mapping[str, Any] | None, baseline: float | None, floor: float) -> Html:
    if not measured:
        return el("td", metric_value(name, None), class_="n")
    band = interval(name, measured)
    drawn = None
    if band and is_share(name):
        # A baseline left of the scale would only be drawn at a wrong place; its number stands in its column.
        mark = baseline if baseline is not None and baseline >= floor else None
        drawn = whisker(measured["low"], measured["value"], measured["high"], of=(floor, 1.0), baseline=mark)
    return el(
        "td", el("b", metric_value(name, measured.get("value"))), drawn, el("small", band) if band else None, class_="n"
    )


def _moment(created: Any) -> str:
    """ISO 8601 without fractions of a second: "2026-11-23 17:05 +00:00" reads better than its full form."""
    return str(created)[:16].replace("T", " ") if created else ""


def _status(report: Mapping[str, Any], say: Say) -> str:
    status = report.get("status")
    return say("note_status").format(status=say(str(status))) if status and status != "finished" else ""


def _audit_notes(report: Mapping[str, Any], say: Say) -> list[str]:
    audit = (report.get("data") or {}).get("audit") or {}
    leaks, lost, cut = leaked(audit), lost_share(audit), targets_cut(audit)
    found = [say("note_leaks").format(count=plain(leaks))] if leaks else []
    found += [say("note_lost").format(share=percent(lost))] if lost >= _LOST_WORTH_SAYING else []
    return found + ([say("note_cut").format(count=plain(cut))] if cut else [])


def _zero_labels(report: Mapping[str, Any], say: Say) -> str:
    zero = [str(row["label"]) for row in report.get("per_label") or [] if row.get("support") and row.get("f1") == 0]
    if not zero:
        return ""
    listed = ", ".join(zero[:5]) + (", …" if len(zero) > 5 else "")
    return say("note_zero_one" if len(zero) == 1 else "note_zero").format(count=len(zero), labels=listed)


def _empty_answers(report: Mapping[str, Any], say: Say) -> str:
    empty = (report.get("writing") or {}).get("empty")
    return say("note_empty").format(count=plain(empty)) if is_number(empty) and empty else ""


def _small_split(report: Mapping[str, Any], say: Say) -> str:
    _, split = headline_of(report)
    records = records_of(report, split)
    if not is_number(records) or records >= _SMALL_SPLIT:
        return ""
    return say("note_small").format(split=say(split).capitalize(), records=records)


def _baseline_note(report: Mapping[str, Any], say: Say) -> str:
    name, split = headline_of(report)
    value = baseline_value(report, name)
    if value is None:
        return ""
    measured = metrics_of(report)[split][name]
    low, high = measured.get("low"), measured.get("high")
    if not (is_number(low) and is_number(high)):
        return ""
    inside = value <= high if less_is_better(name) else value >= low
    return say("note_baseline").format(value=metric_value(name, value)) if inside and low <= value <= high else ""

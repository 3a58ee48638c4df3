"""The table of labels and the confusion matrix. It knows counts, not records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flagai.report.heatmap import compact_heatmap, confused_pairs, full_heatmap
from flagai.report.markup import Html, breakable, el, join
from flagai.report.numbers import percent, plain
from flagai.report.words import Say

_OPEN_ROWS = 12
_MOST_PAIRS = 12
_FULL_MATRIX = 30


def label_table(report: Mapping[str, Any], say: Say) -> Html:
    """Weakest first; of many labels only the weakest stand open, all in a fold."""
    rows = sorted(
        report.get("per_label") or [], key=lambda r: (not r.get("support"), r.get("f1") or 0.0, str(r.get("label")))
    )
    if not rows:
        return Html("")
    if len(rows) <= _OPEN_ROWS + 3:
        how = el("span", " ", say("sort_hint"), class_="needs-js")
        return join(el("p", say("all_weakest_first"), how, class_="hint"), _rows(rows, say, sortable=True))
    hint = say("weakest_first").format(shown=_OPEN_ROWS, count=len(rows))
    summary = el("summary", say("all_labels").format(count=len(rows)))
    whole = el("details", summary, el("p", say("sort_hint"), class_="hint needs-js"), _rows(rows, say, sortable=True))
    return join(el("p", hint, class_="hint"), _rows(rows[:_OPEN_ROWS], say, sortable=False), whole)


def confusion(report: Mapping[str, Any], say: Say) -> Html:
    """A full heatmap of few labels; of many the most frequent confusions, and the matrix small."""
    part = report.get("confusion") or {}
    labels, matrix = part.get("labels") or [], part.get("matrix") or []
    if not labels or not any(map(sum, matrix)):
        return Html("")
    hint = el("p", say("matrix_note"), class_="hint")
    sides = {"gold": say("gold"), "predicted": say("predicted")}
    pairs = confused_pairs(labels, matrix)
    listed = (
        join(el("h3", say("top_confused")), _pairs(pairs[:_MOST_PAIRS], say)) if pairs else el("p", say("no_confusion"))
    )
    if len(labels) <= _FULL_MATRIX:
        picture = el("div", full_heatmap(labels, matrix, **sides), class_="scroll")
        return join(hint, el("div", picture, el("div", listed) if len(labels) > 2 else None, class_="matrix"))
    title = el("h3", say("whole_matrix").format(count=len(labels)))
    picture = el("div", title, compact_heatmap(labels, matrix, **sides))
    return join(hint, el("div", el("div", listed), picture, class_="two"))


def _rows(rows: Sequence[Mapping[str, Any]], say: Say, *, sortable: bool) -> Html:
    names = ("precision", "recall", "f1", "support")
    heads = [
        el("th", say("label"), scope="col"),
        [el("th", say(name), scope="col", class_=f"n {name}") for name in names],
    ]
    body = [
        el(
            "tr",
            el("th", breakable(row.get("label", "")), scope="row"),
            [el("td", percent(row.get(name)), class_=f"n {name}") for name in names[:2]],
            el("td", _bar(row.get("f1")), class_="n f1", data_value=row.get("f1")),
            el("td", plain(row.get("support")), class_="n"),
        )
        for row in rows
    ]
    return el(
        "div",
        el("table", el("thead", el("tr", heads)), el("tbody", body), class_="labels", data_sort=sortable),
        class_="scroll",
    )


def _bar(value: Any) -> Html:
    width = f"--v:{100 * (value or 0):.1f}%"
    return el("span", el("i", style=width), el("b", percent(value)), class_="bar")


def _pairs(pairs: Sequence[tuple[str, str, int, float]], say: Say) -> Html:
    heads = [(say("gold"), None), (say("predicted"), None), (say("count"), "n"), (say("share_of_gold"), "n")]
    body = [
        el(
            "tr",
            el("td", breakable(gold)),
            el("td", breakable(predicted)),
            el("td", plain(n), class_="n"),
            el("td", percent(share, 0), class_="n"),
        )
        for gold, predicted, n, share in pairs
    ]
    head = el("tr", [el("th", name, scope="col", class_=kind) for name, kind in heads])
    return el("div", el("table", el("thead", head), el("tbody", body), class_="pairs"), class_="scroll")

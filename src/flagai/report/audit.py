"""What the audit of the data found: a column a split, leaks, label counts, the worst records. It judges nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from flagai.report.markup import Html, breakable, el, join
from flagai.report.numbers import DASH, is_number, percent, plain
from flagai.report.words import Say

Part = Mapping[str, Any]

_COUNTS: Final = ("empty", "duplicates", "conflict_records", "unlabelled", "unknown_records")
_LENGTHS: Final = ("mean", "p95", "max")
_LOSSES: Final = ("lost", "records_truncated", "targets_cut", "records_in_windows")
_MOST_WORST = 20


def audit_section(audit: Part, say: Say) -> Html:
    """`Audit.to_json()` as tables; whatever is missing is left out."""
    splits = {name: part for name, part in (audit.get("splits") or {}).items() if isinstance(part, Mapping)}
    parts = (
        _findings(splits, audit.get("max_length"), say),
        _leaks(audit.get("leaks") or [], say),
        _fold(say("label_counts"), _label_counts(splits, say)),
        _fold(say("worst"), _worst(audit.get("worst") or [], say)),
    )
    return join(parts)


def leaked(audit: Part) -> int:
    """Records of other splits that stand in train as well."""
    return sum(leak.get("records") or 0 for leak in audit.get("leaks") or [] if leak.get("source") == "train")


def lost_share(audit: Part) -> float:
    """The share of all tokens that no window reads."""
    tokens = [part.get("tokens") or {} for part in (audit.get("splits") or {}).values()]
    total = sum(t.get("total") or 0 for t in tokens)
    return sum(t.get("lost") or 0 for t in tokens) / total if total else 0.0


def targets_cut(audit: Part) -> int:
    """Records whose label, entity or answer is cut."""
    return sum((part.get("tokens") or {}).get("targets_cut") or 0 for part in (audit.get("splits") or {}).values())


def _findings(splits: Mapping[str, Part], max_length: Any, say: Say) -> Html:
    """One row a finding, one column a split; what is zero in all of them is one line below instead of a row each."""
    if not splits:
        return Html("")
    tokens = {name: part.get("tokens") or {} for name, part in splits.items()}
    rows = [_row(say(f"tokens_{key}"), [tokens[name].get(key) for name in splits]) for key in _LENGTHS]
    quiet = []
    for table, keys, prefix in ((tokens, _LOSSES, "tokens_"), (splits, _COUNTS, "audit_")):
        for key in keys:
            values = [table[name].get(key) for name in splits]
            if any(values):
                rows.append(_row(say(prefix + key), values))
            elif any(map(is_number, values)):
                quiet.append(say(prefix + key))
    head = el("tr", el("th", scope="col"), [el("th", say(name), scope="col", class_="n") for name in splits])
    table = el("table", el("thead", head), el("tbody", rows))
    calm = el("p", say("audit_none").format(names=say("comma").join(quiet)), class_="hint") if quiet else None
    limit = el("p", say("audit_limit").format(limit=max_length), class_="hint") if max_length else None
    return join(el("div", table, class_="scroll") if any(rows) else None, calm, limit)


def _row(name: str, values: Sequence[Any]) -> Html:
    if not any(map(is_number, values)):
        return Html("")
    return el("tr", el("th", name, scope="row"), [el("td", plain(value), class_="n") for value in values])


def _leaks(leaks: Sequence[Part], say: Say) -> Html:
    if not leaks:
        return Html("")
    items = []
    for leak in leaks:
        names = {"source": say(str(leak.get("source"))), "target": say(str(leak.get("target")))}
        line = say("leak").format(count=plain(leak.get("records")), share=percent(leak.get("share")), **names)
        examples = [
            el("li", " · ".join(str(part) for part in example if part), class_="where")
            for example in leak.get("examples") or []
        ]
        items.append(el("li", line, el("ul", examples) if examples else None))
    return _fold(say("leaks"), el("ul", items, class_="plain-list"))


def _label_counts(splits: Mapping[str, Part], say: Say) -> Html:
    counts = {name: part.get("labels") or {} for name, part in splits.items()}
    first = next(iter(counts.values()), {})
    labels = list(dict.fromkeys(label for table in counts.values() for label in table))
    if not labels:
        return Html("")
    most = max((n for n in first.values() if is_number(n)), default=0) or 1
    labels.sort(key=lambda label: (-(first.get(label) or 0), label))
    rows = []
    for label in labels:
        bar = el("i", class_="meter", style=f"--v:{100 * (first.get(label) or 0) / most:.1f}%")
        cells = [el("td", plain(table.get(label, 0)), class_="n") for table in counts.values()]
        rows.append(el("tr", el("th", breakable(label), scope="row"), el("td", bar, class_="meter"), cells))
    names = [el("th", say(name), scope="col", class_="n") for name in counts]
    head = el("tr", el("th", say("label"), scope="col"), el("th", class_="meter"), names)
    return el("div", el("table", el("thead", head), el("tbody", rows), class_="counts"), class_="scroll tall")


def _worst(rows: Sequence[Part], say: Say) -> Html:
    if not rows:
        return Html("")
    items = []
    for row in rows[:_MOST_WORST]:
        detail = f" ({row['detail']})" if row.get("detail") else ""
        place = el("span", row.get("where") or row.get("split") or DASH, class_="where")
        what = el("span", say(str(row.get("reason") or "")), detail)
        items.append(el("li", el("p", row.get("text") or say("nothing"), class_="text", dir="auto"),
                        el("p", what, place, class_="foot")))  # fmt: skip
    return el("ol", items, class_="errors")


def _fold(title: str, content: Html) -> Html:
    return el("details", el("summary", title), content) if content else content

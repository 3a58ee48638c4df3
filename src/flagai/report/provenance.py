"""The lower half of the page: data and audit, speed, model, environment, configuration. It judges nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from flagai.report.audit import audit_section
from flagai.report.markup import Html, breakable, el, join
from flagai.report.numbers import DASH, count, duration, is_number, memory, percent, plain
from flagai.report.words import Say

_PLAIN_YAML: Final = re.compile(r"[A-Za-z_./][\w./ @+-]*")
_YAML_WORDS: Final = frozenset({"true", "false", "yes", "no", "on", "off", "null", "none", "~", "."})
_FORMATS: Final[dict[str, Callable[[Any], str]]] = {
    "seconds": duration,
    "useful_token_share": percent,
    "peak_memory_bytes": memory,
    "parameters": count,
    "trainable": count,
}


def data(report: Mapping[str, Any], say: Say) -> Html:
    """The files of the splits with their hashes, then the audit; empty where the report has neither."""
    part = report.get("data") or {}
    splits = part.get("splits") or {}
    audit = part.get("audit") or {}
    return join(
        _splits(splits, say) if splits else None,
        join(el("h3", say("audit")), audit_section(audit, say)) if audit else None,
    )


def speed(report: Mapping[str, Any], say: Say) -> Html:
    """The numbers of `Speed` as tiles, empty where nothing was measured."""
    return tiles(report.get("speed") or {}, say)


def repeat(report: Mapping[str, Any], say: Say) -> Html:
    """The command, and all that must be equal for the run to come out equal."""
    command, config = report.get("command"), report.get("config")
    facts = [
        join(el("h3", say(title)), facts_table(report[key], say))
        for key, title in (("model_info", "model"), ("environment", "environment"))
        if report.get(key)
    ]
    folded = el("details", el("summary", say("configuration")), el("pre", el("code", yaml(config)))) if config else None
    return join(
        el("pre", el("code", command), class_="command") if command else None,
        el("div", [el("div", part) for part in facts], class_="two") if facts else None,
        folded,
    )


def tiles(values: Mapping[str, Any], say: Say) -> Html:
    """Single values, large, with their name below."""
    shown = [(key, value) for key, value in values.items() if value is not None]
    if not shown:
        return Html("")
    return el(
        "dl", [el("div", el("dt", say(key)), el("dd", _shown(key, value))) for key, value in shown], class_="tiles"
    )


def facts_table(values: Mapping[str, Any], say: Say) -> Html:
    """Names and values in two columns; what is None is left out."""
    rows = [el("tr", el("th", say(k), scope="row"), el("td", _shown(k, v), class_="hash" if "sha256" in k else None))
            for k, v in values.items() if v is not None]  # fmt: skip
    return el("div", el("table", el("tbody", rows), class_="plain"), class_="scroll")


def _shown(key: str, value: Any) -> str:
    if key in _FORMATS:
        return _FORMATS[key](value)
    if isinstance(value, bool) or not is_number(value):
        return str(value)
    return percent(value) if key.endswith("_share") else plain(value)


def _splits(splits: Mapping[str, Any], say: Say) -> Html:
    heads = [(say("split"), None), (say("records"), "n"), (say("file_and_hash"), "file")]
    rows = []
    for name, part in splits.items():
        part = part or {}
        digest = el("span", part["sha256"], class_="hash") if part.get("sha256") else None
        file = el("td", breakable(part.get("file") or DASH), digest, class_="file")
        rows.append(el("tr", el("th", say(name), scope="row"), el("td", plain(part.get("records")), class_="n"), file))
    head = el("tr", [el("th", name, scope="col", class_=kind) for name, kind in heads])
    return el("div", el("table", el("thead", head), el("tbody", rows), class_="splits"), class_="scroll")


def yaml(value: Any, indent: int = 0) -> str:
    """A nested dict as YAML, for reading and copying; strings that YAML would read as something else are quoted."""
    if not isinstance(value, Mapping):
        return _scalar(value)
    lines = []
    for key, item in value.items():
        head = " " * indent + _scalar(str(key)) + ":"
        if isinstance(item, Mapping) and item:
            lines += [head, yaml(item, indent + 2)]
        else:
            lines.append(f"{head} {_scalar(item)}")
    return "\n".join(lines)


def _scalar(value: Any) -> str:
    safe = isinstance(value, str) and _PLAIN_YAML.fullmatch(value) and value.lower() not in _YAML_WORDS
    return value.strip() if safe and value == value.strip() else json.dumps(value, ensure_ascii=False, default=str)

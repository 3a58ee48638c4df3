"""One self-contained HTML page from a report, and its files. It knows the order of the sections, not their content."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from flagai.errors import OutputError
from flagai.report.labels import confusion, label_table
from flagai.report.markup import Html, el
from flagai.report.mistakes import mistakes
from flagai.report.overview import head, headline, metrics_table, notes
from flagai.report.provenance import data, repeat, speed
from flagai.report.training import curves
from flagai.report.words import Say, words
from flagai.report.written import written

_SECTIONS: Final[tuple[tuple[str, Callable[[Mapping[str, Any], Say], Html]], ...]] = (
    ("results", metrics_table),
    ("curves", curves),
    ("labels", label_table),
    ("confusion", confusion),
    ("errors", mistakes),
    ("samples", written),
    ("data", data),
    ("speed", speed),
    ("repeat", repeat),
)


def render(report: Mapping[str, Any]) -> str:
    """The page as one HTML text: no network, complete without its script. `report` is a `schema.Report`.

    A content security policy forbids every request and every script but ours, by its hash, so that not even a mistake
    in escaping could run what stands in a data file.
    """
    language = "zh" if str(report.get("language") or "en").lower().startswith("zh") else "en"
    say = words(language)
    style, script = _asset("style.css"), _asset("script.js")
    sections = [(key, content) for key, make in _SECTIONS if (content := make(report, say))]
    top = (head(report, say), el("div", headline(report, say), notes(report, say), class_="top"))
    links = [el("a", say(key), href=f"#{key}") for key, _ in sections]
    body = el(
        "main",
        top,
        el("nav", links, aria_label=say("contents")) if len(links) > 1 else None,
        [el("section", el("h2", say(key)), content, id=key) for key, content in sections],
        el("p", say("none"), class_="hint") if not sections else None,
        _footer(report),
    )
    return "<!DOCTYPE html>\n" + el(
        "html",
        _head(report, say, style, script),
        el("body", body, el("script", Html(script))),
        lang="zh-CN" if language == "zh" else "en",
    )


def save(report: Mapping[str, Any], folder: str | Path) -> Path:
    """Write `report.json` and `report.html` into an existing folder, each whole or not at all; gives the page's path.

    Raises OutputError if they cannot be written.
    """
    folder = Path(folder)
    _write(folder / "report.json", json.dumps(_finite(report), ensure_ascii=False, indent=1) + "\n")
    _write(folder / "report.html", render(report))
    return folder / "report.html"


def _head(report: Mapping[str, Any], say: Say, style: str, script: str) -> Html:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", name="referrer", content="no-referrer"),
        el("link", rel="icon", href="data:,"),
        el("title", report.get("title") or say("report")),
        el("style", Html(style)),
    )


def _footer(report: Mapping[str, Any]) -> Html:
    version = (report.get("environment") or {}).get("flagai")
    return el(
        "footer",
        "flagai",
        f" {version}" if version else None,
        f" · {report['created']}" if report.get("created") else None,
    )


def _asset(name: str) -> str:
    return files("flagai.report").joinpath(name).read_text(encoding="utf-8")


def _write(path: Path, content: str) -> None:
    part = path.with_name(path.name + ".part")
    try:
        # A lone surrogate, which UTF-8 cannot hold, becomes the escape that JSON has for it.
        part.write_text(content, encoding="utf-8", errors="backslashreplace")
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError(
            f"the report cannot be written: {error.strerror or error}",
            where=str(path),
            expected="a folder that exists and may be written, and free space",
            fix="free some space or choose another output folder",
        ) from error


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""A result as a table in the terminal, as JSON and as one HTML page that loads nothing. Knows not what was proved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from flagai.data.whole import TEMPORARY
from flagai.report.markup import Html, el
from flagai.train.files import cannot_write, write_json


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of words under their heads, with a sentence that says what came of them.

    Args:
        title: what was proved.
        verdict: the sentence.
        fine: whether it holds.
        notes: what else is to be known, a line each.
    """

    title: str
    verdict: str
    fine: bool
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def text(self) -> str:
        """For a terminal: columns as wide as their longest word."""
        lines = [list(map(str, row)) for row in (self.heads, *self.rows)]
        widths = [max(len(row[i]) for row in lines) for i in range(len(self.heads))]
        table = [
            "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in lines
        ]
        return "\n".join([*table, "", *self.notes, self.verdict])

    def html(self) -> str:
        """One page, as the report of a run looks."""
        style = files("flagai.report").joinpath("style.css").read_text(encoding="utf-8")
        head = el("head", el("meta", charset="utf-8"), el("title", self.title), _raw_style(style))
        rows = [el("tr", [el("td", word) for word in row]) for row in self.rows]
        table = el("table", el("thead", el("tr", [el("th", name) for name in self.heads])), el("tbody", rows))
        status = el("p", self.verdict, class_="status good" if self.fine else "status warn")
        notes = [el("p", note, class_="hint") for note in self.notes]
        main = el("main", el("h1", self.title), status, notes, el("section", el("div", table, class_="scroll")))
        return "<!DOCTYPE html>\n" + el("html", head, el("body", main), lang="en") + "\n"


def save(folder: Path, name: str, table: Table, values: Mapping[str, Any]) -> Path:
    """Write `<name>.json` and `<name>.html` into a folder; gives the page.

    Raises:
        OutputError: it cannot be written.
    """
    page = folder / f"{name}.html"
    temporary = folder / f"{TEMPORARY}{name}.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / f"{name}.json", dict(values))
        temporary.write_text(table.html(), encoding="utf-8")
        temporary.replace(page)
    except OSError as error:
        raise cannot_write(error, folder) from error
    return page


def _raw_style(style: str) -> Html:
    return el("style", Html(style))

"""One row of a user's file, and where it stood. Knows no task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Record:
    """A row with canonical field names: `text`, `text_pair`, `label` and whatever else the file holds.

    `label` is as the file gives it: a string, a list of strings (several labels), a number (similarity), or for
    entities a list of `{"start": int, "end": int, "label": str}` in code points of `text`, ends exclusive.
    """

    fields: Mapping[str, Any]
    file: str = ""
    line: int = 0
    """1-based line in the file (for several-line records the first), 0 if there is no file"""

    @property
    def where(self) -> str:
        """How error messages name the record: "file:line", "record N" without a file, or nothing."""
        return f"{self.file}:{self.line}" if self.file else f"record {self.line}" if self.line else ""

    @property
    def text(self) -> str:
        """The field `text`; KeyError where the record has none (`tasks.base.need_text` says it kindly)."""
        return self.fields["text"]

    def get(self, name: str, default: Any = None) -> Any:
        """A field by its name, or `default`."""
        return self.fields.get(name, default)

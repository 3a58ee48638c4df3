"""First lines of couplets → second lines. Knows no rules of verse: lengths and tones are constraints of decoding."""

from __future__ import annotations

import re
from typing import ClassVar, Final

from flagai.tasks.generation import GenerationTask

_BETWEEN_WIDE: Final = re.compile(r"(?<=[\u2e80-\uffef])\s+(?=[\u2e80-\uffef])")


class CoupletTask(GenerationTask):
    """The answer to a first line. Files often put a space between any two characters; it is no part of a line."""

    name: ClassVar[str] = "couplet"

    def clean(self, text: str) -> str:
        """A line without the spaces between its characters."""
        return _BETWEEN_WIDE.sub("", super().clean(text))

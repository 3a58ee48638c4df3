"""Texts with masks, and the same texts with answers in their places. Knows no tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_MASK: Final = re.compile(r"\[[sg]?MASK\]")


@dataclass(frozen=True, slots=True)
class Pieces:
    """A text cut at its masks: `parts` has one more than `masks`."""

    parts: tuple[str, ...]
    masks: tuple[str, ...]


def split(text: str) -> Pieces:
    """The pieces of a text."""
    return Pieces(tuple(_MASK.split(text)), tuple(_MASK.findall(text)))


def join(pieces: Pieces, answers: Sequence[str]) -> str:
    """The text with an answer for each mask.

    White space in front of a mask is part of it for the vocabularies whose words bring their own: where an answer
    begins with white space, that takes its place.
    """
    text = pieces.parts[0]
    for answer, part in zip(answers, pieces.parts[1:], strict=True):
        if answer[:1].isspace():
            text = text.rstrip()
            answer = answer if text else answer.lstrip()
        text += answer + part
    return text

"""Tokens of any tokenizer → units of the text on which entities may begin and end. Knows no labels and no model.

Tags and spans are decided on the first token of a unit. A unit is a word where a script has letters in two cases (and
digits), and a single token elsewhere (Han, kana, Hangul, Thai, …), where entities end inside what is written together.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from flagai.tasks.decoders import owned_ranges

_ZERO_WIDTH_JOINER: Final = "\u200d"
_JOINERS: Final = frozenset("\u200c\u200d")
_WORD_CATEGORIES: Final = frozenset({"Lu", "Ll", "Lt", "Nd", "Nl", "No", "Mn", "Mc", "Me"})


@dataclass(frozen=True, slots=True)
class Units:
    """The units of a window: `first[u]` is the token that speaks for unit u, `spans[u]` its code points."""

    first: list[int]
    spans: list[tuple[int, int]]

    def find(self, start: int, end: int) -> tuple[int, int] | None:
        """The first and last unit of a span that begins and ends on unit borders, None for any other."""
        inside = self.overlapping(start, end)
        if not inside or self.spans[inside[0]][0] != start or self.spans[inside[-1]][1] != end:
            return None
        return inside[0], inside[-1]

    def overlapping(self, start: int, end: int) -> range:
        """The units that share a code point with [start, end)."""
        hits = [u for u, (low, high) in enumerate(self.spans) if low < end and start < high]
        return range(hits[0], hits[-1] + 1) if hits else range(0)


def units_of(text: str, offsets: Sequence[tuple[int, int]]) -> Units:
    """The units of a window of `text`.

    Space at the ends of a token is not part of it (byte-level BPE counts the space before a word to the word). Tokens
    that share a character (an emoji in several byte tokens) are one unit; combining marks, variation selectors, skin
    tones and joined emoji stay with the character before them. A word that the window cuts is no unit of it.

    Args:
        offsets: for each token the code points it covers, in order; (0, 0) for special tokens.
    """
    first: list[int] = []
    spans: list[tuple[int, int]] = []
    for token, (start, end) in enumerate(offsets):
        while start < end and text[start].isspace():
            start += 1
        while start < end and text[end - 1].isspace():
            end -= 1
        if start == end:
            continue
        while end < len(text) and is_attached(text[end]):
            end += 1
        if spans and _goes_on(text, spans[-1][1], start):
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            first.append(token)
            spans.append((start, end))
    return _without_cut_words(text, first, spans)


def _goes_on(text: str, end: int, start: int) -> bool:
    return start < end or (start == end and joins(text[start - 1], text[start]))


def _without_cut_words(text: str, first: list[int], spans: list[tuple[int, int]]) -> Units:
    if spans and spans[-1][1] < len(text) and joins(text[spans[-1][1] - 1], text[spans[-1][1]]):
        first, spans = first[:-1], spans[:-1]
    if spans and spans[0][0] > 0 and joins(text[spans[0][0] - 1], text[spans[0][0]]):
        first, spans = first[1:], spans[1:]
    return Units(first, spans)


def joins(before: str, after: str) -> bool:
    """Whether no entity may begin between two neighbouring characters."""
    if is_attached(after) or before == _ZERO_WIDTH_JOINER:
        return True
    return _category(before) in _WORD_CATEGORIES and _category(after) in _WORD_CATEGORIES


def is_attached(char: str) -> bool:
    """Whether a character belongs to the one before it: marks, joiners, skin tones."""
    return _category(char)[0] == "M" or char in _JOINERS or "\U0001f3fb" <= char <= "\U0001f3ff"


@lru_cache(maxsize=65536)
def _category(char: str) -> str:
    return unicodedata.category(char)


def owned_by(text: str, windows: Sequence[Units]) -> list[tuple[int, int]]:
    """For each window of a text the code points whose entities it decides; together they cover the whole text."""
    ranges: list[tuple[int, int]] = []
    for units in windows:
        last = ranges[-1][1] if ranges else 0
        ranges.append((units.spans[0][0], units.spans[-1][1]) if units.spans else (last, last))
    if ranges:
        ranges[0] = (0, ranges[0][1])
        ranges[-1] = (ranges[-1][0], len(text))
    return owned_ranges(ranges)

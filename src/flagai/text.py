"""Chinese and English text: one definition of "the same text" and of "a unit of text" for metrics, search and checks.

It knows no tokenizer, no dictionary and no file: Chinese is cut by character, never into words.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from functools import lru_cache
from typing import Final, Literal

Punctuation = Literal["fold", "drop", "keep"]
Unit = Literal["auto", "char", "word"]

# Han and kana: scripts written without spaces, a character being about a morpheme. Hangul is left out because Korean
# writes spaces between words.
_CJK_RANGES: Final = (
    (0x2E80, 0x2FDF),  # radicals
    (0x3005, 0x3007),  # 々 〆 〇
    (0x3021, 0x3029),  # Hangzhou numerals
    (0x3038, 0x303C),
    (0x3041, 0x309F),  # hiragana
    (0x30A1, 0x30FA),  # katakana
    (0x30FC, 0x312F),  # the long vowel sign, bopomofo
    (0x31A0, 0x31BF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),  # half-width katakana
    (0x1B000, 0x1B16F),
    (0x20000, 0x323AF),  # Han extensions B to H, compatibility supplement
)
_CJK_STARTS: Final = [first for first, _ in _CJK_RANGES]

_FOLDED: Final = {
    **dict.fromkeys("“”„‟«»「」『』〝〞＂", '"'),
    **dict.fromkeys("‘’‚‛′`´", "'"),
    **dict.fromkeys("‐‑‒–—―−", "-"),
    **dict.fromkeys("【〔〖", "["),
    **dict.fromkeys("】〕〗", "]"),
    "《": "<",
    "〈": "<",
    "》": ">",
    "〉": ">",
    "。": ".",
    "、": ",",
    "・": "·",
    # Invisible and without meaning for comparison. The joiners U+200C and U+200D stay: they change words and emoji.
    **dict.fromkeys("\u00ad\u200b\u2060\ufeff"),
}
_FOLD_TABLE: Final = str.maketrans(_FOLDED)
_INVISIBLE_TABLE: Final = str.maketrans(dict.fromkeys("\u00ad\u200b\u2060\ufeff"))
_SPACES: Final = re.compile(r"\s+")
_ATTACHED: Final = frozenset("\u200c\u200d")


def is_cjk(char: str) -> bool:
    """Whether one character is Han or kana, the scripts that are segmented by character."""
    code = ord(char)
    at = bisect_right(_CJK_STARTS, code) - 1
    return at >= 0 and code <= _CJK_RANGES[at][1]


@lru_cache(maxsize=65536)
def _kind(char: str) -> str:
    """One of "cjk", "word" (letters, digits, marks), "space", "attached" (joins what is before it) and "punct"."""
    if char.isspace():
        return "space"
    if is_cjk(char):
        return "cjk"
    category = unicodedata.category(char)
    if category[0] in "LN" or char == "_":
        return "word"
    # Marks, joiners and skin tones belong to the character before them.
    if category[0] == "M" or char in _ATTACHED or "\U0001f3fb" <= char <= "\U0001f3ff":
        return "attached"
    return "punct"


def is_punctuation(char: str) -> bool:
    """Whether a character is neither space nor part of a word: punctuation, symbols, emoji."""
    return _kind(char) == "punct"


def normalize(text: str, *, casefold: bool = True, punctuation: Punctuation = "fold") -> str:
    """The form in which two texts are compared.

    Unicode NFKC (which makes full-width letters, digits and punctuation half-width), quotes, dashes, brackets and the
    Chinese stop and comma folded to ASCII, zero-width characters removed, runs of whitespace made one space, ends
    stripped.

    Args:
        text: any text.
        casefold: whether upper and lower case become the same.
        punctuation: "fold" as above, "drop" to remove it (a space is left between words), "keep" to fold only what
            NFKC folds.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    text = text.translate(_INVISIBLE_TABLE if punctuation == "keep" else _FOLD_TABLE)
    if casefold:
        text = text.casefold()
    if punctuation == "drop":
        text = "".join(" " if _kind(char) == "punct" else char for char in text)
    return _SPACES.sub(" ", text).strip()


def segment(text: str, unit: Unit = "auto") -> list[str]:
    """Cut a text into units; spaces are dropped and every other character is in exactly one unit.

    Args:
        text: any text; nothing is normalised, so the units are pieces of it in order.
        unit: "auto": each Han or kana character is one, other scripts go by word, punctuation and symbols stand alone.
            "char": every character is one (with its combining marks). "word": as "auto", a run of Han or kana is one.

    An apostrophe inside a word ("don't") and a point or comma inside a number ("1,000.5") belong to it.
    """
    units: list[str] = []
    before = "space"
    for at, char in enumerate(text):
        kind = _kind(char)
        if kind == "space":
            before = "space"
            continue
        if kind == "punct" and unit != "char" and _is_inner(text, at):
            kind = "word"
        if units and before != "space" and _continues(kind, before, unit, units[-1]):
            units[-1] += char
        else:
            units.append(char)
        # A mark does not change what it is attached to, but a mark at the start begins a unit of its own.
        before = before if kind == "attached" and before != "space" else kind
    return units


def _continues(kind: str, before: str, unit: Unit, last: str) -> bool:
    if kind == "attached" or last.endswith("\u200d"):
        return True
    if unit == "char":
        return False
    return kind == before and (kind == "word" or (kind == "cjk" and unit == "word"))


def _is_inner(text: str, at: int) -> bool:
    """Whether the mark at `at` stands inside a word (don't) or inside a number (1,000.5)."""
    if text[at] not in "'’.," or not 0 < at < len(text) - 1:
        return False
    left, right = text[at - 1], text[at + 1]
    if text[at] in ".,":
        return left.isdigit() and right.isdigit()
    return _kind(left) == "word" and left.isalpha() and _kind(right) == "word" and right.isalpha()


_SCRIPTS: Final = (
    ("ja", ((0x3041, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F))),
    ("ko", ((0x1100, 0x11FF), (0x3130, 0x318F), (0xAC00, 0xD7A3))),
    ("en", ((0x41, 0x24F), (0x1E00, 0x1EFF))),
    ("ru", ((0x400, 0x52F),)),
    ("ar", ((0x600, 0x6FF), (0x750, 0x77F))),
)


@lru_cache(maxsize=65536)
def _script(char: str) -> str:
    if not char.isalpha():
        return ""
    code = ord(char)
    for name, ranges in _SCRIPTS:
        if any(first <= code <= last for first, last in ranges):
            return name
    return "zh" if is_cjk(char) else "und"


def language(text: str) -> str:
    """A guess from the script alone: "zh", "ja", "ko", "en" (any Latin script), "ru", "ar" or "und" (undetermined).

    Units of `segment` are counted, so that one English word weighs as much as one Han character; a text with kana
    among its Han characters (a tenth or more) is Japanese.
    """
    counts: dict[str, int] = {}
    for unit in segment(unicodedata.normalize("NFKC", text)):
        if script := _script(unit[0]):
            counts[script] = counts.get(script, 0) + 1
    if not counts:
        return "und"
    kana, han = counts.get("ja", 0), counts.get("zh", 0)
    if kana and kana * 10 >= kana + han:
        counts["ja"] = kana + counts.pop("zh", 0)
    return max(sorted(counts), key=lambda name: counts[name])

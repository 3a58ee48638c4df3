"""How Chinese characters are read in Mandarin: groups of rhymes and tones. Knows characters, no poems.

Readings come from the single-character dictionary of pypinyin (`flagai[writing]`): all of them, rare ones too.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from flagai.errors import MissingExtraError
from flagai.generate.constraints.spec import RHYME_GROUPS


class Reading(NamedTuple):
    """Args:
    group: one of `RHYME_GROUPS`.
    level: tone 1 or 2; the others are oblique, the neutral one too.
    """

    group: str
    level: bool


# 中华新韵: the finals of each group, in the order of `RHYME_GROUPS`. "v" is ü, "-i" the vowel of zhi and si.
_FINALS: Final = (
    "a ia ua",
    "o uo e",
    "ie ve ê",
    "ai uai",
    "ei ui",
    "ao iao",
    "ou iu",
    "an ian uan van",
    "en in un vn",
    "ang iang uang",
    "eng ing ong iong ueng",
    "i er v",
    "-i",
    "u",
)
_GROUP_OF: Final = {final: group for group, row in zip(RHYME_GROUPS, _FINALS, strict=True) for final in row.split()}
_MARKS: Final = {"\u0304": 1, "\u0301": 2, "\u030c": 3, "\u0300": 4}
_SYLLABLE: Final = re.compile(r"(zh|ch|sh|[bpmfdtnlgkhjqxrzcs]?)([aeiouvê][a-zê]*)")
_HALF_VOWELS: Final = {
    "yi": "i",
    "yu": "v",
    "wu": "u",
    "ye": "ie",
    "yue": "ve",
    "yuan": "van",
    "yun": "vn",
    "you": "iu",
    "yo": "o",
    "yin": "in",
    "ying": "ing",
    "yong": "iong",
    "wei": "ui",
    "wen": "un",
    "weng": "ueng",
    "wo": "uo",
}


@lru_cache(maxsize=65536)
def readings(char: str) -> frozenset[Reading]:
    """All readings of a character; empty for what is none.

    Raises:
        MissingExtraError: pypinyin is not installed.
    """
    found = (reading(syllable) for syllable in _dictionary().get(ord(char), "").split(","))
    return frozenset(one for one in found if one is not None)


def reading(syllable: str) -> Reading | None:
    """The group and the tone of a syllable of Pinyin with its tone mark; None for what has no final, as `ng`."""
    tone, letters = 5, []
    for sign in unicodedata.normalize("NFD", syllable.strip().lower()):
        if sign in _MARKS:
            tone = _MARKS[sign]
        elif sign == "\u0308":
            letters[-1] = "v"
        elif sign == "\u0302":
            letters[-1] = "ê"
        else:
            letters.append(sign)
    group = _GROUP_OF.get(_final("".join(letters)))
    return None if group is None else Reading(group, tone in (1, 2))


def _final(plain: str) -> str:
    if plain in _HALF_VOWELS:
        return _HALF_VOWELS[plain]
    if plain[:1] in ("y", "w"):
        return ("i" if plain[0] == "y" else "u") + plain[1:]
    found = _SYLLABLE.fullmatch(plain)
    if found is None:
        return ""
    initial, final = found.groups()
    if final == "i" and initial in ("zh", "ch", "sh", "r", "z", "c", "s"):
        return "-i"
    # Behind j, q and x the letter u is ü.
    return "v" + final[1:] if initial in ("j", "q", "x") and final[0] == "u" else final


@lru_cache(maxsize=1)
def _dictionary() -> Mapping[int, str]:
    try:
        from pypinyin.pinyin_dict import pinyin_dict
    except ImportError as error:
        raise MissingExtraError.for_package("pypinyin", "writing") from error
    return pinyin_dict

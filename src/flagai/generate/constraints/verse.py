"""Forms of Chinese verse as automata: lines and marks, tones, rhymes. Knows characters, no tokens and no model.

Three automata that go forward together, one character at a time, each blind to what the others watch.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final, NamedTuple

import numpy as np

from flagai.errors import ConfigError
from flagai.generate.constraints.automata import Automaton, build
from flagai.generate.constraints.readings import Reading, readings
from flagai.generate.constraints.spec import Verse
from flagai.text import is_cjk

INNER_MARKS: Final = "，、；：？！,;:?!"
"""behind a line that opens a couplet"""
FINAL_MARKS: Final = "。；？！.;?!"
"""behind a line that closes one, and behind the last"""

# Wang Li, 诗词格律, chapter 2: the four lines of which regulated verse is made, by five and by seven characters.
_LINES: Final = {
    5: {"a": "中仄平平仄", "b": "平平仄仄平", "c": "中平平仄仄", "d": "中仄仄平平"},
    7: {"a": "中平中仄平平仄", "b": "中仄平平仄仄平", "c": "中仄中平平仄仄", "d": "中平中仄仄平平"},
}
_ORDERS: Final = ("abcdabcd", "dbcdabcd", "cdabcdab", "bdabcdab")


class Place(NamedTuple):
    """A place in a poem: a line, and a character of it; the mark behind the line has `column` = its length."""

    line: int
    column: int


def tone_patterns(spec: Verse) -> tuple[tuple[str, ...], ...]:
    """The patterns of which a poem has to follow one: for each line 平, 仄 and 中; () where tones are free."""
    if spec.tones is False or spec.tones is None:
        return ()
    if spec.tones is not True:
        return (spec.tones,)
    kinds = _LINES[spec.lines[0]]
    return tuple(tuple(kinds[one] for one in order[: len(spec.lines)]) for order in _ORDERS)


def versifying(spec: Verse, alphabet: np.ndarray) -> list[Automaton]:
    """The automata of a form, begun behind `spec.given`.

    Raises:
        ConfigError: `spec.given` is no beginning of such a poem.
        MissingExtraError: tones or rhymes are asked for and pypinyin is not installed.
    """
    characters = [chr(code) for code in alphabet.tolist()]
    made = [_lines(spec, characters)]
    if spec.tones:
        made.append(_tones(spec, characters))
    if spec.rhyme:
        made.append(_rhymes(spec, characters))
    return made


def refused_beginning(spec: Verse, name: str) -> ConfigError:
    """The error where `given` is no beginning of the form."""
    return ConfigError(
        f"{spec.given!r} is no beginning of a poem of this form: its {name} are wrong, or it is whole already",
        where="constraints.verse.given",
        expected=f"lines of {', '.join(map(str, spec.lines))} characters, each with its mark",
        fix="mend it, choose another form, or leave tones or rhyme out",
    )


def _places(spec: Verse) -> list[Place]:
    return [Place(line, column) for line, length in enumerate(spec.lines) for column in range(length + 1)]


# -- lines and marks --------------------------------------------------------------------------------------------

_HAN, _INNER, _FINAL, _EITHER, _OTHER = range(5)


def _kind(char: str) -> int:
    if char in INNER_MARKS:
        return _EITHER if char in FINAL_MARKS else _INNER
    if char in FINAL_MARKS:
        return _FINAL
    return _HAN if is_han(char) else _OTHER


def is_han(char: str) -> bool:
    """Whether it is a Chinese character: no kana, no stroke and no numeral sign."""
    return is_cjk(char) and char >= "\u3400" and not "\uff66" <= char <= "\uff9f"


def _lines(spec: Verse, characters: Sequence[str]) -> Automaton:
    places = _places(spec)
    wanted = [{_HAN} if place.column < spec.lines[place.line] else _marks(spec, place.line) for place in places]

    def steps(at: int) -> list[int | None]:
        return [at + 1 if at < len(places) and kind in wanted[at] else None for kind in range(5)]

    classes = np.array([_kind(char) for char in characters])
    return build("lines", 0, steps, lambda at: at == len(places), classes)


def _marks(spec: Verse, line: int) -> set[int]:
    closes = line % 2 == 1 or line == len(spec.lines) - 1
    return {_EITHER, _FINAL} if closes else {_EITHER, _INNER}


# -- tones ------------------------------------------------------------------------------------------------------

_LEVEL, _OBLIQUE, _BOTH, _UNKNOWN, _MARK = range(5)
_MEETS: Final = {"平": (_LEVEL, _BOTH), "仄": (_OBLIQUE, _BOTH), "中": (_LEVEL, _OBLIQUE, _BOTH, _UNKNOWN)}


def _tone(char: str) -> int:
    if not is_han(char):
        return _MARK
    found = {one.level for one in readings(char)}
    return _UNKNOWN if not found else _BOTH if len(found) == 2 else _LEVEL if True in found else _OBLIQUE


def _tones(spec: Verse, characters: Sequence[str]) -> Automaton:
    """State: (place, the patterns that it may still be)."""
    places, patterns = _places(spec), tone_patterns(spec)

    def step(state: tuple[int, tuple[int, ...]], tone: int) -> Hashable | None:
        at, left = state
        if at == len(places):
            return None
        line, column = places[at]
        if column == spec.lines[line]:
            return (at + 1, left) if tone == _MARK else None
        if tone == _BOTH and line == 0 and column == spec.lines[0] - 1 and spec.tones is True:
            return None  # whether the first line rhymes must not depend on how its last character is read
        kept = tuple(one for one in left if tone in _MEETS[patterns[one][line][column]])
        return (at + 1, kept) if kept else None

    def steps(state: tuple[int, tuple[int, ...]]) -> list[Hashable | None]:
        return [step(state, tone) for tone in range(5)]

    classes = np.array([_tone(char) for char in characters])
    start = (0, tuple(range(len(patterns))))
    return build("tones", start, steps, lambda state: state[0] == len(places), classes)


# -- rhymes -----------------------------------------------------------------------------------------------------

_Keys = frozenset[Reading]
_FREE: Final = Reading("", False)
"""stands for all oblique readings where rhymes are level"""


def _rhymes(spec: Verse, characters: Sequence[str]) -> Automaton:
    """State: (place, the readings that all rhymes so far share; None before the first)."""
    places = _places(spec)
    kinds: dict[_Keys, int] = {}
    classes = np.array([kinds.setdefault(_keys(spec, char), len(kinds)) for char in characters])
    keys = list(kinds)

    by_line = [[rhymes_at(spec, line, one) for one in keys] for line in range(len(spec.lines))]

    def step(at: int, shared: _Keys | None, found: _Keys | None) -> Hashable | None:
        if found is None:
            return at + 1, shared
        found = found if shared is None else found & shared
        return (at + 1, found) if found else None

    def steps(state: tuple[int, _Keys | None]) -> list[Hashable | None]:
        at, shared = state
        if at == len(places):
            return [None]
        if places[at].column != spec.lines[places[at].line] - 1:
            return [(at + 1, shared)]
        return [step(at, shared, found) for found in by_line[places[at].line]]

    return build("rhyme", (0, None), steps, lambda state: state[0] == len(places), classes)


def rhymes_at(spec: Verse, line: int, keys: _Keys) -> _Keys | None:
    """The readings by which a character at the end of the line may rhyme; None where it need not."""
    if line not in spec.rhyming:
        opens = line == 0 and spec.tones is True and _FREE not in keys
        if not opens:
            return None
    found = keys - {_FREE}
    if isinstance(spec.tones, tuple) and (sign := spec.tones[line][-1]) != "中":
        found = frozenset(one for one in found if one.level == (sign == "平"))
    return found if spec.rhyme is True else frozenset(one for one in found if one.group == spec.rhyme)


def _keys(spec: Verse, char: str) -> _Keys:
    found = readings(char) if is_han(char) else frozenset()
    if spec.tones is True:
        return frozenset(one if one.level else _FREE for one in found)
    return found

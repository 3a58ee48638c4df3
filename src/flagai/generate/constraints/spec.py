"""What may be asked of an answer's text, as plain checked values. Knows no tokens, no model and no tensor.

White space in front of an answer and behind it is no part of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from flagai.errors import ConfigError, unknown_name
from flagai.generate.constraints.schemas import check_schema

Unit = Literal["characters", "tokens", "words"]

FORMS: Final[Mapping[str, tuple[int, ...]]] = {
    "五言绝句": (5,) * 4,
    "七言绝句": (7,) * 4,
    "五言律诗": (5,) * 8,
    "七言律诗": (7,) * 8,
}
"""regulated forms of verse: the lengths of their lines in characters"""

RHYME_GROUPS: Final = (
    *("一麻", "二波", "三皆", "四开", "五微", "六豪", "七尤"),
    *("八寒", "九文", "十唐", "十一庚", "十二齐", "十三支", "十四姑"),
)
"""the fourteen groups of 中华新韵 (Chinese Poetry Society, 2005)"""

_MOST_LENGTH: Final = 10_000
_MOST_LINES: Final = 64
_TONE_SIGNS: Final = frozenset("平仄中")


@dataclass(frozen=True)
class MustContain:
    """Each of these strings stands in the answer, letter by letter.

    Args:
        whole: not inside a longer word: a letter or digit at an end of the string has none beside it. Chinese and
            Japanese characters are words by themselves.
    """

    words: tuple[str, ...]
    whole: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", _strings("must_contain", self.words))
        _need("must_contain.whole", self.whole, isinstance(self.whole, bool), "true or false")


@dataclass(frozen=True)
class MustNotContain:
    """None of these strings stands in the answer, not even inside a longer word."""

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", _strings("must_not_contain", self.words))


@dataclass(frozen=True)
class OneOf:
    """The answer is one of these strings, whole."""

    strings: tuple[str, ...]

    def __post_init__(self) -> None:
        strings = tuple(dict.fromkeys(one.strip() for one in _strings("one_of", self.strings)))
        object.__setattr__(self, "strings", strings)
        _need("one_of", self.strings, all(strings), "strings with a character that is no white space")


@dataclass(frozen=True)
class Matches:
    """The whole answer matches a regular expression; no look-around, no back references, `.` is no line break."""

    pattern: str

    def __post_init__(self) -> None:
        _need("matches", self.pattern, isinstance(self.pattern, str) and bool(self.pattern), "a regular expression")
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ConfigError(
                f"the regular expression {self.pattern!r} is wrong: {error}", where="constraints.matches"
            ) from error


@dataclass(frozen=True)
class JsonSchema:
    """The answer is a JSON text that a JSON schema allows.

    Keywords that answers cannot be held to are refused (bounds of numbers, allOf, oneOf, patternProperties, …). Of what
    a schema leaves open only some is written: no properties beside those named, and little nesting.

    Args:
        schema: a mapping, or its JSON text; kept as JSON text, so that the constraint can be hashed.
    """

    schema: str

    def __post_init__(self) -> None:
        given: Any = self.schema
        try:
            value = json.loads(given) if isinstance(given, str) else given
            # Properties are written in the schema's order: no sorting of keys.
            text = json.dumps(value, ensure_ascii=False)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"the schema is no JSON: {error}", where="constraints.json_schema") from error
        _need("json_schema", given, isinstance(value, dict), "a mapping, or the JSON text of one")
        check_schema(value)
        object.__setattr__(self, "schema", text)

    @property
    def value(self) -> dict[str, Any]:
        """The schema as a mapping."""
        return json.loads(self.schema)


@dataclass(frozen=True, kw_only=True)
class Length:
    """From `least` to `most` characters, tokens or words; None is no bound.

    A character is a Unicode code point, white space inside counted. A word is a Han or kana character, or a run of
    other signs without white space that has a letter or a digit in it.
    """

    least: int = 0
    most: int | None = None
    unit: Unit = "characters"

    def __post_init__(self) -> None:
        _need("length.unit", self.unit, self.unit in get_args(Unit), f"one of: {', '.join(get_args(Unit))}")
        _need("length.least", self.least, _is_whole(self.least), f"a whole number from 0 to {_MOST_LENGTH}")
        good = self.most is None or (_is_whole(self.most) and self.most >= 1)
        _need("length.most", self.most, good, f"a whole number from 1 to {_MOST_LENGTH}, or nothing")
        if self.most is not None and self.least > self.most:
            raise ConfigError(
                f"length.least {self.least} is more than length.most {self.most}", where="constraints", fix="lower it"
            )


@dataclass(frozen=True, kw_only=True)
class Verse:
    """Chinese verse: lines of given lengths, each with a mark of punctuation behind it.

    Args:
        form: one of `FORMS`, or the length of each line in characters.
        rhyme: True: the lines that rhyme share a group of 中华新韵, whichever; a name of `RHYME_GROUPS`: that group.
            Every second line rhymes, and in a regulated form with tones the first one too where it ends level. The
            rhyming characters are either all level or all oblique (with tones: level). Default: in the named forms.
        tones: True: one of the four tone patterns of regulated verse (Wang Li, 诗词格律, 1977, chapter 2), without
            irregular lines; or for each line a pattern of 平 (level), 仄 (oblique) and 中 (either). Tones are those of
            Mandarin (1, 2 level; 3, 4 and neutral oblique). Default: in the named forms.
        given: the beginning of the poem, where it stands in the prompt and the answer goes on from it.

    Of a character with several readings any may count.
    """

    form: str | tuple[int, ...]
    rhyme: bool | str | None = None
    tones: bool | tuple[str, ...] | None = None
    given: str = ""
    lines: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        named = isinstance(self.form, str)
        object.__setattr__(self, "lines", _lines(self.form))
        object.__setattr__(self, "form", self.form if named else self.lines)
        rhyme = named if self.rhyme is None else self.rhyme
        object.__setattr__(self, "rhyme", rhyme if isinstance(rhyme, bool) else _group(rhyme))
        tones = named if self.tones is None else self.tones
        object.__setattr__(self, "tones", tones if isinstance(tones, bool) else _tones(tones, self.lines))
        if tones is True and self.lines not in FORMS.values():
            raise ConfigError(
                "tones: true with line lengths of one's own",
                where="constraints.verse.tones",
                expected=f"a form with known tone patterns ({', '.join(FORMS)}), or a pattern for each line",
            )
        _need("verse.given", self.given, isinstance(self.given, str), "the beginning of a poem")
        object.__setattr__(self, "given", re.sub(r"\s+", "", self.given))

    @property
    def rhyming(self) -> tuple[int, ...]:
        """Numbers of the lines that rhyme in any case, from 0."""
        return tuple(range(1, len(self.lines), 2)) if len(self.lines) > 1 else ()


Constraint = MustContain | MustNotContain | OneOf | Matches | JsonSchema | Length | Verse


def check_together(specs: Sequence[Constraint]) -> None:
    """Refuse constraints of which one look says that no text meets them all; what needs a vocabulary is found later.

    Raises:
        ConfigError: a word wanted and forbidden, or no room for the wanted words.
    """
    wanted = [word for spec in specs if isinstance(spec, MustContain) for word in spec.words]
    for bad in (word for spec in specs if isinstance(spec, MustNotContain) for word in spec.words):
        for word in wanted:
            if bad in word:
                raise contradiction(f"{word!r} must stand in the answer, {bad!r} must not")
    for spec in specs:
        longest = max(map(len, wanted), default=0)
        if isinstance(spec, Length) and spec.unit == "characters" and spec.most is not None and longest > spec.most:
            raise contradiction(f"a word of {longest} characters in an answer of at most {spec.most}")


def as_constraints(value: Any) -> tuple[Constraint, ...]:
    """See `flagai.generate.constraints.parse.parse`."""
    from flagai.generate.constraints.parse import parse

    return parse(value)


def contradiction(found: str) -> ConfigError:
    """The error for constraints that no text meets together."""
    return ConfigError(f"the constraints contradict one another: {found}", where="constraints", fix="drop one of them")


def _lines(form: Any) -> tuple[int, ...]:
    if isinstance(form, str):
        if form not in FORMS:
            raise unknown_name("form of verse", form, FORMS, where="constraints.verse.form")
        return FORMS[form]
    good = isinstance(form, Sequence) and 0 < len(form) <= _MOST_LINES
    good = good and all(_is_whole(one) and 1 <= one <= 64 for one in form)
    _need("verse.form", form, good, f"one of {', '.join(FORMS)}, or the length of each line: up to {_MOST_LINES} lines")
    return tuple(form)


def _group(name: Any) -> str:
    for group in RHYME_GROUPS:
        if name in (group, group[-1]):
            return group
    raise unknown_name("group of rhymes", str(name), RHYME_GROUPS, where="constraints.verse.rhyme")


def _tones(patterns: Any, lines: tuple[int, ...]) -> tuple[str, ...]:
    good = isinstance(patterns, Sequence) and not isinstance(patterns, str) and len(patterns) == len(lines)
    good = good and all(
        isinstance(one, str) and len(one) == length and set(one) <= _TONE_SIGNS
        for one, length in zip(patterns, lines, strict=True)
    )
    _need("verse.tones", patterns, good, f"true, false, or for each of the lines {lines} a pattern of 平, 仄 and 中")
    return tuple(patterns)


def _strings(name: str, value: Any) -> tuple[str, ...]:
    value = (value,) if isinstance(value, str) else value
    good = isinstance(value, Sequence | set | frozenset) and all(isinstance(one, str) and one for one in value)
    _need(name, value, good and bool(value), "a string, or a list of strings, none of them empty")
    return tuple(dict.fromkeys(sorted(value) if isinstance(value, set | frozenset) else value))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_LENGTH


def _need(name: str, value: Any, good: bool, expected: str) -> None:
    if not good:
        raise ConfigError(f"{name} is {value!r}", expected=expected, where=f"constraints.{name}")

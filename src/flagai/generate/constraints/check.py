"""Whether a text meets a constraint, by looking at the text. Knows no tokens, and nothing of how answers are made.

It shares no automaton with the decoder, so that each can be held against the other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Final

from flagai.errors import ConfigError
from flagai.generate.constraints.readings import Reading, readings
from flagai.generate.constraints.spec import (
    Constraint,
    JsonSchema,
    Length,
    Matches,
    MustContain,
    MustNotContain,
    OneOf,
    Verse,
)
from flagai.generate.constraints.verse import FINAL_MARKS, INNER_MARKS, is_han, tone_patterns
from flagai.text import is_cjk


def check(text: str, spec: Constraint) -> list[str]:
    """What is wrong with a text, a sentence each; [] where it meets the constraint.

    White space around the text is left out. Of a poem with `given` the text is what follows that.

    Raises:
        ConfigError: a length in tokens, which a text alone does not show.
        MissingExtraError: tones or rhymes are looked at and pypinyin is not installed.
    """
    whole, text = text, text.strip()
    if isinstance(spec, MustContain):
        return [f"{word!r} is missing" for word in spec.words if not _contains(text, word, whole=spec.whole)]
    if isinstance(spec, MustNotContain):
        return [f"{word!r} stands in it" for word in spec.words if word in text]
    if isinstance(spec, OneOf):
        return [] if text in spec.strings else [f"{text!r} is none of the choices"]
    if isinstance(spec, Matches):
        matched = any(re.fullmatch(spec.pattern, one) for one in (text, whole))
        return [] if matched else [f"{text!r} does not match {spec.pattern!r}"]
    if isinstance(spec, JsonSchema):
        return _json(text, spec)
    return _length(text, spec) if isinstance(spec, Length) else _verse(text, spec)


def _contains(text: str, word: str, *, whole: bool) -> bool:
    places = (found.start() for found in re.finditer(f"(?={re.escape(word)})", text))
    if not whole:
        return word in text
    return any(_apart(text[at - 1 : at], word[0]) and _apart(word[-1], text[at + len(word) :][:1]) for at in places)


def _apart(left: str, right: str) -> bool:
    return not all(one.isalnum() and not is_cjk(one) for one in (left, right))


def _json(text: str, spec: JsonSchema) -> list[str]:
    try:
        value = json.loads(text)
    except ValueError as error:
        return [f"it is no JSON: {error}"]
    try:
        from jsonschema import ValidationError, validate
    except ImportError:
        # The pattern that the schema was made into says the same, if it can be had.
        from flagai.generate.constraints.patterns import regex_of

        return [] if re.fullmatch(regex_of(spec), text) else ["the schema does not allow it"]
    try:
        validate(value, spec.value)
    except ValidationError as error:
        return [f"the schema does not allow it: {error.message}"]
    return []


def _length(text: str, spec: Length) -> list[str]:
    if spec.unit == "tokens":
        raise ConfigError("a text does not show how many tokens it had", where="constraints.length.unit")
    count = len(text) if spec.unit == "characters" else _words(text)
    if count < spec.least or (spec.most is not None and count > spec.most):
        return [f"it has {count} {spec.unit}, wanted are {spec.least} to {spec.most}"]
    return []


def _words(text: str) -> int:
    runs = "".join(" " if is_cjk(char) else char for char in text).split()
    return sum(map(is_cjk, text)) + sum(any(char.isalnum() for char in run) for run in runs)


_PART: Final = re.compile(f"([^{re.escape(INNER_MARKS + FINAL_MARKS)}]*)([{re.escape(INNER_MARKS + FINAL_MARKS)}]?)")


def _verse(text: str, spec: Verse) -> list[str]:
    parts = [(line, mark) for line, mark in _PART.findall(spec.given + text) if line or mark]
    lines = [line for line, _ in parts]
    if [len(line) for line in lines] != list(spec.lines):
        return [f"the lines have {', '.join(str(len(line)) for line in lines)} characters"]
    wrong = [f"{char!r} is no Chinese character" for line in lines for char in line if not is_han(char)]
    for number, (_, mark) in enumerate(parts):
        closes = number % 2 == 1 or number + 1 == len(parts)
        if not mark or mark not in (FINAL_MARKS if closes else INNER_MARKS):
            wrong.append(f"line {number + 1} ends with {mark!r}")
    return wrong or _sounds(lines, spec)


def _sounds(lines: Sequence[str], spec: Verse) -> list[str]:
    """Tones and rhyme. With tones the poem must have one pattern that both fit."""
    patterns = tone_patterns(spec)
    if not patterns:
        return _rhyme(lines, spec, None) if spec.rhyme else []
    found = [(_misfits(lines, pattern), pattern) for pattern in patterns]
    fitting = [pattern for misfits, pattern in found if not misfits]
    if not fitting:
        return min((misfits for misfits, _ in found), key=len)
    complaints = [_rhyme(lines, spec, pattern) if spec.rhyme else [] for pattern in fitting]
    return min(complaints, key=len)


def _misfits(lines: Sequence[str], pattern: Sequence[str]) -> list[str]:
    wrong = []
    for line, signs in zip(lines, pattern, strict=True):
        for char, sign in zip(line, signs, strict=True):
            if sign != "中" and (sign == "平") not in {one.level for one in readings(char)}:
                wrong.append(f"{char!r} in {line!r} is not {sign}")
    return wrong


def _rhyme(lines: Sequence[str], spec: Verse, pattern: Sequence[str] | None) -> list[str]:
    ends = {number: lines[number][-1] for number in spec.rhyming}
    if pattern is not None and spec.tones is True and pattern[0][-1] == "平":
        ends[0] = lines[0][-1]
    choices: list[set[Reading]] = []
    for number, char in ends.items():
        found: set[Reading] = set(readings(char))
        if pattern is not None and pattern[number][-1] != "中":
            found = {one for one in found if one.level == (pattern[number][-1] == "平")}
        choices.append({one for one in found if spec.rhyme in (True, one.group)})
    if not choices or set.intersection(*choices):
        return []
    return [f"{'、'.join(ends.values())} do not rhyme" + ("" if spec.rhyme is True else f" in {spec.rhyme}")]


def explain(text: str, specs: Sequence[Constraint]) -> list[str]:
    """What is wrong with a text by any of the constraints; lengths in tokens left out."""
    seen = [spec for spec in specs if not (isinstance(spec, Length) and spec.unit == "tokens")]
    return [fault for spec in seen for fault in check(text, spec)]

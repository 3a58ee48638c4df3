"""Titles, first lines and poems with gaps → Chinese poems. Knows no model and no rules of verse.

A poem model reads `title：form：poem`, for instance `静夜：五言绝句：床前明月光，…`; what is not given of that is put
there before reading and left out of the answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from flagai.data.record import Record
from flagai.errors import DataError, UnknownNameError, unknown_name
from flagai.tasks.blanks import Draft, GLMBlanks
from flagai.tasks.masks import split
from flagai.tasks.writing import WritingTask, the_text

FORMS: Final = ("五言绝句", "七言绝句", "五言律诗", "七言律诗")
"""five or seven characters a line; four or eight lines"""
UNTITLED: Final = "无题"
_COLON: Final = "："
_ENDS: Final = "，。！？；"
_WIDE: Final = str.maketrans(",.!?;:", "，。！？；：")
_GAP: Final = "\0"  # one sign for a mask while punctuation is made full-width


class PoetryTask(WritingTask):
    """A poem for a title (`静夜`, `静夜：七言律诗`), from a first line (`床前明月光，`), or with its gaps filled.

    A title may stand before lines as well (`静夜：床前明月光，`, `静夜：五言绝句：床前[MASK]，`). The form, where it is
    not given, is read from the lines, and is a quatrain of five characters a line for a title alone.
    The same text gives the same poem every time, unless `generation` has another seed.
    """

    name: ClassVar[str] = "poetry"
    defaults: ClassVar[Mapping[str, Any]] = {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "seed": 0}

    def draft(self, record: Record) -> Draft:
        """`title：form：lines` with a mask where the poem is to go on.

        Raises:
            DataError: an empty text, or a mask outside the lines.
            UnknownNameError: a form that there is none of.
        """
        text = re.sub(r"[\s\0]+", "", the_text(record))  # a NUL is nothing that any vocabulary reads
        masks = iter(split(text).masks)
        text = _GAP.join(split(text).parts).translate(_WIDE)
        title, form, lines = _read(text, record)
        if not title and not lines:
            raise DataError("the text is empty", where=record.where, expected="a title, a line or a poem with gaps")
        if _GAP in title:
            raise DataError("a mask stands in the title", where=record.where, expected="masks in the lines of the poem")
        header = f"{title or UNTITLED}{_COLON}{form or guess_form(lines)}{_COLON}"
        if lines and _GAP not in lines and lines[-1] not in _ENDS:
            lines += "。" if len(re.findall(f"[{_ENDS}]", lines)) % 2 else "，"
        if _GAP not in lines:
            end = GLMBlanks(self.tokenizer).last_mask if self.family == "glm" else ""
            return Draft(header + lines + end, len(header))
        if self.family != "glm":
            raise DataError(
                "the poem has gaps",
                where=record.where,
                expected="a title or first lines: only a GLM fills gaps in verse",
            )
        return Draft(re.sub(_GAP, lambda _: next(masks), header + lines), len(header))

    def lesson(self, record: Record) -> tuple[str, str]:
        """`title：form：` is read, the lines are learned; both may stand in the one text."""
        prompt, text = super().lesson(record)
        text = re.sub(r"\s+", "", text)
        if prompt or text.count(_COLON) < 2:
            return prompt, text
        title, form, lines = text.split(_COLON, 2)
        return f"{title}{_COLON}{form}{_COLON}", lines

    def _written_on(self, draft: Draft, ids: list[int]) -> tuple[str, tuple[str, ...]]:
        answer = self.text_of(ids)
        return (draft.context + answer)[draft.hidden :], (answer,)

    @property
    def blanks(self) -> GLMBlanks | None:
        """Only a GLM fills gaps in verse."""
        return GLMBlanks(self.tokenizer) if self.family == "glm" else None

    def text_of(self, tokens: Any) -> str:
        """Verse has no spaces."""
        return re.sub(r"\s+", "", super().text_of(tokens))


def guess_form(lines: str) -> str:
    """The form that whole lines show by their length and number; a quatrain of fives where they show nothing."""
    parts = [part for part in re.split(f"[{_ENDS}]", lines) if part]
    seven = any(len(part) == 7 for part in parts if _GAP not in part)
    return FORMS[seven + 2 * (len(parts) > 4)]


def _read(text: str, record: Record) -> tuple[str, str, str]:
    """(title, form, lines), each "" where it is not given."""
    first, *rest = text.split(_COLON, 2)
    if not rest:
        return ("", "", first) if _is_verse(first) else (first, "", "")
    if len(rest) == 2:
        return first, _form(rest[0], record), rest[1]
    if not rest[0] or rest[0] in FORMS:
        return first, rest[0], ""
    return (first, "", rest[0]) if _is_verse(rest[0]) else (first, _form(rest[0], record, or_lines=True), "")


def _is_verse(text: str) -> bool:
    return _GAP in text or any(sign in text for sign in _ENDS)


def _form(text: str, record: Record, *, or_lines: bool = False) -> str:
    """A form as it was given, "" for none; `or_lines` where verse could have stood in its place."""
    if not text or text in FORMS:
        return text
    if _GAP in text:
        raise DataError(
            "a mask stands where the form belongs",
            where=record.where,
            expected=f"one of: {', '.join(FORMS)}",
            fix="name one, or leave the form out (two colons, one after the other): it is read from the lines",
        )
    error = unknown_name("form", text, FORMS, where=record.where)
    if not or_lines:
        raise error
    raise UnknownNameError(
        error.found,
        where=error.where,
        expected=f"{error.expected}; or lines of the poem, each with its punctuation at the end",
        fix=f"{error.fix.rstrip('?')}; or, if it is a line, end it: {text}，",
    )

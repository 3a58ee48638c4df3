"""A record's source inside the words around it → token ids, cut where it is too long. Knows no family and no target.

A template is a text with `{source}` in it; `{name}` stands for another column of the record. What a source says is
text: `[MASK]` or `</s>` in it is read as these letters, not as a token of structure.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from flagai.data.record import Record
from flagai.errors import ConfigError, DataError
from flagai.tasks.masks import split

Truncation = Literal["tail", "head", "middle"]
SOURCE: Final = "source"
_FIELD: Final = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Source:
    """Token ids of a source in its template, and which of them (half-open ranges of indices) may be cut."""

    ids: list[int]
    loose: range


@dataclass(frozen=True, slots=True)
class Template:
    """A checked template, in parts: what stands between its masks is one part (GLM; elsewhere the whole is one)."""

    parts: tuple[str, ...]
    masks: tuple[str, ...] = ()

    def fill(self, record: Record, source: str) -> list[tuple[str, range]]:
        """For each part its text for a record, and where in it (code points) the source stands.

        Raises:
            DataError: the template names a column that the record has not.
        """
        return [_fill(part, record, source) for part in self.parts]


def _fill(part: str, record: Record, source: str) -> tuple[str, range]:
    texts, at, place = [], 0, range(0)
    for fixed, name in _pieces(part):
        value = "" if name is None else source if name == SOURCE else _column(record, name)
        at += len(fixed)
        if name == SOURCE:
            place = range(at, at + len(value))
        texts += [fixed, value]
        at += len(value)
    return "".join(texts), place


def _pieces(part: str) -> Iterator[tuple[str, str | None]]:
    """(fixed text, name of the column behind it; None at the end)."""
    at = 0
    for match in _FIELD.finditer(part):
        yield part[at : match.start()], match[1]
        at = match.end()
    yield part[at:], None


def make_template(text: str, *, masks: bool) -> Template:
    """A template from its text.

    Args:
        masks: whether it stands for a GLM: it must hold the one mask where the answer belongs. White space in front
            of the mask is part of it.

    Raises:
        ConfigError: `{source}` is not in it exactly once, or it has not the one mask.
    """
    if _FIELD.findall(text).count(SOURCE) != 1:
        raise ConfigError(
            f"the template is {text!r}",
            where="task.template",
            expected="a text with {source} in it once",
            fix='for instance "summarize: {source}"',
        )
    if not masks:
        return Template((text,))
    pieces = split(text)
    if len(pieces.masks) != 1:
        raise ConfigError(
            f"the template {text!r} has {len(pieces.masks)} masks",
            where="task.template",
            expected="one mask, where the answer belongs",
            fix='for instance "{source}[gMASK]"',
        )
    return Template((pieces.parts[0].rstrip(), pieces.parts[1]), pieces.masks)


def _column(record: Record, name: str) -> str:
    value = record.get(name)
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    raise DataError(
        f"task.template names {{{name}}}, and that column holds {value!r}"
        if name in record.fields
        else f"task.template names {{{name}}}, and there is no such column",
        where=record.where,
        expected=f"a text or a number in the column {name!r}",
        fix="correct the row, or the template",
    )


class Encoder:
    """Texts → ids without special tokens; what looks like a special token in them is text.

    Args:
        tokenizer: a Hugging Face fast tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        with self._plain() as backend:
            self.before, self.after = _frame(backend.encode("a", add_special_tokens=True))

    @contextlib.contextmanager
    def _plain(self) -> Iterator[Any]:
        """The backend while it cuts nothing and reads special tokens as text (one that cuts words cannot be copied)."""
        backend = self._tokenizer.backend_tokenizer
        backend.no_padding()
        backend.no_truncation()
        before, backend.encode_special_tokens = backend.encode_special_tokens, True
        try:
            yield backend
        finally:
            backend.encode_special_tokens = before

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text."""
        with self._plain() as backend:
            return [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def sources(self, filled: Sequence[tuple[str, range]]) -> list[Source]:
        """Filled templates → ids. A token that reaches beyond the source is part of the template."""
        with self._plain() as backend:
            encodings = backend.encode_batch([text for text, _ in filled], add_special_tokens=False)
        return [_source(encoding, place) for encoding, (_, place) in zip(encodings, filled, strict=True)]


def _source(encoding: Any, place: range) -> Source:
    inside = [i for i, (low, high) in enumerate(encoding.offsets) if place.start <= low and high <= place.stop]
    loose = range(inside[0], inside[-1] + 1) if inside else range(0)
    return Source(encoding.ids, loose)


def _frame(encoding: Any) -> tuple[list[int], list[int]]:
    """The special tokens that a tokenizer puts in front of a single text and behind it."""
    ids, special = encoding.ids, encoding.special_tokens_mask
    first = special.index(0) if 0 in special else len(special)
    last = len(special) - special[::-1].index(0) if 0 in special else len(special)
    return ids[:first], ids[last:]


def shorten(source: Source, room: int, how: Truncation) -> tuple[list[int], int]:
    """(ids that fit `room`, number of tokens cut): "tail" cuts the end of a source, "head" its beginning.

    The template stays whole; where it alone is beyond `room`, its ids come back as they are.
    """
    over = min(max(len(source.ids) - room, 0), len(source.loose))
    if not over:
        return source.ids, 0
    kept = len(source.loose) - over
    first = {"tail": kept, "head": 0, "middle": kept - kept // 2}[how]
    begin = source.loose.start + first
    return source.ids[:begin] + source.ids[begin + over :], over

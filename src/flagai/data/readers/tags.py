"""Sequences of B/I/O tags become entities over tokens, strictly. Knows no text, no file format and no model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from flagai.errors import DataError

Scheme = Literal["auto", "IOB1", "IOB2", "BIOES"]

_TAG: Final = re.compile(r"([BIESMLU])[-_](.+)", re.DOTALL)
# BMES calls the inside M, BILOU the end L and the single token U.
_SAME: Final = {"M": "I", "L": "E", "U": "S"}


class Tag(NamedTuple):
    """One tag, its prefix in BIOES letters; `kind` is "" for O."""

    prefix: str
    kind: str


class TokenSpan(NamedTuple):
    """An entity over tokens `first` … `last` - 1."""

    first: int
    last: int
    kind: str


def parse_tag(tag: str) -> Tag | None:
    """A tag such as `B-PER`, `I_LOC` or `O`; None if it is none."""
    if tag == "O":
        return Tag("O", "")
    match = _TAG.fullmatch(tag)
    return Tag(_SAME.get(match[1], match[1]), match[2]) if match else None


def detect_scheme(sentences: Iterable[Sequence[str]]) -> Scheme:
    """Which scheme a whole file follows.

    E, S, M, L or U anywhere: BIOES (also BMES, BILOU). Otherwise IOB1 (Ramshaw and Marcus 1995: B only between two
    neighbours of one type) if entities begin with I and no B stands where IOB1 has none; otherwise IOB2.
    """
    begins_with_i = foreign_b = False
    for tags in sentences:
        before = Tag("O", "")
        for tag in map(parse_tag, tags):
            if tag is None:
                continue
            if tag.prefix in "ES":
                return "BIOES"
            begins_with_i |= tag.prefix == "I" and before.kind != tag.kind
            foreign_b |= tag.prefix == "B" and before.kind != tag.kind
            before = tag
    return "IOB1" if begins_with_i and not foreign_b else "IOB2"


@dataclass(frozen=True, kw_only=True)
class TagReader:
    """Reads the tags of one file.

    `repair` takes an inside tag without a beginning as a beginning, and closes what was left open, instead of raising.
    """

    scheme: Scheme
    repair: bool = False

    def spans(self, tags: Sequence[str], tokens: Sequence[str], where: Callable[[int], str]) -> list[TokenSpan]:
        """The entities of one sentence in order.

        Args:
            tags: one a token.
            tokens: for messages.
            where: index of a token → place, for messages.

        Raises:
            DataError: an unknown tag, or one that may not follow the tag before it.
        """
        found: list[TokenSpan] = []
        start, kind = -1, ""
        for at, raw in enumerate([*tags, "O"]):
            tag = parse_tag(raw)
            if tag is None:
                raise _unknown(raw, tokens[at], where(at))
            if not self.repair and (wrong := self._wrong(tag, kind)):
                raise self._error(at, tags, tokens, wrong, where)
            goes_on = tag.prefix in "IE" and tag.kind == kind
            if kind and not goes_on:
                found.append(TokenSpan(start, at, kind))
                kind = ""
            if tag.kind and not goes_on:
                start, kind = at, tag.kind
            if tag.prefix in "ES":
                found.append(TokenSpan(start, at + 1, kind))
                kind = ""
        return found

    def _wrong(self, tag: Tag, open_kind: str) -> str:
        """What is expected instead of a tag that breaks the scheme, "" if it does not. `open_kind` is "" for none."""
        inside = tag.prefix in "IE"
        if self.scheme == "IOB1" or (inside and tag.kind == open_kind):
            return ""
        if self.scheme == "BIOES" and open_kind:
            return f"I-{open_kind} or E-{open_kind}, for the entity before it is not ended"
        if not inside:
            return ""
        return f"B-{tag.kind} to begin an entity" + (f" or S-{tag.kind}" if self.scheme == "BIOES" else "")

    def _error(
        self, at: int, tags: Sequence[str], tokens: Sequence[str], expected: str, where: Callable[[int], str]
    ) -> DataError:
        last = min(at, len(tags) - 1)
        before = f"follows {tags[at - 1]!r}" if at else "begins the sentence"
        found = (
            f"tag {tags[at]!r} of token {tokens[at]!r} {before}"
            if at < len(tags)
            else f"the sentence ends after {tags[-1]!r}"
        )
        return DataError(
            f"broken tags: {found}",
            expected=f"{expected} (scheme {self.scheme}, as in the rest of the file)",
            fix="correct the tag, or read the file with repair=True, which begins an entity there",
            where=where(last),
        )


def _unknown(tag: str, token: str, where: str) -> DataError:
    return DataError(
        f"unknown tag {tag!r} of token {token!r}",
        expected="O, or B-, I- (also E-, S-, M-, L-, U-) followed by a type, for example B-PER",
        fix="correct the tag; the tag is the last column of the line",
        where=where,
    )

"""Lists of tokens with tags become a text with entities in code points, exactly. Knows no file format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flagai.data.readers.tags import Scheme, TagReader, detect_scheme
from flagai.errors import DataError
from flagai.text import is_cjk

Level = Literal["character", "cjk word", "word"]


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """Tokens, their tags (None if there are none) and the place of each token in words."""

    tokens: Sequence[str]
    tags: Sequence[str] | None
    where: Callable[[int], str]


def level_of(token_lists: Iterable[Sequence[str]]) -> Level:
    """How a whole file is tagged.

    By character, if most tokens are one code point and some are Han or kana; by CJK words, if a third of the tokens
    begin with Han or kana; otherwise by words that spaces part. A file is judged as a whole, because a sentence of a
    Chinese file may hold nothing but Latin letters.
    """
    count = single = cjk = 0
    for tokens in token_lists:
        count += len(tokens)
        single += sum(len(token) == 1 for token in tokens)
        cjk += sum(is_cjk(token[0]) for token in tokens if token)
    if single >= 0.8 * count and cjk >= 0.05 * count > 0:
        return "character"
    return "cjk word" if cjk >= count / 3 > 0 else "word"


def join_tokens(tokens: Sequence[str], level: Level) -> tuple[str, list[int]]:
    """The text that tokens stand for, and where each begins.

    Characters are joined directly, words by one space, CJK words by one space unless both neighbours are written
    without (Han, kana and their punctuation).
    """
    parts: list[str] = []
    starts: list[int] = []
    length = 0
    for at, token in enumerate(tokens):
        if at and _is_parted(tokens[at - 1], token, level):
            parts.append(" ")
            length += 1
        starts.append(length)
        parts.append(token)
        length += len(token)
    return "".join(parts), starts


def _is_parted(left: str, right: str, level: Level) -> bool:
    return level == "word" or (level == "cjk word" and not (_is_wide(left[-1]) and _is_wide(right[0])))


def _is_wide(char: str) -> bool:
    return is_cjk(char) or "\u3000" <= char <= "\u303f" or "\uff00" <= char <= "\uffef" or char in "“”‘’…—·"


def tagged_texts(
    sentences: Sequence[Sentence], *, scheme: Scheme = "auto", repair: bool = False
) -> list[tuple[str, list[dict[str, Any]] | None]]:
    """Each sentence as (text, entities); entities are {"start", "end", "label"}, ends exclusive, None without tags."""
    if scheme == "auto":
        scheme = detect_scheme(sentence.tags for sentence in sentences if sentence.tags is not None)
    reader = TagReader(scheme=scheme, repair=repair)
    level = level_of(sentence.tokens for sentence in sentences)
    return [_tagged(sentence, reader, level) for sentence in sentences]


def _tagged(sentence: Sentence, reader: TagReader, level: Level) -> tuple[str, list[dict[str, Any]] | None]:
    tokens, tags = sentence.tokens, sentence.tags
    empty = next((at for at, token in enumerate(tokens) if not token), None)
    if empty is not None:
        raise DataError("a token is empty", expected="a token and its tag", where=sentence.where(empty))
    text, starts = join_tokens(tokens, level)
    if tags is None:
        return text, None
    if len(tags) != len(tokens):
        raise DataError(
            f"{len(tokens)} tokens and {len(tags)} tags",
            expected="one tag for each token",
            where=sentence.where(0),
        )
    return text, [
        {"start": starts[first], "end": starts[last - 1] + len(tokens[last - 1]), "label": kind}
        for first, last, kind in reader.spans(tags, tokens, sentence.where)
    ]

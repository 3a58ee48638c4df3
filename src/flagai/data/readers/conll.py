"""CoNLL files (token and tag a line, a blank line between sentences) become sentences. Knows no scheme of tags."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from flagai.data.readers.tags import parse_tag
from flagai.data.readers.tokens import Sentence
from flagai.errors import DataError

_SPACES: Final = re.compile(" +")


def looks_like_conll(text: str) -> bool:
    """Whether the first line that is no comment ends in a tag."""
    for line in text.split("\n"):
        cells = _cells(line)
        if len(cells) > 1 and parse_tag(cells[-1]):
            return True
        if cells and not line.startswith(("#", "-DOCSTART-")):
            return False
    return False


def conll_sentences(text: str, file: str) -> list[tuple[int, Sentence]]:
    """Sentences with the line they begin on. The token is the first column, the tag the last; -DOCSTART- is skipped.

    Raises:
        DataError: a line without a tag, or with another number of columns than the first.
    """
    found = [_sentence(block, file) for block in _blocks(text, file)]
    if not found:
        raise DataError("no token line in the file", expected="lines such as `Berlin B-LOC`", where=file)
    return found


def _sentence(block: list[tuple[int, list[str]]], file: str) -> tuple[int, Sentence]:
    lines = [line for line, _ in block]
    return lines[0], Sentence(
        tokens=[cells[0] for _, cells in block],
        tags=[cells[-1] for _, cells in block],
        where=lambda at: f"{file}:{lines[at]}",
    )


def _blocks(text: str, file: str) -> Iterator[list[tuple[int, list[str]]]]:
    block: list[tuple[int, list[str]]] = []
    width = 0
    for number, line in enumerate(text.split("\n"), start=1):
        cells = _cells(line)
        if not cells:
            if block:
                yield block
            block = []
        elif not _is_comment(line, cells, width, begins=not block):
            width = width or len(cells)
            _check(cells, width, line, f"{file}:{number}")
            block.append((number, cells))
    if block:
        yield block


def _cells(line: str) -> list[str]:
    """The columns of a line: parted by tabs if there is one, else by spaces. Only these part: U+3000 can be a token."""
    line = line.removesuffix("\r")
    if not line.strip(" \t"):
        return []
    if "\t" in line:
        return line.rstrip("\t").split("\t")
    cells = _SPACES.split(line.rstrip(" "))
    if cells[0] == "" and len(cells) == 2:
        cells[0] = " "  # a line such as "  O": the token is a space
    return cells


def _is_comment(line: str, cells: list[str], width: int, *, begins: bool) -> bool:
    """-DOCSTART-, or a line with # in front of a sentence that cannot be a token: `# O` is one, `# id 5` is not."""
    if line.startswith("-DOCSTART-"):
        return True
    return begins and line.startswith("# ") and (len(cells) != (width or 2) or parse_tag(cells[-1]) is None)


def _check(cells: list[str], width: int, line: str, where: str) -> None:
    if len(cells) < 2:
        raise DataError(
            f"one column: {line[:40]!r}",
            expected="a token and its tag, for example `Berlin B-LOC`",
            fix="add the tag (O for none), or a blank line between sentences",
            where=where,
        )
    if len(cells) != width:
        raise DataError(
            f"{len(cells)} columns: {line[:40]!r}",
            expected=f"{width} columns, as in the first line",
            fix="part the columns by one tab if a token contains spaces",
            where=where,
        )

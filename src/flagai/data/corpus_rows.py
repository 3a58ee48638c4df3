"""Files of documents → blocks of raw rows → (prompt, text) pairs, a block at a time. Knows no tokens.

JSON lines and plain text (a document a line) are read as a stream, whatever their size; the other formats through
`records.read_table`, whole.
"""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from flagai.data.readers.files import read_text, require_file, suffix_of
from flagai.data.readers.jsons import describe
from flagai.data.records import read_table
from flagai.errors import DataError

BLOCK_BYTES: Final = 1 << 21
"""about so many bytes of a file are one piece of work: enough to keep a process busy, little to hold in memory"""

Form = Literal["json", "text", "rows"]
Document = tuple[str, str]
"""prompt ("" for none) and text"""


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a file: undecoded lines, or rows that a reader decoded. `first` is the line of the first, from 1."""

    file: str
    form: Form
    first: int
    lines: list[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How rows are read: the columns of prompt and text, the encoding, and whether rows without text are skipped."""

    prompt: str = "prompt"
    text: str = "text"
    encoding: str | None = None
    skip_empty: bool = False


def blocks(path: Path, reading: Reading, progress: Callable[[int], None] | None = None) -> Iterator[Block]:
    """The file in blocks, in order.

    Args:
        progress: called with the bytes of the file read so far (of a .gz file: compressed bytes).

    Raises:
        MissingFileError, DataError: there is no such file, or it cannot be read.
    """
    require_file(path)
    suffix, zipped = suffix_of(path)
    if suffix not in (".jsonl", ".ndjson", ".txt") or path.is_dir() or _wide(path, reading.encoding):
        yield from _from_table(path, reading)
        return
    form: Form = "text" if suffix == ".txt" else "json"
    first, lines, size = 1, [], 0
    for line in _lines(path, zipped, progress):
        lines.append(line)
        size += len(line)
        if size >= BLOCK_BYTES:
            yield Block(str(path), form, first, lines)
            first, lines, size = first + len(lines), [], 0
    if lines:
        yield Block(str(path), form, first, lines)


def _wide(path: Path, encoding: str | None) -> bool:
    """Whether a line end is more than one byte: such a file cannot be cut into lines before it is decoded."""
    name = (encoding or "").lower().replace("_", "-")
    with path.open("rb") as file:
        return name.startswith(("utf-16", "utf-32", "utf16", "utf32")) or file.read(2) in (b"\xff\xfe", b"\xfe\xff")


def _from_table(path: Path, reading: Reading) -> Iterator[Block]:
    rows = read_table(path, kind="text", encoding=reading.encoding).rows
    for start in range(0, len(rows), 4096):
        yield Block(str(path), "rows", start + 1, list(rows[start : start + 4096]))


def _lines(path: Path, zipped: bool, progress: Callable[[int], None] | None) -> Iterator[bytes]:
    seen = 0
    with path.open("rb") as raw:
        try:
            for line in gzip.GzipFile(fileobj=raw) if zipped else raw:
                seen += len(line)
                yield line
                if progress is not None and seen >= BLOCK_BYTES:
                    progress(raw.tell() if zipped else seen)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(
                f"the file does not unpack: {error}",
                expected="a complete gzip file, as its name ends in .gz",
                fix="copy or download it again, or drop .gz from its name if it is not compressed",
                where=str(path),
            ) from error


def documents(block: Block, reading: Reading) -> tuple[list[Document], list[int], int]:
    """The documents of a block, the line of each, and how many rows without text were skipped.

    Raises:
        DataError: a row that cannot be decoded, is no object, or has no text (unless these are skipped).
    """
    found: list[Document] = []
    places: list[int] = []
    skipped = 0
    for line, row in _rows(block, reading):
        document = _document(row, reading, f"{block.file}:{line}")
        if document is None:
            skipped += 1
        else:
            found.append(document)
            places.append(line)
    return found, places, skipped


def _rows(block: Block, reading: Reading) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if block.form == "rows":
        yield from block.lines
        return
    for number, raw in enumerate(block.lines, start=block.first):
        text = _decode(raw, block, number, reading.encoding)
        if not text.strip():
            continue
        yield number, {reading.text: text.strip()} if block.form == "text" else _object(text, block, number)


def _decode(raw: bytes, block: Block, number: int, encoding: str | None) -> str:
    if number == 1:
        raw = raw.removeprefix(codecs.BOM_UTF8)
    try:
        text = raw.decode(encoding or "utf-8")
    except (UnicodeDecodeError, LookupError) as error:
        read_text(Path(block.file), encoding)  # the reader of whole files knows best what is wrong
        raise DataError(f"the line cannot be decoded: {error}", where=f"{block.file}:{number}") from error
    if "\0" in text:
        raise DataError(
            "a NUL character: this is not a text file", expected="text in UTF-8", where=f"{block.file}:{number}"
        )
    return text


def _object(text: str, block: Block, number: int) -> Mapping[str, Any]:
    where = f"{block.file}:{number}"
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(
            f"not valid JSON: {error}; the line begins {text[:40]!r}",
            expected="one object a line",
            fix="correct that line (strings in double quotes, a line break as \\n)",
            where=where,
        ) from error
    if not isinstance(value, dict):
        raise DataError(f"a row is {describe(value)}", expected='an object such as {"text": "…"}', where=where)
    return value


def _document(row: Mapping[str, Any], reading: Reading, where: str) -> Document | None:
    """The row's prompt and text, None where it has no text and such rows are skipped."""
    text, prompt = row.get(reading.text), row.get(reading.prompt)
    if reading.skip_empty and (text is None or (isinstance(text, str) and not text.strip())):
        return None
    if not isinstance(text, str) or not text.strip():
        raise _no_text(row, reading, where)
    if prompt is not None and not isinstance(prompt, str):
        raise DataError(
            f"the field {reading.prompt!r} is {describe(prompt)}",
            expected="a text, or nothing",
            fix="correct the row, or name another column in data.columns.prompt",
            where=where,
        )
    if _half(text) or _half(prompt or ""):
        raise DataError(
            "the text holds half of a surrogate pair, as in \\ud83d",
            expected="whole Unicode characters",
            fix="write the file again with a JSON library, in UTF-8",
            where=where,
        )
    return prompt or "", text


def _no_text(row: Mapping[str, Any], reading: Reading, where: str) -> DataError:
    there = ", ".join(map(repr, row)) or "none"
    return DataError(
        f"the field {reading.text!r} is {describe(row[reading.text])}"
        if reading.text in row
        else f"no text: there is no field {reading.text!r}; the row has {there}",
        expected="a text that is not empty in every row",
        fix="correct the row, name the field (data.columns.text in a run.yaml), or leave such rows out "
        "(flagai data corpus … --skip-empty)",
        where=where,
    )


def _half(text: str) -> bool:
    """Whether a text holds half of a surrogate pair: such a text has no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False

"""CSV, TSV and Parquet become a header and rows. Knows no task; of names only those it is told."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from flagai.data.readers.jsons import Row
from flagai.errors import DataError, MissingExtraError

Cells = tuple[int, list[str]]
"""the line on which a row starts, and its cells"""

_NUMBER: Final = re.compile(r"[-+]?\d+(\.\d+)?")
_QUOTED_CELL: Final = re.compile(r'(?:^|\t)"', re.MULTILINE)
_FIELD_LIMIT: Final = 2**31 - 1


def table_rows(
    text: str, file: str, *, tab: bool, known: Callable[[str], bool], columns: Mapping[str, str], pair: bool
) -> list[Row]:
    """Rows of a CSV or TSV file as {column: cell}.

    The first line of a CSV file is its header; that of a TSV file is one when a cell of it is named in `columns`, or is
    a known column name that does not return further down in its column. Otherwise a TSV file has two or three columns:
    text, label or text, text_pair, label (text, text_pair with `pair` and two). Values of `columns` that are all
    numbers mean a file without a header, CSV or TSV, and count its columns from 1.

    Args:
        text: the whole file.
        file: its name, for messages.
        tab: whether cells are parted by tabs. Quotes are then ordinary characters, unless the file is exactly what a
            CSV writer makes.
        known: whether a name is one that columns commonly have.
        columns: canonical name → column of this file.
        pair: whether the rows are known to be pairs.
    """
    cells = list(_tsv_cells(text, file) if tab else _csv_cells(text, file))
    header = cells[0][1]
    if columns and all(value.isdigit() for value in columns.values()) and not set(columns.values()) & set(header):
        return _numbered(cells, file, columns)
    if tab and not _is_header(header, cells[1:], known, columns):
        header = _without_header(cells, file, pair)
    else:
        _check_header(header, cells[0][0], file)
        cells = cells[1:]
    _check_width(cells, len(header), file, tab)
    if not cells:
        raise DataError("a header and no row", expected="at least one row below the header", where=file)
    return [(line, dict(zip(header, row, strict=True))) for line, row in cells]


def _is_header(
    first: Sequence[str], below: Sequence[Cells], known: Callable[[str], bool], columns: Mapping[str, str]
) -> bool:
    """Whether a cell is named in `columns`, or is a known name that does not return below: a class may be "title"."""
    if any(name in columns.values() for name in first):
        return True
    names = [at for at, name in enumerate(first) if known(name)]
    return any(all(len(row) <= at or row[at] != first[at] for _, row in below) for at in names)


def _numbered(cells: Sequence[Cells], file: str, columns: Mapping[str, str]) -> list[Row]:
    """A file without a header: its columns are called by their numbers, counted from 1."""
    header = [str(number + 1) for number in range(len(cells[0][1]))]
    _check_width(cells, len(header), file, tab=True)
    return [(line, dict(zip(header, row, strict=True))) for line, row in cells]


def _without_header(cells: Sequence[Cells], file: str, pair: bool) -> list[str]:
    line, first = cells[0]
    names = {2: ["text", "text_pair"] if pair else ["text", "label"], 3: ["text", "text_pair", "label"]}.get(len(first))
    labels = {row[-1] for _, row in cells[1:]}
    # Labels repeat and headers do not: this keeps an unknown header from becoming a record.
    if names and names[-1] == "label" and (first[-1] in labels or _NUMBER.fullmatch(first[-1])):
        return names
    raise DataError(
        f"no cell of the first line is a known column name: {', '.join(map(repr, (cell[:30] for cell in first[:8])))}",
        expected="a header such as text<tab>label, or two or three columns without a header whose last is a label",
        fix="name the columns: data.columns: {text: …, label: …}; in a file without a header by their numbers, from 1",
        where=f"{file}:{line}",
    )


def _check_header(header: Sequence[str], line: int, file: str) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(
            f"the column name {twice[0]!r} stands twice in the header",
            expected="every column name once",
            fix="rename one of the two",
            where=f"{file}:{line}",
        )


def _check_width(cells: Sequence[Cells], width: int, file: str, tab: bool) -> None:
    for line, row in cells:
        if len(row) != width:
            cause = "a tab or a line break inside a text" if tab else "a comma or a line break in a text without quotes"
            raise DataError(
                f"{len(row)} cells: {' | '.join(cell[:24] for cell in row[:6])}",
                expected=f"{width} cells, as in the first line",
                fix=f"look for {cause}" + ("" if tab else '; such a text must stand in "double quotes"'),
                where=f"{file}:{line}",
            )


def _csv_cells(text: str, file: str, delimiter: str = ",") -> Iterator[Cells]:
    before = csv.field_size_limit(_FIELD_LIMIT)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    start = 1
    try:
        for row in reader:
            if row and (len(row) > 1 or row[0].strip()):
                yield start, row
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"the quotes do not match: {error}",
            expected='texts with commas, quotes or line breaks in "double quotes", a quote in them doubled ("")',
            fix="look at this row and the one before it",
            where=f"{file}:{start}",
        ) from error
    finally:
        csv.field_size_limit(before)


def _tsv_cells(text: str, file: str) -> Iterator[Cells]:
    if _QUOTED_CELL.search(text) and _is_csv_written(text):
        yield from _csv_cells(text, file, delimiter="\t")
        return
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.removesuffix("\r")
        if line.strip():
            yield number, line.split("\t")


def _is_csv_written(text: str) -> bool:
    """Whether parsing the text as quoted TSV and writing it again gives the same text.

    A file of raw text in which some sentence begins with a quote does not pass, a file exported by pandas or Excel
    does.
    """
    plain = text.replace("\r\n", "\n").removesuffix("\n")
    try:
        rows = list(csv.reader(io.StringIO(plain, newline=""), delimiter="\t", strict=True))
    except csv.Error:
        return False
    return any(_written(rows, style) == plain for style in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL))


def _written(rows: Sequence[Sequence[str]], style: Any) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter="\t", lineterminator="\n", quoting=style).writerows(rows)
    return out.getvalue().removesuffix("\n")


def parquet_rows(path: Path) -> list[Row]:
    """Rows of a Parquet file; their "lines" are row numbers counted from 1."""
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtraError.for_package("pyarrow", "parquet") from error
    try:
        rows = parquet.ParquetFile(path).read().to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"not a readable Parquet file: {str(error).splitlines()[0]}",
            expected="a complete Parquet file",
            fix="copy or download it again",
            where=str(path),
        ) from error
    if not rows:
        raise DataError("the table has no rows", expected="at least one row", where=str(path))
    return list(enumerate(rows, start=1))

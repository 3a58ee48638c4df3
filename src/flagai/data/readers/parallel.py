"""Two files of which line i of one belongs to line i of the other: sources and targets. Knows no task.

The layouts: `train.src` and `train.tgt` (the original's), `train.source` and `train.target`, and a folder with `in.txt`
and `out.txt`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from flagai.data.readers.files import read_text, suffix_of
from flagai.data.readers.jsons import Row
from flagai.errors import DataError, MissingFileError

PARTNERS: Final = {".src": ".tgt", ".source": ".target"}
_FILES: Final = ("in.txt", "out.txt")


def is_parallel(path: Path) -> bool:
    """Whether a path is the file of sources, or the folder, of such a pair."""
    if path.is_dir():
        return (path / _FILES[0]).is_file() and (path / _FILES[1]).is_file()
    return suffix_of(path)[0] in PARTNERS


def parallel_rows(path: Path, encoding: str | None) -> list[Row]:
    """Rows {"source", "target"}; without the file of targets, for prediction, {"source"} alone. Blank lines count.

    Raises:
        DataError: the files differ in their number of lines.
        MissingFileError: there is no file of sources.
    """
    sources, targets = _files(path)
    if not sources.is_file():
        raise MissingFileError("no such file", expected="the file of sources", where=str(sources))
    first = _lines(sources, encoding)
    if not targets.is_file():
        return [(line, {"source": text}) for line, text in enumerate(first, start=1)]
    second = _lines(targets, encoding)
    if len(first) != len(second):
        raise DataError(
            f"{sources.name} has {len(first)} lines, {targets.name} has {len(second)}",
            expected="as many lines in both: line i of one belongs to line i of the other",
            fix="look for a blank or missing line",
            where=str(targets),
        )
    return [(line, {"source": a, "target": b}) for line, (a, b) in enumerate(zip(first, second, strict=True), 1)]


def _files(path: Path) -> tuple[Path, Path]:
    if path.is_dir():
        return path / _FILES[0], path / _FILES[1]
    suffix, zipped = suffix_of(path)
    stem = path.with_suffix("").with_suffix("") if zipped else path.with_suffix("")
    return path, stem.with_name(stem.name + PARTNERS[suffix] + (".gz" if zipped else ""))


def _lines(path: Path, encoding: str | None) -> list[str]:
    lines = read_text(path, encoding).split("\n")
    return [line.strip() for line in (lines[:-1] if lines[-1] == "" else lines)]

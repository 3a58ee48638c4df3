"""Folders of splits: which file is train, eval and test; the seq.in/label layout. Knows no columns."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from flagai.data.readers.files import read_text, require_file, suffix_of
from flagai.data.readers.jsons import Row
from flagai.data.readers.parallel import PARTNERS, is_parallel
from flagai.data.readers.tokens import Sentence
from flagai.errors import DataError

Split = Literal["train", "eval", "test"]

SUFFIXES: Final = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt", ".conll", ".bio")
_NAMES: Final[dict[str, Split]] = {
    **{"train": "train", "training": "train"},
    **{"dev": "eval", "val": "eval", "valid": "eval", "validation": "eval", "eval": "eval"},
    **{"test": "test", "testing": "test"},
}
_SHARD: Final = re.compile(r"-00000-of-00001$")


def find_splits(folder: str | Path) -> dict[str, Path]:
    """Which of `train`, `eval` and `test` a folder holds, as files or as folders (`seq.in`, or `in.txt` and `out.txt`).

    A split is recognised by its name: train, dev, val, valid, validation, eval, test, with a suffix that is read,
    `.gz` or not.

    Raises:
        MissingFileError: there is no such folder.
        DataError: no split is in it, or two files are the same split.
    """
    folder = Path(folder)
    require_file(folder)
    if not folder.is_dir():
        raise DataError("a file", expected="a folder with train, dev and test files", where=str(folder))
    found: dict[str, Path] = {}
    for entry in sorted(folder.iterdir()):
        split = _split_of(entry)
        if split and split in found:
            raise DataError(
                f"{found[split].name} and {entry.name} are both the {split} split",
                expected="one file for each split",
                fix=f"name the file: data.{split}",
                where=str(folder),
            )
        if split:
            found[split] = entry
    if not found:
        there = ", ".join(sorted(entry.name for entry in folder.iterdir())[:12]) or "nothing"
        raise DataError(
            f"no split in the folder, which holds {there}",
            expected=f"files named train, dev and test with one of the suffixes {' '.join(SUFFIXES)}",
            fix="name the files in data.train, data.eval and data.test",
            where=str(folder),
        )
    return {split: found[split] for split in ("train", "eval", "test") if split in found}


def _split_of(entry: Path) -> Split | None:
    if entry.is_dir():
        return _NAMES.get(entry.name.lower()) if is_sequence_folder(entry) or is_parallel(entry) else None
    suffix, zipped = suffix_of(entry)
    if suffix not in SUFFIXES and suffix not in PARTNERS:
        return None
    stem = Path(entry.stem).stem if zipped else entry.stem
    return _NAMES.get(_SHARD.sub("", stem.lower()))


def is_sequence_folder(path: Path) -> bool:
    """Whether a folder is one split in the seq.in/label layout (SNIPS, ATIS in the files of Goo et al. 2018)."""
    return (path / "seq.in").is_file()


def sequence_rows(folder: Path, encoding: str | None) -> list[Row]:
    """Rows {"text", "label"} of `seq.in` and, if it is there, `label`."""
    texts = _lines(folder / "seq.in", encoding)
    if not (folder / "label").is_file():
        return [(line, {"text": text}) for line, text in enumerate(texts, start=1)]
    labels = _lines(folder / "label", encoding)
    _check_lengths(folder, texts, labels, "label")
    return [
        (line, {"text": text, "label": label}) for line, (text, label) in enumerate(zip(texts, labels, strict=True), 1)
    ]


def sequence_sentences(folder: Path, encoding: str | None) -> list[tuple[int, Sentence]]:
    """Words of `seq.in` with the tags of `seq.out`."""
    texts, tags = _lines(folder / "seq.in", encoding), _lines(folder / "seq.out", encoding)
    _check_lengths(folder, texts, tags, "seq.out")
    return [
        (line, Sentence(tokens=text.split(), tags=tag.split(), where=_place(f"{folder / 'seq.out'}:{line}")))
        for line, (text, tag) in enumerate(zip(texts, tags, strict=True), start=1)
    ]


def _place(where: str) -> Callable[[int], str]:
    return lambda at: where


def _lines(path: Path, encoding: str | None) -> list[str]:
    lines = read_text(path, encoding).split("\n")
    return [line.strip() for line in (lines[:-1] if lines[-1] == "" else lines)]


def _check_lengths(folder: Path, texts: list[str], others: list[str], name: str) -> None:
    if len(texts) != len(others):
        raise DataError(
            f"seq.in has {len(texts)} lines, {name} has {len(others)}",
            expected="as many lines in both: line i of one belongs to line i of the other",
            fix="look for a blank or missing line",
            where=str(folder / name),
        )

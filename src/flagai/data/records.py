"""A user's file becomes records with canonical field names, each knowing its file and line. Knows no task and no model.

Formats by suffix, each also with `.gz`: .jsonl .ndjson .json .csv .tsv .parquet .txt .conll .bio; pairs of files with
sources and targets (`train.src` and `train.tgt`); and folders with `seq.in`, or with `in.txt` and `out.txt`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from flagai.data.readers import conll, folders, tables
from flagai.data.readers.columns import Kind, detect_kind, guess_columns, is_known, is_known_of_targets, resolve_columns
from flagai.data.readers.files import read_text, require_file, suffix_of
from flagai.data.readers.folders import SUFFIXES, find_splits
from flagai.data.readers.jsons import Row, describe, json_rows
from flagai.data.readers.parallel import is_parallel, parallel_rows
from flagai.data.readers.spans import is_spans, spans_of
from flagai.data.readers.tags import Scheme
from flagai.data.readers.tokens import Sentence, tagged_texts
from flagai.data.record import Record
from flagai.errors import ConfigError, DataError

__all__ = [
    "Kind",
    "Table",
    "data_hash",
    "file_sha256",
    "find_splits",
    "guess_columns",
    "read_records",
    "read_split",
    "read_table",
]

_FIRST_ROWS: Final = 200
_CANONICAL: Final = ("text", "text_pair", "label")


@dataclass(frozen=True, kw_only=True)
class Table:
    """A file as it is: columns and rows before any column has a meaning; `sentences` for files of tokens and tags."""

    file: str
    form: str
    """the format, as in "csv", or "conll", "seq.in" """
    rows: Sequence[Row] = ()
    sentences: Sequence[tuple[int, Sentence]] = ()
    header: Sequence[str] = field(default=())

    def first_rows(self) -> list[dict[str, Any]]:
        """The first rows without their lines, enough to guess what the columns are."""
        return [row for _, row in self.rows[:_FIRST_ROWS]]


def read_records(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    hints: Mapping[str, str] | None = None,
    kind: Kind = "auto",
    label_required: bool = False,
    encoding: str | None = None,
    scheme: Scheme = "auto",
    repair: bool = False,
) -> list[Record]:
    """All records of one file, in order.

    Args:
        path: a file, or a folder with `seq.in`.
        columns: canonical name (`text`, `text_pair`, `label`, any other) → column of the file; what is not told is
            guessed from well-known names (`guess_columns`). The other columns stay in `Record.fields` under their own
            names; one that bears a canonical name without having that role becomes `_name`.
        hints: as `columns`, for those columns that the file has; the others are guessed.
        kind: what a record is: one text, a pair, a text with entities, a text and its target, or what the file shows.
        label_required: whether a record without a label is an error; otherwise it has no field `label`.
        encoding: of the file; None means UTF-8, or UTF-16 with a byte order mark.
        scheme: of B/I/O tags; "auto" tells it from the whole file.
        repair: whether broken tags are read as the beginning of an entity instead of being an error.

    Raises:
        MissingFileError: there is no such path.
        MissingExtraError: a Parquet file, and pyarrow is not installed.
        DataError: everything else that is wrong with the file, with file and line.
    """
    columns = {name: column for name, column in (columns or {}).items() if column is not None}
    hints = hints or {}
    table = read_table(path, columns={**hints, **columns}, kind=kind, encoding=encoding)
    columns = {name: column for name, column in hints.items() if column in table.header} | columns
    if table.sentences:
        return _from_sentences(table, kind, scheme, repair)
    first = table.first_rows()
    kind = _kind_of(table, columns) if kind == "auto" else kind
    resolved = resolve_columns(table.header, first, kind, columns, table.file)
    rows = [(line, _renamed(row, resolved)) for line, row in table.rows]
    if kind == "entities":
        rows = _with_entities(rows, table.file, scheme, repair)
    elif kind == "target":
        rows = [(line, _with_whole_text(row)) for line, row in rows]
    return [_record(line, row, table.file, kind, resolved, label_required) for line, row in rows]


def _kind_of(table: Table, columns: Mapping[str, str]) -> Kind:
    """As the file shows, and as `columns` says: a text_pair makes a pair, a label column of entities makes entities."""
    if "text_pair" in columns:
        return "pair"
    if "label" in columns:
        labels = [row.get(columns["label"]) for row in table.first_rows()]
        return (
            detect_kind(["label"], [{"label": label} for label in labels]) if any(map(_is_shaped, labels)) else "text"
        )
    return detect_kind(table.header, table.first_rows())


def _is_shaped(label: Any) -> bool:
    return isinstance(label, (list, dict)) and bool(label)


def read_table(
    path: str | Path, *, columns: Mapping[str, str] | None = None, kind: Kind = "auto", encoding: str | None = None
) -> Table:
    """A file as columns and rows (or sentences of tokens and tags), nothing renamed. Arguments as of `read_records`."""
    path = Path(path)
    require_file(path)
    if is_parallel(path):
        return _table(path, "parallel", parallel_rows(path, encoding))
    if path.is_dir():
        return _folder_table(path, kind, encoding)
    suffix, zipped = suffix_of(path)
    if suffix not in SUFFIXES:
        raise DataError(
            f"unknown format {suffix or 'without a suffix'}",
            expected=f"a file that ends in one of {' '.join(SUFFIXES)}, also followed by .gz",
            fix="rename or convert the file",
            where=str(path),
        )
    if suffix == ".parquet":
        if zipped:
            raise DataError("a compressed Parquet file", expected=".parquet", fix="gunzip it", where=str(path))
        return _table(path, "parquet", tables.parquet_rows(path))
    return _text_table(path, read_text(path, encoding), suffix, columns or {}, kind)


def _folder_table(path: Path, kind: Kind, encoding: str | None) -> Table:
    if not folders.is_sequence_folder(path):
        found = ", ".join(f"{split}: {entry.name}" for split, entry in find_splits(path).items())
        raise DataError(
            f"a folder of splits ({found})",
            expected="one file",
            fix="name the file of the split, or read the folder with read_split",
            where=str(path),
        )
    if kind == "entities":
        return Table(file=str(path), form="seq.in", sentences=folders.sequence_sentences(path, encoding))
    return _table(path / "seq.in", "seq.in", folders.sequence_rows(path, encoding))


def _text_table(path: Path, text: str, suffix: str, columns: Mapping[str, str], kind: Kind) -> Table:
    file = str(path)
    if suffix in (".jsonl", ".ndjson", ".json"):
        return _table(path, suffix[1:], json_rows(text, file, lines=suffix != ".json"))
    if suffix in (".csv", ".tsv") or (suffix == ".txt" and _is_tsv(text, kind)):
        tab = suffix != ".csv"
        known = is_known_of_targets if kind == "target" else is_known
        rows = tables.table_rows(text, file, tab=tab, known=known, columns=columns, pair=kind == "pair")
        return _table(path, "tsv" if tab else "csv", rows)
    if suffix == ".txt" and kind in ("text", "target") and not conll.looks_like_conll(text):
        lines = enumerate(text.split("\n"), start=1)
        return _table(path, "txt", [(number, {"text": line.strip()}) for number, line in lines if line.strip()])
    return Table(file=file, form="conll", sentences=conll.conll_sentences(text, file))


def _is_tsv(text: str, kind: Kind) -> bool:
    """A .txt file is CoNLL if it looks so, otherwise a table if its first line has a tab."""
    first = next(line for line in text.split("\n") if line.strip())
    return kind != "entities" and "\t" in first and not conll.looks_like_conll(text)


def _table(path: Path, form: str, rows: list[Row]) -> Table:
    if not rows:
        raise DataError("no rows", expected="at least one row", where=str(path))
    header = list(dict.fromkeys(name for _, row in rows for name in row))
    return Table(file=str(path), form=form, rows=rows, header=header)


def _from_sentences(table: Table, kind: Kind, scheme: Scheme, repair: bool) -> list[Record]:
    if kind not in ("auto", "entities"):
        raise DataError(
            "lines of tokens and tags",
            expected="one text a row" if kind == "text" else "two texts a row",
            fix="give a jsonl, csv or tsv file, or choose a task for entities such as ner",
            where=table.file,
        )
    texts = tagged_texts([sentence for _, sentence in table.sentences], scheme=scheme, repair=repair)
    return [
        Record({"text": text, "label": entities}, table.file, line)
        for (line, _), (text, entities) in zip(table.sentences, texts, strict=True)
    ]


def _renamed(row: Mapping[str, Any], resolved: Mapping[str, str]) -> dict[str, Any]:
    roles = {column: name for name, column in resolved.items()}
    renamed = {f"_{name}" if name in _CANONICAL else name: value for name, value in row.items() if name not in roles}
    return {roles[column]: row[column] for column in roles if column in row} | renamed


def _with_entities(rows: Sequence[Row], file: str, scheme: Scheme, repair: bool) -> list[Row]:
    """Rows whose text is a string and whose label, if there is one, is a list of entities."""
    tagged = {at for at, (_, row) in enumerate(rows) if _is_tagged(row)}
    sentences = [_tokens(row, f"{file}:{line}") for at, (line, row) in enumerate(rows) if at in tagged]
    texts = iter(tagged_texts(sentences, scheme=scheme, repair=repair))
    found: list[Row] = []
    for at, (line, row) in enumerate(rows):
        if at in tagged:
            text, entities = next(texts)
            row = row | {"text": text} | ({} if entities is None else {"label": entities})
        elif row.get("label") is not None and isinstance(row.get("text"), str):
            row = row | {"label": spans_of(row["label"], row["text"], f"{file}:{line}")}
        found.append((line, row))
    return found


def _with_whole_text(row: Mapping[str, Any]) -> dict[str, Any]:
    """A source that is a list of sentences (SciTLDR) as one text."""
    text = row.get("text")
    if not isinstance(text, list) or not text or not all(isinstance(sentence, str) for sentence in text):
        return dict(row)
    return {**row, "text": " ".join(sentence.strip() for sentence in text)}


def _is_tagged(row: Mapping[str, Any]) -> bool:
    label = row.get("label")
    return isinstance(row.get("text"), list) or (
        isinstance(label, list) and bool(label) and not is_spans(label) and not isinstance(label[0], (list, dict))
    )


def _tokens(row: Mapping[str, Any], where: str) -> Sentence:
    """Tokens as given, or the characters of a text."""
    tokens, tags = row.get("text"), row.get("label")
    if tokens is None or any(not isinstance(token, str) for token in tokens):
        raise DataError(
            f"the tokens are {describe(tokens)}", expected="a list of strings", fix="correct this row", where=where
        )
    if tags is not None and (not isinstance(tags, list) or any(not isinstance(tag, str) for tag in tags)):
        raise DataError(
            f"the tags are {describe(tags)}",
            expected='one string a token, such as "B-PER" or "O"',
            fix="write tags by name; numbers say nothing without their table",
            where=where,
        )
    return Sentence(tokens=list(tokens), tags=tags, where=_place(where))


def _place(where: str) -> Callable[[int], str]:
    return lambda at: f"{where}, token {at + 1}"


def _record(
    line: int, row: dict[str, Any], file: str, kind: Kind, columns: Mapping[str, str], label_required: bool
) -> Record:
    where = f"{file}:{line}"
    for name in ("text", "text_pair") if kind == "pair" else ("text",):
        _check_text(name, row, columns[name], where)
    label = row.get("label")
    if label is None or label == "":
        row.pop("label", None)
        if label_required:
            column = columns.get("label")
            raise DataError(
                f"no label: the field {column!r} is missing or empty"
                if column
                else "no column is known to be the label",
                expected="a label in every row",
                fix="correct the row"
                if column
                else f"name the column: data.columns: {{label: …}}; found: {', '.join(row)}",
                where=where,
            )
    elif kind != "entities":
        _check_label(label, columns["label"], where)
    return Record(row, file, line)


def _check_text(name: str, row: Mapping[str, Any], column: str, where: str) -> None:
    value = row.get(name)
    if not isinstance(value, str):
        found = describe(value) if name in row else "missing"
        raise DataError(
            f"the {name} (field {column!r}) is {found}",
            expected="a string",
            fix="correct the row, or name another column in data.columns",
            where=where,
        )
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        raise DataError(
            f"the {name} (field {column!r}) holds half of a surrogate pair, as in \\ud83d",
            expected="whole Unicode characters",
            fix="write the file again with a JSON library, in UTF-8",
            where=where,
        )


def _check_label(label: Any, column: str, where: str) -> None:
    items = label if isinstance(label, list) else [label]
    if any(not isinstance(item, (str, int, float)) for item in items):
        raise DataError(
            f"the label (field {column!r}) is {describe(label)}",
            expected="a string, a number, or a list of strings",
            fix="correct the row, or name another column in data.columns.label",
            where=where,
        )


def read_split(folder: str | Path, split: folders.Split, **options: Any) -> list[Record]:
    """The records of one split of a folder (`find_splits`); options as of `read_records`.

    Raises:
        ConfigError: a name that is no split.
        DataError: the folder has no such split, or its file is wrong.
    """
    if split not in ("train", "eval", "test"):
        raise ConfigError(f"unknown split {split!r}", expected="train, eval or test", fix="use one of them")
    found = find_splits(folder)
    if split not in found:
        raise DataError(
            f"no {split} split; the folder has {', '.join(found)}",
            expected=f"a file named for the {split} split, for example {'dev' if split == 'eval' else split}.jsonl",
            fix=f"add it, or name a file in data.{split}",
            where=str(folder),
        )
    return read_records(found[split], **options)


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_hash(records: Iterable[Record]) -> str:
    """SHA-256 over the fields of all records in order, in hex; the same whatever file or format they came from."""
    digest = hashlib.sha256()
    for record in records:
        line = json.dumps(dict(record.fields), sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
        digest.update(line.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()

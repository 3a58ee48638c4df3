"""Every way in which a file can be wrong: the message names the file, the line, what was found, expected and to do."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from flagai.data.records import find_splits, read_records, read_split
from flagai.errors import ConfigError, DataError, FlagaiError, MissingFileError


def error_of(path: Path, expected: type[FlagaiError] = DataError, **options: Any) -> FlagaiError:
    with pytest.raises(expected) as caught:
        read_records(path, **options)
    error = caught.value
    assert str(path) in error.where or isinstance(error, ConfigError)
    assert error.found and error.expected and (error.fix or error.where)
    return error


def put(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


ROW = '{"text": "a", "label": "x"}\n'
NER = {"kind": "entities"}
LAST = '{"text": "%s", "entities": [{"start": %d, "end": %d, "label": "L", "text": "北京"}]}'
TOLD = {"columns": {"label": "label"}}
NO_LABEL = {"label_required": True}
CASES = {
    # name: (file, content, options, line or None, words of the message)
    "bad json": ("x.jsonl", ROW + '{"text": "b", label: 1}\n', {}, 2, ["column 15", "double quotes"]),
    "cut json line": ("x.jsonl", ROW + ROW + '{"text": "b"', {}, 3, ["column 13"]),
    "bad first line": ("x.jsonl", '{"text": b}\n' + ROW, {}, 1, ["column 10"]),
    "row is no object": ("x.jsonl", ROW + '["a", "x"]\n', {}, 2, ["a list", "an object"]),
    "list cut off": ("x.json", "[\n" + ROW.strip() + ",\n", {}, 3, ["not closed"]),
    "comma missing": ("x.json", "[\n" + ROW + ROW + "]", {}, 3, ["comma"]),
    "comma too many": ("x.json", "[" + ROW.strip() + ",\n]", {}, 2, ["comma before the end"]),
    "after the list": ("x.json", "[" + ROW + "]\nrest", {}, 3, ["follows the end"]),
    "strings in list": ("x.json", '[\n"a"]', {}, 2, ["a string", "object"]),
    "several tables": ("x.json", '{"train": [["a", "x"]], "val": [["b", "y"]]}', {}, 1, ["'train'", "train.json"]),
    "pretty printed lines": ("x.jsonl", '{\n"text": "a"}\n{\n"text": "b"}', {}, 1, ["one object a line"]),
    "no json": ("x.json", "\ntext", {}, 2, ["{ or ["]),
    "empty list": ("x.json", "[]", {}, None, ["no rows"]),
    "text is number": ("x.jsonl", ROW + '{"text": 3.5, "label": "x"}', {}, 2, ["a number (3.5)", "a string"]),
    "text is null": ("x.jsonl", ROW + '{"text": null, "label": "x"}', {}, 2, ["is null"]),
    "text is missing": ("x.jsonl", ROW + '{"label": "x"}', {}, 2, ["is missing", "data.columns"]),
    "label is object": ("x.jsonl", ROW + '{"text": "b", "label": {"a": 1}}', {}, 2, ["an object", "a list of strings"]),
    "half surrogate": ("x.jsonl", ROW + '{"text": "b\\ud83d"}', {}, 2, ["surrogate"]),
    "label missing": ("x.csv", "text,label\na,x\nb,\n", NO_LABEL, 3, ["no label", "'label'"]),
    "label column missing": ("x.csv", "text,foo,bar\na,x,y\n", NO_LABEL, 2, ["no column", "foo, bar"]),
    "missing column": ("x.csv", "text,lable\na,x\n", TOLD, None, ["'text', 'lable'", "mean 'lable'"]),
    "no text column": ("x.csv", "foo,bar\na,x\n", {}, None, ["'foo', 'bar'", "data.columns"]),
    "no second text": ("x.csv", "text,label\na,x\n", {"kind": "pair"}, None, ["text_pair", "'text', 'label'"]),
    "semicolons": ("x.csv", "text;label\na;x\n", {}, None, ["';'"]),
    "cells too many": ("x.csv", "text,label\na,x\nb,c,x\n", {}, 3, ["3 cells", "2 cells", "double quotes"]),
    "cells too few": ("x.tsv", "text\tlabel\na\tx\nb\n", {}, 3, ["1 cells", "2 cells"]),
    "open quote": ("x.csv", 'text,label\na,x\n"b,x\nc,y\n', {}, 3, ["quotes do not match", "doubled"]),
    "column twice": ("x.csv", "text,text\na,b\n", {}, 1, ["'text' stands twice"]),
    "header only": ("x.csv", "text,label\n", {}, None, ["no row"]),
    "unknown header": ("x.tsv", "memo\tpoints\na\tgood\n", {}, 1, ["'memo', 'points'", "by their numbers"]),
    "unknown suffix": ("x.xlsx", "a", {}, None, [".xlsx", ".jsonl"]),
    "tags for a text task": ("x.txt", "a B-P\n", {"kind": "text"}, None, ["tokens and tags"]),
    "tag missing": ("x.txt", "a B-P\nb\n", {}, 2, ["one column: 'b'", "O for none"]),
    "comment in a sentence": ("x.txt", "a B-P\n# id 5\nb O\n", {}, 2, ["3 columns", "2 columns"]),
    "columns change": ("x.txt", "a NN B-P\nb O\n", {}, 2, ["2 columns", "3 columns"]),
    "unknown prefix": ("x.txt", "a B-P\nb X-P\n", {}, 2, ["unknown tag 'X-P' of token 'b'"]),
    "inside after O": ("x.txt", "a B-P\nb O\n\nc O\nd I-P\n", {}, 5, ["'I-P' of token 'd' follows 'O'", "B-P", "IOB2"]),
    "inside at start": ("x.txt", "a O\nb B-P\n\nc I-P\n", {}, 4, ["begins the sentence", "B-P"]),
    "type changes": ("x.txt", "a B-P\nb I-L\n\nc B-P", {}, 2, ["'I-L'", "follows 'B-P'"]),
    "told scheme": ("x.txt", "a O\nb I-P\n", {"scheme": "IOB2"}, 2, ["'I-P'", "IOB2"]),
    "not ended": ("x.txt", "a B-P\nb O\nc S-P\n", {}, 2, ["E-P", "BIOES"]),
    "not ended at last": ("x.txt", "a S-P\nb B-P\n", {}, 2, ["ends after 'B-P'", "E-P"]),
    "tokens and tags": ("x.jsonl", '{"tokens": ["a", "b"], "tags": ["O"]}', {}, 1, ["2 tokens and 1 tags"]),
    "tags are numbers": ("x.jsonl", '{"tokens": ["a"], "ner_tags": [1]}', NER, 1, ["B-PER", "a list ([1])"]),
    "empty token": ("x.jsonl", '{"tokens": ["a", ""], "tags": ["O", "O"]}', {}, 1, ["token 2", "empty"]),
    "outside": ("x.jsonl", '{"text": "ab", "entities": [[1, 3, "X"]]}', {}, 1, ["1:3", "2 characters"]),
    "no span": ("x.jsonl", '{"text": "ab", "entities": [{"start": 1, "label": "X"}]}', {}, 1, ["an object", '"start"']),
    "backwards": ("x.jsonl", '{"text": "ab", "entities": [{"start": 1, "end": 1, "label": "X"}]}', {}, 1, ["1:1"]),
    "surface": ("x.jsonl", '{"text": "北京市", "label": {"L": {"京市": [[0, 1]]}}}', {}, 1, ["'北京'", "at 1:3"]),
    "inclusive": ("x.jsonl", LAST % ("北京市", 0, 1), {}, 1, ["add 1 to every end"]),
    "utf-16 offsets": ("x.jsonl", LAST % ("😀北京", 2, 4), {}, 1, ["UTF-16"]),
    "one-based": ("x.jsonl", LAST % ("在北京", 2, 4), {}, 1, ["count from 1"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_message(tmp_path: Path, name: str) -> None:
    file, content, options, line, words = CASES[name]
    path = put(tmp_path, file, content)
    error = error_of(path, **options)
    assert error.where.split(",")[0] == (f"{path}:{line}" if line else str(path))
    for word in words:
        assert word in str(error)


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    put(tmp_path, "train.jsonl", ROW)
    assert "did you mean" in error_of(tmp_path / "trian.jsonl", MissingFileError).fix
    assert "does not exist either" in error_of(tmp_path / "no" / "train.jsonl", MissingFileError).fix


@pytest.mark.parametrize("content", [b"", b" \n\t\n", b"\xef\xbb\xbf\n"])
def test_empty_file(tmp_path: Path, content: bytes) -> None:
    assert "at least one row" in error_of(put(tmp_path, "x.jsonl", content)).expected


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"PK\x03\x04rest", "Excel"),
        (b"PAR1rest", "Parquet"),
        (b"\x80\x04\x95rest", "pickle"),
        (b"\x89PNG\r\n", "PNG"),
        (gzip.compress(b"text"), "gzip"),
        (b"text,label\na\0b,x\n", "NUL"),
    ],
)
def test_binary_file(tmp_path: Path, content: bytes, word: str) -> None:
    error = error_of(put(tmp_path, "x.csv", content))
    assert "not a text file" in error.found
    assert word in error.found


def test_utf16_without_mark(tmp_path: Path) -> None:
    assert "utf-16-le" in error_of(put(tmp_path, "x.csv", "text,label\n你好,x\n".encode("utf-16-le"))).fix


def test_gb18030_is_offered(tmp_path: Path) -> None:
    path = put(tmp_path, "x.csv", "text,label\nabc,x\n今天天气很好,y\n".encode("gb18030"))
    error = error_of(path)
    assert error.where == f"{path}:3"
    assert "byte 17" in error.found
    assert "data.encoding: gb18030" in error.fix
    assert "iconv -f GB18030" in error.fix


def test_latin1_is_not_taken_for_gb18030(tmp_path: Path) -> None:
    content = "text,label\nséance du café,x\n".replace("é,", "és,").encode("latin-1")
    assert "閟" in content.decode("gb18030")  # it decodes, to characters that nobody writes
    error = error_of(put(tmp_path, "x.csv", content))
    assert "gb18030" not in error.fix
    assert "cp1252" in error.fix


def test_wrong_and_unknown_encoding(tmp_path: Path) -> None:
    path = put(tmp_path, "x.csv", "text,label\n你好,x\n")
    assert "ASCII" in error_of(path, encoding="ascii").found
    assert "gb18030" in error_of(path, ConfigError, encoding="gbk18030").expected


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(b"text,label\n" * 99)[:-12]])
def test_damaged_gzip(tmp_path: Path, content: bytes) -> None:
    assert "does not unpack" in error_of(put(tmp_path, "x.csv.gz", content)).found


def test_damaged_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    assert "Parquet" in error_of(put(tmp_path, "x.parquet", b"PAR1 nothing")).found


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no split in the folder"):
        find_splits(tmp_path)
    put(tmp_path, "train.csv", "text,label\na,x\n")
    assert "train: train.csv" in error_of(tmp_path).found
    with pytest.raises(DataError, match="no eval split; the folder has train"):
        read_split(tmp_path, "eval")
    put(tmp_path, "train.jsonl", ROW)
    with pytest.raises(DataError, match=r"train.csv and train.jsonl are both the train split"):
        find_splits(tmp_path)
    with pytest.raises(MissingFileError):
        find_splits(tmp_path / "no")
    with pytest.raises(ConfigError, match="train, eval or test"):
        read_split(tmp_path, "dev")  # type: ignore[arg-type]


def test_sequence_folder_of_unequal_lengths(tmp_path: Path) -> None:
    put(tmp_path, "seq.in", "a\nb\n")
    put(tmp_path, "label", "x\n")
    assert "seq.in has 2 lines, label has 1" in error_of(tmp_path).found

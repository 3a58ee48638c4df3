"""Sources and targets in files: which column is which, pairs of files, folders, several references."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from flagai.data.audit import audit
from flagai.data.readers.columns import guess_columns
from flagai.data.record import Record
from flagai.data.records import find_splits, read_records
from flagai.errors import DataError, MissingFileError


@pytest.mark.parametrize(
    ("header", "text", "label"),
    [
        (["source", "target"], "source", "target"),
        (["text", "label"], "text", "label"),
        (["id", "src", "tgt"], "src", "tgt"),
        (["title", "content"], "content", "title"),
        (["title", "abst", "keywords"], "abst", "title"),
        (["document", "summary", "title"], "document", "summary"),
        (["dialogue", "summary"], "dialogue", "summary"),
        (["context", "answer", "question"], "context", "question"),
        (["question", "answer"], "answer", "question"),
        (["instruction", "output"], "instruction", "output"),
        (["上联", "下联"], "上联", "下联"),
        (["正文", "标题"], "正文", "标题"),
        (["a", "b"], None, None),
    ],
)
def test_columns_of_sources_and_targets(header: list[str], text: str | None, label: str | None) -> None:
    found = guess_columns(header, [], "target")
    assert (found.get("text"), found.get("label")) == (text, label)


def test_names_of_targets_mean_nothing_to_other_files() -> None:
    assert guess_columns(["summary", "label"], []) == {"text": "summary", "label": "label"}
    assert guess_columns(["content", "title", "label"], []) == {"text": "content", "label": "label"}


@pytest.mark.parametrize(("suffix", "other"), [("src", "tgt"), ("source", "target")])
@pytest.mark.parametrize("zipped", [False, True])
def test_line_i_of_one_file_belongs_to_line_i_of_the_other(
    tmp_path: Path, suffix: str, other: str, zipped: bool
) -> None:
    for name, text in ((suffix, "a b\n\nc\n"), (other, "1\n2\n3\n")):
        data = text.encode()
        path = tmp_path / f"train.{name}{'.gz' if zipped else ''}"
        path.write_bytes(gzip.compress(data) if zipped else data)
    file = tmp_path / f"train.{suffix}{'.gz' if zipped else ''}"
    records = read_records(file, kind="target", label_required=True)
    assert [(record.text, record.get("label")) for record in records] == [("a b", "1"), ("", "2"), ("c", "3")]
    assert records[2].where == f"{file}:3"
    assert find_splits(tmp_path) == {"train": file}


def test_a_folder_of_couplets_is_a_split(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "in.txt").write_text("晚 风\n晨 露\n", encoding="utf-8")
        (tmp_path / split / "out.txt").write_text("晨 露\n晚 风\n", encoding="utf-8")
    assert find_splits(tmp_path) == {"train": tmp_path / "train", "test": tmp_path / "test"}
    assert read_records(tmp_path / "test", kind="target")[1].fields == {"text": "晨 露", "label": "晚 风"}
    (tmp_path / "test" / "out.txt").write_text("晨 露\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"in.txt has 2 lines, out.txt has 1"):
        read_records(tmp_path / "test", kind="target")


def test_sources_alone_are_read_for_prediction(tmp_path: Path) -> None:
    (tmp_path / "new.src").write_text("a\nb\n", encoding="utf-8")
    assert [record.text for record in read_records(tmp_path / "new.src", kind="target")] == ["a", "b"]
    with pytest.raises(DataError, match="no column is known to be the label"):
        read_records(tmp_path / "new.src", kind="target", label_required=True)
    with pytest.raises(MissingFileError):
        read_records(tmp_path / "none.src", kind="target")


def test_lists_of_sentences_and_of_references(tmp_path: Path) -> None:
    row = {"source": ["One. ", "Two."], "target": ["a", "b"]}
    (tmp_path / "x.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    (record,) = read_records(tmp_path / "x.jsonl", kind="target")
    assert record.text == "One. Two." and record.get("label") == ["a", "b"]


def test_a_tsv_file_of_sources_and_targets(tmp_path: Path) -> None:
    (tmp_path / "h.tsv").write_text("source\ttarget\na b\tc\n", encoding="utf-8")
    assert read_records(tmp_path / "h.tsv", kind="target")[0].fields == {"text": "a b", "label": "c"}
    (tmp_path / "n.tsv").write_text("to title\ta b\tc\nto title\td e\tf\n", encoding="utf-8")
    numbered = read_records(tmp_path / "n.tsv", kind="target", columns={"text": "2", "label": "3"})
    assert [(record.text, record.get("label")) for record in numbered] == [("a b", "c"), ("d e", "f")]


def test_a_source_with_two_targets_is_no_conflict() -> None:
    records = {"train": [Record({"text": "a", "label": "b"}), Record({"text": "a", "label": "c"})]}
    assert audit(records).splits["train"].conflicts == 1
    found = audit(records, one_label=False)
    assert found.splits["train"].conflicts == found.splits["train"].conflict_records == 0
    assert found.splits["train"].duplicates == 1 and not found.worst

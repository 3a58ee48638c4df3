"""Every format that is read, and the records that come out of it."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from flagai.data.record import Record
from flagai.data.records import data_hash, file_sha256, find_splits, guess_columns, read_records, read_split
from flagai.errors import MissingExtraError


@pytest.fixture
def write(tmp_path: Path):
    def _write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return path

    return _write


def plain(records: list[Record]) -> list[dict[str, Any]]:
    return [dict(record.fields) for record in records]


def surfaces(record: Record) -> list[tuple[str, str]]:
    return [(record.text[item["start"] : item["end"]], item["label"]) for item in record.fields["label"]]


TWO = [{"text": "你好", "label": "a"}, {"text": "good day", "label": "b"}]


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        ("x.jsonl", '{"text": "你好", "label": "a"}\n\n{"text": "good day", "label": "b"}\n', [1, 3]),
        ("x.json", '{"text": "你好", "label": "a"}\n{"text": "good day", "label": "b"}', [1, 2]),
        ("x.json", '[\n {"text": "你好",\n  "label": "a"},\n {"text": "good day", "label": "b"}\n]\n', [2, 4]),
        (
            "x.json",
            '{"v": [1],\n"data": [{"text": "你好", "label": "a"},\n{"text": "good day", "label": "b"}]}',
            [2, 3],
        ),
        ("x.jsonl", '[{"text": "你好", "label": "a"}, {"text": "good day", "label": "b"}]', [1, 1]),
        ("x.csv", "text,label\n你好,a\ngood day,b\n", [2, 3]),
        ("x.csv", 'label,text\r\na,"你好"\r\n\r\nb,good day\r\n', [2, 4]),
        ("x.tsv", "sentence\tlabel\n你好\ta\ngood day\tb\n", [2, 3]),
        ("x.txt", "text\tlabel\n你好\ta\ngood day\tb\n", [2, 3]),
    ],
)
def test_formats_give_the_same_records(write: Any, name: str, content: str, lines: list[int]) -> None:
    path = write(name, content)
    records = read_records(path)
    assert plain(records) == TWO
    assert [record.line for record in records] == lines
    assert records[0].where == f"{path}:{lines[0]}"
    zipped = write(name + ".gz", gzip.compress(content.encode()))
    assert plain(read_records(zipped)) == TWO


def test_parquet(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.Table.from_pylist(TWO), tmp_path / "x.parquet")
    records = read_records(tmp_path / "x.parquet")
    assert plain(records) == TWO
    assert [record.line for record in records] == [1, 2]


def test_parquet_without_pyarrow_names_the_extra(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"flagai\[parquet\]"):
        read_records(write("x.parquet", b"PAR1"))


@pytest.mark.parametrize(
    ("codec", "given"),
    [("utf-8", None), ("utf-8-sig", None), ("utf-16", None), ("utf-16", "utf-8"), ("gb18030", "gb18030")],
)
def test_encodings(write: Any, codec: str, given: str | None) -> None:
    path = write("x.csv", "text,label\n你好，世界,a\n".replace("，", " ").encode(codec))
    assert plain(read_records(path, encoding=given)) == [{"text": "你好 世界", "label": "a"}]


def test_csv_keeps_quoted_commas_quotes_and_line_breaks(write: Any) -> None:
    path = write("x.csv", 'text,label\n"a, ""b""\nc",x\nd,y\n')
    records = read_records(path)
    assert plain(records) == [{"text": 'a, "b"\nc', "label": "x"}, {"text": "d", "label": "y"}]
    assert [record.line for record in records] == [2, 4]


def test_csv_cells_longer_than_the_standard_limit(write: Any) -> None:
    assert len(read_records(write("x.csv", f"text,label\n{'a' * 200_000},x\n"))[0].text) == 200_000


def test_tsv_takes_quotes_literally_unless_a_csv_writer_made_the_file(write: Any) -> None:
    raw = write("raw.tsv", 'text\tlabel\n"half open\tx\n"whole"\ty\n')
    assert [record.text for record in read_records(raw)] == ['"half open', '"whole"']
    written = write("written.tsv", 'text\tlabel\n"say ""hi"""\tx\n"two\nlines"\ty\n')
    records = read_records(written)
    assert [record.text for record in records] == ['say "hi"', "two\nlines"]
    assert [record.line for record in records] == [2, 3]


def test_unusual_separators_do_not_cut_lines(write: Any) -> None:
    text = "a\u2028b\x85c\u3000d"
    assert read_records(write("x.jsonl", json.dumps({"text": text}, ensure_ascii=False)))[0].text == text
    assert read_records(write("x.tsv", f"text\tlabel\n{text}\t1\n"))[0].text == text
    assert read_records(write("x.csv", f"text,label\n{text},1\n"))[0].text == text


def test_tsv_without_header(write: Any) -> None:
    two = write("two.tsv", "good\tpos\nbad\tneg\nfine\tpos\n")
    assert plain(read_records(two))[0] == {"text": "good", "label": "pos"}
    named = write("named.tsv", "why\tquestion\nso\tanswer\nhow\tquestion\n")
    assert plain(read_records(named))[0] == {"text": "why", "label": "question"}
    three = write("three.tsv", "a\tb\t1\nc\td\t0\n")
    assert plain(read_records(three, kind="pair"))[1] == {"text": "c", "text_pair": "d", "label": "0"}
    numbered = write("numbered.tsv", "to title\tabstract\ttitle\n")
    assert plain(read_records(numbered, columns={"text": "2", "label": "3"})) == [
        {"text": "abstract", "label": "title", "1": "to title"}
    ]


def test_plain_lines(write: Any) -> None:
    assert [record.text for record in read_records(write("x.txt", "one line\n\ntwo\n"), kind="text")] == [
        "one line",
        "two",
    ]


def test_columns_are_renamed_and_others_kept(write: Any) -> None:
    path = write("x.jsonl", '{"body": "t", "text": "id-7", "kind_of": "k", "score": 0.5}')
    assert plain(read_records(path, columns={"text": "body", "label": "kind_of"})) == [
        {"text": "t", "label": "k", "_text": "id-7", "score": 0.5}
    ]


def test_a_told_text_pair_makes_a_pair(write: Any) -> None:
    path = write("x.csv", "left,right,label\na,b,1\n")
    records = read_records(path, columns={"text": "left", "text_pair": "right", "label": None})  # type: ignore[dict-item]
    assert plain(records) == [{"text": "a", "text_pair": "b", "label": "1"}]


def test_missing_labels_are_absent_fields(write: Any) -> None:
    records = read_records(write("x.csv", "text,label\na,\nb,x\n"))
    assert plain(records) == [{"text": "a"}, {"text": "b", "label": "x"}]


def test_labels_stay_as_the_file_gives_them(write: Any) -> None:
    path = write(
        "x.jsonl", '{"text": "a", "label": ["x", "y"]}\n{"text": "b", "label": 2.5}\n{"text": "c", "label": 1}\n'
    )
    assert [record.get("label") for record in read_records(path)] == [["x", "y"], 2.5, 1]


@pytest.mark.parametrize(
    ("header", "kind", "expected"),
    [
        (["text", "category"], "auto", {"text": "text", "label": "category"}),
        (["id", "Sentence 1", "Sentence 2", "label"], "auto", {"text": "Sentence 1", "text_pair": "Sentence 2",
        "label": "label"}), (["premise", "hypothesis", "gold_label"], "pair", {"text": "premise", "text_pair":
        "hypothesis", "label": "gold_label"}), (["sentence1", "sentence2", "similarity_score"], "auto", {"text":
        "sentence1", "text_pair": "sentence2", "label": "similarity_score"}), (["question_1", "question_2", "similar"],
        "pair", {"text": "question_1", "text_pair": "question_2", "label": "similar"}), (["query", "title", "label"],
        "pair", {"text": "query", "text_pair": "title", "label": "label"}), (["query", "title", "label"], "text",
        {"text": "query", "label": "label"}), (["text_a", "text_b", "text", "label"], "pair", {"text": "text_a",
        "text_pair": "text_b", "label": "label"}), (["label", "text_a"], "auto", {"text": "text_a", "label": "label"}),
        (["cat", "label", "review"], "auto", {"text": "review", "label": "label"}),
        (["label", "label_desc", "sentence", "keywords"], "auto", {"text": "sentence", "label": "label"}),
        (["text", "domain", "intent", "slots"], "auto", {"text": "text", "label": "intent"}),
        (["内容", "标签"], "auto", {"text": "内容", "label": "标签"}),
        (["memo", "label"], "auto", {"text": "memo", "label": "label"}),
        (["foo", "bar"], "auto", {}),
    ],
)  # fmt: skip
def test_guess_columns(header: list[str], kind: Any, expected: dict[str, str]) -> None:
    assert guess_columns(header, [], kind) == expected


def test_guess_columns_of_entities() -> None:
    tagged = [{"tokens": ["a"], "ner_tags": ["O"], "id": 1}]
    assert guess_columns(["id", "tokens", "ner_tags"], tagged) == {"text": "tokens", "label": "ner_tags"}
    offsets = [{"text": "a", "entities": [], "label": "sports"}]
    assert guess_columns(["text", "entities", "label"], offsets) == {"text": "text", "label": "entities"}
    cluener = [{"text": "a", "label": {}}, {"text": "ab", "label": {"X": {"a": [[0, 0]]}}}]
    assert guess_columns(["text", "label"], cluener) == {"text": "text", "label": "label"}


# Entities ---------------------------------------------------------------------------------------------------------


def test_character_conll_joins_directly(write: Any) -> None:
    path = write("x.txt", "# O\n宜 B-LOC\n蘭 I-LOC\n😀 O\nA B-ORG\nB I-ORG\n\n\n北 B-LOC\n𠮷 I-LOC\n　 O\n我 O\n")
    first, second = read_records(path)
    assert (first.text, surfaces(first)) == ("#宜蘭😀AB", [("宜蘭", "LOC"), ("AB", "ORG")])
    assert (second.text, surfaces(second)) == ("北𠮷　我", [("北𠮷", "LOC")])
    assert (first.line, second.line) == (1, 9)


def test_word_conll_joins_by_one_space(write: Any) -> None:
    path = write(
        "x.conll",
        "-DOCSTART- -X- -X- O\n\nU.N. NNP I-NP B-ORG\nofficial NN I-NP O\n😀 UH O O\n"
        "New NNP I-NP B-LOC\nYork NNP I-NP I-LOC\n",
    )
    (record,) = read_records(path)
    assert record.text == "U.N. official 😀 New York"
    assert surfaces(record) == [("U.N.", "ORG"), ("New York", "LOC")]


def test_chinese_words_are_joined_without_spaces(write: Any) -> None:
    path = write("x.bio", "中国 B-LOC\n， O\n外交部 B-ORG\nNBA B-ORG\nstar O\n乔丹 B-PER\n")
    (record,) = read_records(path)
    assert record.text == "中国，外交部 NBA star 乔丹"
    assert surfaces(record) == [("中国", "LOC"), ("外交部", "ORG"), ("NBA", "ORG"), ("乔丹", "PER")]


def test_foreign_words_in_an_english_file_are_parted_by_spaces(write: Any) -> None:
    path = write("x.bio", "the O\nword O\n中国 B-LOC\n人 O\n— O\nmeans O\nChinese O\n")
    (record,) = read_records(path)
    assert record.text == "the word 中国 人 — means Chinese"
    assert surfaces(record) == [("中国", "LOC")]


def test_conll_token_that_is_a_space_and_comments(write: Any) -> None:
    path = write("x.txt", "# id 12\tdomain=en\n中\tO\n \tO\n国\tB-LOC\n")
    assert [record.text for record in read_records(path)] == ["中 国"]
    spaced = write("y.txt", "中 O\n  O\n国 B-LOC\n")
    assert [record.text for record in read_records(spaced)] == ["中 国"]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        # IOB2, IOB1 (B only between neighbours of one type), BIOES, BMES, BILOU of the same three entities.
        ("B-P I-P B-P O B-L", ["ab P", "c P", "e L"]),
        ("I-P I-P B-P O I-L", ["ab P", "c P", "e L"]),
        ("B-P E-P S-P O S-L", ["ab P", "c P", "e L"]),
        ("B-P L-P U-P O U-L", ["ab P", "c P", "e L"]),
        ("B-P M-P E-P O S-L", ["abc P", "e L"]),
        ("B_P I_P I_P O B_L-x", ["abc P", "e L-x"]),
        ("I-P I-L I-L O O", ["a P", "bc L"]),
        ("O O O O O", []),
    ],
)
def test_schemes(write: Any, tags: str, expected: list[str]) -> None:
    row = {"tokens": list("abcde"), "tags": tags.split()}
    (record,) = read_records(write("x.jsonl", json.dumps(row)))
    assert record.text == "a b c d e"
    assert [f"{surface.replace(' ', '')} {label}" for surface, label in surfaces(record)] == expected


def brute_force(tags: list[str]) -> list[tuple[int, int, str]]:
    """Entities of an IOB2 sequence by trying every span."""
    found = []
    for first in range(len(tags)):
        for last in range(first + 1, len(tags) + 1):
            kind = tags[first][2:]
            whole = tags[first] == f"B-{kind}" and all(tag == f"I-{kind}" for tag in tags[first + 1 : last])
            if whole and (last == len(tags) or tags[last] != f"I-{kind}"):
                found.append((first, last, kind))
    return found


def test_tags_equal_brute_force() -> None:
    import itertools

    from flagai.data.readers.tags import TagReader
    from flagai.errors import DataError

    reader = TagReader(scheme="IOB2")
    count = broken = 0
    for tags in itertools.product(["O", "B-X", "I-X", "B-Y", "I-Y"], repeat=5):
        legal = all(
            not tag.startswith("I") or (at and tags[at - 1][1:] == tag[1:] and tags[at - 1] != "O")
            for at, tag in enumerate(tags)
        )
        count += 1
        if legal:
            assert reader.spans(tags, "abcde", str) == brute_force(list(tags))
        else:
            broken += 1
            with pytest.raises(DataError):
                reader.spans(tags, "abcde", str)
    assert (count, broken > 0) == (5**5, True)


def test_repair_begins_an_entity(write: Any) -> None:
    path = write("x.txt", "a B-P\nb O\nc I-P\nd I-L\n")
    (record,) = read_records(path, repair=True)
    assert surfaces(record) == [("a", "P"), ("c", "P"), ("d", "L")]
    ends = write("y.txt", "a B-P\nb O\nc E-P\nd B-L\n")
    assert surfaces(read_records(ends, repair=True)[0]) == [("a", "P"), ("c", "P"), ("d", "L")]


@pytest.mark.parametrize(
    "row",
    [
        {
            "text": "去𠮷野家😀吃Ｂ级",
            "entities": [{"start": 1, "end": 4, "label": "ORG"}, {"start": 6, "end": 8, "label": "X"}],
        },
        {"text": "去𠮷野家😀吃Ｂ级", "label": [[6, 8, "X"], [1, 4, "ORG"]]},
        {"text": "去𠮷野家😀吃Ｂ级", "label": {"ORG": {"𠮷野家": [[1, 3]]}, "X": {"Ｂ级": [[6, 7]]}}},
        {"tokens": list("去𠮷野家😀吃Ｂ级"), "ner_tags": ["O", "B-ORG", "I-ORG", "I-ORG", "O", "O", "B-X", "I-X"]},
        {"text": "去𠮷野家😀吃Ｂ级", "labels": ["O", "B-ORG", "I-ORG", "I-ORG", "O", "O", "B-X", "I-X"]},
    ],
)
def test_shapes_of_entities_in_json(write: Any, row: dict[str, Any]) -> None:
    path = write("x.jsonl", json.dumps(row, ensure_ascii=False) + "\n" + json.dumps(row))
    for record in read_records(path):
        assert record.text == "去𠮷野家😀吃Ｂ级"
        assert surfaces(record) == [("𠮷野家", "ORG"), ("Ｂ级", "X")]
        assert record.fields["label"][0] == {"start": 1, "end": 4, "label": "ORG"}


def test_entities_may_be_missing_or_none(write: Any) -> None:
    path = write(
        "x.jsonl",
        '{"text": "a"}\n{"text": "b", "entities": []}\n{"text": "c", "entities": [[0, 1, "X"]]}',
    )
    assert [record.get("label") for record in read_records(path)] == [None, [], [{"start": 0, "end": 1, "label": "X"}]]


# Folders and hashes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dev", ["dev.csv", "val.csv", "valid.csv", "validation.csv", "eval.csv", "Dev.csv"])
def test_find_splits(write: Any, tmp_path: Path, dev: str) -> None:
    for name in ("train.csv", dev, "test.csv", "labels.json", "README.md"):
        write(name, "text,label\na,x\n")
    assert {split: path.name for split, path in find_splits(tmp_path).items()} == {
        "train": "train.csv",
        "eval": dev,
        "test": "test.csv",
    }
    assert plain(read_split(tmp_path, "eval")) == [{"text": "a", "label": "x"}]


def test_find_splits_gz_and_shard(write: Any, tmp_path: Path) -> None:
    write("train-00000-of-00001.parquet", b"x")
    write("dev.jsonl.gz", b"x")
    assert {split: path.name for split, path in find_splits(tmp_path).items()} == {
        "train": "train-00000-of-00001.parquet",
        "eval": "dev.jsonl.gz",
    }


def test_sequence_folder(write: Any, tmp_path: Path) -> None:
    for split in ("train", "valid"):
        write(f"{split}/seq.in", "play some jazz\nstop it\n")
        write(f"{split}/label", "Play\nStop\n")
        write(f"{split}/seq.out", "O O B-genre\nO O\n")
    assert plain(read_split(tmp_path, "eval")) == [
        {"text": "play some jazz", "label": "Play"},
        {"text": "stop it", "label": "Stop"},
    ]
    assert surfaces(read_split(tmp_path, "train", kind="entities")[0]) == [("jazz", "genre")]


def test_file_sha256(write: Any) -> None:
    assert file_sha256(write("x", b"abc")) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_data_hash_depends_on_content_and_order_only(write: Any) -> None:
    one = read_records(write("x.jsonl", '{"text": "a", "label": "1"}\n\n{"text": "b", "label": "2"}'))
    other = read_records(write("y.csv", "label,text\n1,a\n2,b\n"))
    assert data_hash(one) == data_hash(other)
    assert data_hash([Record({"text": "a", "x": 1})]) == data_hash([Record({"x": 1, "text": "a"})])
    assert data_hash(one) != data_hash(one[::-1])
    assert data_hash(one) != data_hash([Record({"text": "a", "label": 1}), one[1]])

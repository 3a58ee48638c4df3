"""Token corpora: what is written is what is read, for any number of processes."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.data.corpora import ROWS, build, corpus_of, encode, texts_of, write

from flagai.data import corpus_rows
from flagai.data.corpus import BOUNDS, INFO, KEYS, TOKENS, Corpus, id_type, is_corpus
from flagai.data.corpus_build import build_corpus
from flagai.data.corpus_rows import Reading
from flagai.errors import ConfigError, DataError, MissingFileError, OutputError


def test_documents_come_back_as_views_of_the_file(tmp_path):
    corpus = build(write(tmp_path / "a.jsonl", ROWS), tmp_path / "corpus")
    wanted = encode([row.get("prompt", "") + row["text"] for row in ROWS])
    assert [corpus[i].tolist() for i in range(len(corpus))] == wanted
    assert [corpus.prompt_length(i) for i in range(3)] == [3, 0, 0]
    assert corpus.lengths.tolist() == [len(ids) for ids in wanted]
    view = corpus[1]
    assert np.shares_memory(view, corpus[1]) and not view.flags.writeable
    assert (corpus.info.documents, corpus.info.tokens, corpus.info.prompt_tokens) == (3, sum(map(len, wanted)), 3)
    assert corpus.info.longest == max(map(len, wanted))
    with pytest.raises(IndexError):
        corpus[3]


def test_ids_take_two_bytes_where_they_can(tmp_path):
    assert [id_type(size) for size in (100, 1 << 16, (1 << 16) + 1)] == ["uint16", "uint16", "int32"]
    path = write(tmp_path / "a.jsonl", ROWS)
    small, large = build(path, tmp_path / "s"), build(path, tmp_path / "l", vocabulary_size=70_000)
    assert [small[i].tolist() for i in range(3)] == [large[i].tolist() for i in range(3)]
    assert (tmp_path / "l" / TOKENS).stat().st_size == 2 * (tmp_path / "s" / TOKENS).stat().st_size
    with pytest.raises(DataError, match="ids that fit uint16"):
        build_corpus([path], tmp_path / "x", lambda texts: [[70_000]] * len(texts), vocabulary_size=9, tokenizer="")


def test_bytes_do_not_depend_on_the_number_of_processes(tmp_path, monkeypatch):
    from tokenizers import Tokenizer, models, pre_tokenizers

    from flagai.tasks.corpus_examples import TextIds

    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "[": 1, "MASK": 2, "]": 3, "a": 4, "b": 5}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.add_special_tokens(["[MASK]"])
    ids = TextIds(type("Fast", (), {"backend_tokenizer": backend}))
    monkeypatch.setattr(corpus_rows, "BLOCK_BYTES", 200)  # many blocks of a few rows
    chance = random.Random(0)
    rows = [{"text": " ".join(chance.choices(["a", "b", "[MASK]", "c"], k=chance.randint(1, 9)))} for _ in range(60)]
    files = [write(tmp_path / f"{name}.jsonl", rows[at::2]) for at, name in enumerate("ab")]
    options = {"vocabulary_size": 7, "tokenizer": "t"}
    one = build_corpus(files, tmp_path / "one", ids, **options)
    build_corpus(files, tmp_path / "two", ids, workers=2, **options)
    for name in (TOKENS, BOUNDS, KEYS, INFO):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    texts = [row["text"] for row in [*rows[0::2], *rows[1::2]]]
    assert [one[i].tolist() for i in range(60)] == ids(texts)
    assert 6 not in np.concatenate([one[i] for i in range(60)])  # [MASK] in a text is text


def test_every_format_gives_the_same_corpus(tmp_path):
    texts = ["one. two.", "three", "four, five"]
    write(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    (tmp_path / "c.txt").write_text("\n\n".join(texts), encoding="utf-8")
    (tmp_path / "d.json").write_text(json.dumps([{"text": text} for text in texts]), encoding="utf-8")
    (tmp_path / "e.csv").write_text("text\n" + "".join(f'"{text}"\n' for text in texts), encoding="utf-8")
    (tmp_path / "f.jsonl").write_text((tmp_path / "a.jsonl").read_text("utf-8"), encoding="utf-16")
    (tmp_path / "g.jsonl").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "a.jsonl").read_bytes())
    made = [build(path, tmp_path / f"corpus-{path.name}") for path in sorted(tmp_path.glob("*.*")) if path.is_file()]
    assert len(made) == 7
    assert len({corpus.info.hash for corpus in made}) == 1 and len(made[0]) == 3


def test_columns_have_names(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"title": "ab", "body": "cd"}])
    corpus = build(path, tmp_path / "corpus", reading=Reading(prompt="title", text="body"))
    assert corpus[0].tolist() == encode(["abcd"])[0] and corpus.prompt_length(0) == 2


BAD_FILES = {
    "no field": ('{"text": "a"}\n{"label": 1}\n', r"bad\.jsonl:2: no text.*'text'"),
    "empty text": ('{"text": "a"}\n\n{"text": "  "}\n', r"bad\.jsonl:3: .*a string"),
    "not a string": ('{"text": 5}\n', r"bad\.jsonl:1: .*a number \(5\)"),
    "no tokens": (
        '{"text": "a"}\n{"text": "!!"}\n',
        r"bad\.jsonl:2: the text has no tokens(.|\n)*to do: .*--skip-empty",
    ),
    "prompt": ('{"prompt": 1, "text": "a"}\n', r"bad\.jsonl:1: the field 'prompt' is a number"),
    "no JSON": ('{"text": "a"}\n{"text": \n', r"bad\.jsonl:2: not valid JSON"),
    "no object": ('["a"]\n', r"bad\.jsonl:1: a row is a list"),
    "surrogate": ('{"text": "a\\ud83d"}\n', r"bad\.jsonl:1: .*surrogate"),
    "nothing": ("\n\n", r"the files hold no documents(.|\n)*to do: .*--text"),
    "NUL": ('{"text": "a"}\n\0\n', r"bad\.jsonl:2: a NUL"),
}


@pytest.mark.parametrize(("text", "message"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_row_is_named_and_nothing_is_left(tmp_path, text, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        build(path, tmp_path / "corpus")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["bad.jsonl"]


def test_other_files_that_cannot_be_read(tmp_path):
    (tmp_path / "a.jsonl").write_bytes('{"text": "汉字汉字汉字"}\n'.encode("gb18030"))
    with pytest.raises(DataError, match="gb18030"):
        build(tmp_path / "a.jsonl", tmp_path / "corpus")
    whole = gzip.compress(b'{"text": "a"}\n' * 50)
    (tmp_path / "b.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="does not unpack"):
        build(tmp_path / "b.jsonl.gz", tmp_path / "corpus")
    with pytest.raises(MissingFileError, match=r"did you mean .*a\.jsonl"):
        build(tmp_path / "aa.jsonl", tmp_path / "corpus")
    with pytest.raises(ConfigError, match="no file"):
        build([], tmp_path / "corpus")
    with pytest.raises(DataError, match=r"a folder(.|\n)*expected: files of documents(.|\n)*\*\.jsonl"):
        build(tmp_path, tmp_path / "corpus")


def test_a_tokenizer_that_there_is_none_of_is_named_as_it_was_typed(tmp_path, cli):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    told = cli("data", "corpus", tmp_path / "a.jsonl", "-o", tmp_path / "c", "--tokenizer", "nix", "--offline")
    assert told.code == 2 and "--tokenizer: unknown model 'nix'" in told.err and "model.name" not in told.err


def test_rows_without_text_can_be_left_out(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"text": "a"}, {"text": ""}, {"title": "x"}, {"text": "!!"}, {"text": "b"}])
    corpus = build(path, tmp_path / "corpus", reading=Reading(skip_empty=True))
    assert [corpus[i].tolist() for i in range(len(corpus))] == encode(["a", "b"])
    assert corpus.info.skipped == 3


def test_a_folder_is_not_overwritten_unasked(tmp_path):
    path = write(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x", encoding="utf-8")
    for options in ({}, {"replace": True}):
        with pytest.raises(OutputError, match="not empty, and no corpus"):
            build(path, tmp_path / "mine", **options)
    first = build(path, tmp_path / "corpus")
    with pytest.raises(OutputError, match="a corpus is here already"):
        build(path, tmp_path / "corpus")
    write(path, ROWS[:1])
    assert build(path, tmp_path / "corpus", replace=True).info.hash != first.info.hash


def test_a_crash_leaves_the_old_corpus(tmp_path):
    path = write(tmp_path / "a.jsonl", ROWS)
    before = build(path, tmp_path / "corpus").info.hash

    def fails(texts: Sequence[str]) -> list[list[int]]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_corpus([path], tmp_path / "corpus", fails, vocabulary_size=9, tokenizer="", replace=True)
    assert Corpus(tmp_path / "corpus").info.hash == before
    assert not list(tmp_path.glob(".writing-*"))


def damage(corpus: Path, kind: str) -> None:
    tokens, info = corpus / TOKENS, json.loads((corpus / INFO).read_text("utf-8"))
    if kind == "byte":
        data = bytearray(tokens.read_bytes())
        data[4] ^= 1
        tokens.write_bytes(data)
    elif kind == "short":
        tokens.write_bytes(tokens.read_bytes()[:-2])
    elif kind == "gone":
        tokens.unlink()
    elif kind == "text":
        (corpus / INFO).write_text("{", encoding="utf-8")
    elif kind == "counts":
        (corpus / INFO).write_text(json.dumps(info | {"documents": 2}), encoding="utf-8")
    else:
        (corpus / INFO).write_text(json.dumps(info | {"version": 99}), encoding="utf-8")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("byte", "holds other bytes than were written"),
        ("short", "bytes, .* were written"),
        ("gone", "is missing"),
        ("text", "cannot be read"),
        ("counts", "count differently"),
        ("version", "version 99"),
    ],
)
def test_a_damaged_corpus_is_refused(tmp_path, kind, message):
    build(write(tmp_path / "a.jsonl", ROWS), tmp_path / "corpus")
    damage(tmp_path / "corpus", kind)
    with pytest.raises(DataError, match=message):
        Corpus(tmp_path / "corpus")
    if kind == "byte":
        Corpus(tmp_path / "corpus", verify=False)  # the quick look sees sizes only


def test_another_tokenizer_is_refused(tmp_path):
    build(write(tmp_path / "a.jsonl", ROWS), tmp_path / "corpus")
    Corpus(tmp_path / "corpus", tokenizer="letters")
    with pytest.raises(DataError, match="another tokenizer"):
        Corpus(tmp_path / "corpus", tokenizer="words")
    assert is_corpus(tmp_path / "corpus") and not is_corpus(tmp_path)
    with pytest.raises(MissingFileError, match="no corpus is here"):
        Corpus(tmp_path)


def test_equal_documents_have_equal_keys(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_rows, "BLOCK_BYTES", 900)  # several blocks
    texts = texts_of(300, 4) + texts_of(30, 90)
    corpus = corpus_of(texts, tmp_path / "corpus")
    keys = corpus.keys
    by_key: dict[int, set[bytes]] = {}
    for i in range(len(corpus)):
        by_key.setdefault(int(keys[i]), set()).add(corpus[i].tobytes())
    assert all(len(group) == 1 for group in by_key.values())
    assert len(by_key) == len(set(texts))

"""CPM's and T5-PEGASUS' tokenizers: equal to SentencePiece and to flagai 1.8.4 on words, saved and read again.

`tests/fixtures/legacy/cpm` holds two small vocabularies made with SentencePiece from words of Chinese titles, and what
SentencePiece itself makes of a few texts cut by jieba.
"""

from __future__ import annotations

import builtins
import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from flagai.errors import CheckpointError, MissingExtraError
from flagai.models import tokenization_words
from flagai.models.tokenization_words import WordsTokenizer, cpm_tokenizer, pegasus_tokenizer
from flagai.models.tokenizers import build_tokenizer

CPM = Path(__file__).parent.parent / "fixtures" / "legacy" / "cpm"
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "今天", "吃", "饭", "了", "肯", "德", "基"]
TOKENS += ["hello", "##s", "world", "，", "cafe", "天", "气", "A", "x"]


def cpm_folder(folder: Path, kind: str = "unigram") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "chinese_vocab.model").write_bytes(gzip.decompress((CPM / f"{kind}.model.gz").read_bytes()))
    (folder / "vocab.json").write_text(json.dumps({"<eod>": 8, "<pad>": 5}), "utf-8")
    return folder


def pegasus_folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(TOKENS) + "\n", "utf-8")
    (folder / "config.json").write_text(json.dumps({"model_type": "t5", "d_kv": 8, "vocab_size": len(TOKENS)}))
    return folder


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_cpm_gives_the_ids_of_sentencepiece_over_jiebas_words(kind: str, tmp_path: Path) -> None:
    made = cpm_tokenizer(cpm_folder(tmp_path, kind) / "chinese_vocab.model")
    golden = json.loads((CPM / f"{kind}.json").read_text("utf-8"))
    assert len(made) == golden["vocab"]
    for text, ids, decoded in golden["rows"]:
        assert made(text)["input_ids"] == ids, text
        assert made.decode(ids).replace("<unk>", "⁇") == decoded, text


def test_cpm_knows_its_special_tokens_and_puts_none_around_a_text(tmp_path: Path) -> None:
    made = build_tokenizer(cpm_folder(tmp_path))
    assert isinstance(made, WordsTokenizer) and made.words == "cpm" and made.is_fast
    assert (made.eos_token, made.pad_token, made.unk_token, made.bos_token) == ("<eod>", "<pad>", "<unk>", "<s>")
    assert not set(made("中国科学")["input_ids"]) & set(made.all_special_ids)
    assert made.decode([made.eos_token_id, *made("中国")["input_ids"]], skip_special_tokens=True) == "中国"


def test_offsets_are_those_of_the_text_as_given(tmp_path: Path) -> None:
    made = build_tokenizer(cpm_folder(tmp_path))
    text = "研究 中国\u3000２００８年"
    encoding = made.backend_tokenizer.encode(text)
    covered = "".join(text[start:end] for start, end in dict.fromkeys(encoding.offsets))
    assert covered.replace("\u3000", "") == text.replace("\u3000", "")


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("今天吃饭吃了肯德基", ["今天", "吃", "饭", "吃", "了", "肯", "德", "基"]),
        ("Hellos World，今天天气 café", ["hello", "##s", "world", "，", "[UNK]", "天", "天", "气", "[UNK]", "[UNK]"]),
        ("A x", ["A", "x"]),
        ("  今天\n气", ["今天", "气"]),
    ],
)
def test_pegasus_gives_the_tokens_of_the_original(text: str, tokens: list[str], tmp_path: Path) -> None:
    """The expected tokens are those that flagai 1.8.4's T5PegasusTokenizer gave for this vocabulary."""
    made = pegasus_tokenizer(pegasus_folder(tmp_path) / "vocab.txt")
    assert made.convert_ids_to_tokens(made(text)["input_ids"]) == ["[CLS]", *tokens, "[SEP]"]


def test_a_t5_with_a_vocab_txt_is_a_pegasus_and_a_bert_is_none(tmp_path: Path) -> None:
    folder = pegasus_folder(tmp_path)
    assert isinstance(build_tokenizer(folder), WordsTokenizer)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert not isinstance(build_tokenizer(folder), WordsTokenizer)


@pytest.mark.parametrize("make", [cpm_folder, pegasus_folder])
def test_saved_and_read_again_it_is_the_same(make: Any, tmp_path: Path) -> None:
    made = build_tokenizer(make(tmp_path / "source"))
    made.save_pretrained(tmp_path / "saved")
    again = build_tokenizer(tmp_path / "saved")
    assert isinstance(again, WordsTokenizer) and again.words == made.words
    for text in ("今天天气，hellos World", "２００８年 的\n研究", "A x"):
        assert again(text)["input_ids"] == made(text)["input_ids"]
        assert made.decode(made(text)["input_ids"]) == again.decode(again(text)["input_ids"])
    assert again.all_special_ids == made.all_special_ids
    # and saving has not changed the one that was saved
    assert made("今天天气")["input_ids"] == build_tokenizer(tmp_path / "source")("今天天气")["input_ids"]


def test_the_saved_folder_opens_without_flagai(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    build_tokenizer(pegasus_folder(tmp_path / "source")).save_pretrained(tmp_path / "saved")
    plain = AutoTokenizer.from_pretrained(str(tmp_path / "saved"), local_files_only=True)
    assert not isinstance(plain, WordsTokenizer) and len(plain) == len(TOKENS)


def test_without_jieba_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "jieba":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.delitem(sys.modules, "jieba", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"flagai\[cpm\]"):
        build_tokenizer(pegasus_folder(tmp_path))


def test_damaged_vocabularies_are_named(tmp_path: Path) -> None:
    folder = cpm_folder(tmp_path / "cpm")
    (folder / "chinese_vocab.model").write_bytes(b"\xff\xff no model")
    with pytest.raises(CheckpointError, match="SentencePiece"):
        build_tokenizer(folder)
    folder = pegasus_folder(tmp_path / "t5")
    (folder / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(CheckpointError, match=r"\[PAD\]"):
        build_tokenizer(folder)


def test_words_stand_alone_as_in_bert() -> None:
    assert tokenization_words._bert_spans("ab，cd 天e", 3) == [(3, 5), (5, 6), (6, 8), (9, 10), (10, 11)]

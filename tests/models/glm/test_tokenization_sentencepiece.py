"""The Chinese vocabulary in Rust against SentencePiece itself: recorded, and live where that library is installed."""

from __future__ import annotations

import gzip
import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from transformers.convert_slow_tokenizer import import_protobuf

from flagai.errors import CheckpointError, MissingExtraError, ModelError
from flagai.models.glm.tokenization import GLMTokenizer
from flagai.models.glm.tokenization_sentencepiece import read_sentencepiece, sentencepiece_merges

FIXTURES = Path(__file__).parents[2] / "fixtures"
ROWS: list[tuple[str, list[int], str]] = json.loads((FIXTURES / "glm/sentencepiece.json").read_text("utf-8"))["rows"]


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("chinese") / "cog-pretrain.model"
    file.write_bytes(gzip.decompress((FIXTURES / "glm/vocab/cog-pretrain.model.gz").read_bytes()))
    return file


@pytest.fixture(scope="module")
def tokenizer(model_file: Path) -> GLMTokenizer:
    return GLMTokenizer.from_vocabulary(model_file)


def test_ids_are_those_of_sentencepiece(tokenizer: GLMTokenizer) -> None:
    assert len(ROWS) > 300
    backend = tokenizer.backend_tokenizer
    wrong = {text: ids for text, ids, _ in ROWS if backend.encode(text, add_special_tokens=False).ids != ids}
    assert wrong == {}
    assert sum(0 in ids for _, ids, _ in ROWS) > 20  # unknown characters, runs of them fused, are among them
    assert sum(3 in ids for _, ids, _ in ROWS) > 20  # so is the symbol <n>


def test_texts_are_those_of_sentencepiece(tokenizer: GLMTokenizer) -> None:
    assert [tokenizer.DecodeIds(ids) for _, ids, _ in ROWS] == [text for _, _, text in ROWS]


def test_each_stretch_between_commands_is_encoded_by_itself(tokenizer: GLMTokenizer) -> None:
    words = [row for row in ROWS if row[1] and len(row[0]) < 40][:60]
    for (first, ids, decoded), (second, more, again) in pairwise(words):
        joined = tokenizer.EncodeAsIds(f"{first}[CLS] {second} [gMASK]")
        assert joined == [*ids, 50002, *more, 50009]
        assert tokenizer.DecodeIds(joined) == f"{decoded}[CLS]{again}[gMASK]"


def test_tokens_know_which_characters_they_cover(tokenizer: GLMTokenizer) -> None:
    text = "价格是￥1,234元。 [MASK]好"
    encoding = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    pieces = [text[start:end] for start, end in encoding["offset_mapping"]]
    assert "".join(pieces).replace(" ", "") == text.replace(" ", "")
    assert "[MASK]" in {piece.strip() for piece in pieces}


def test_the_library_gives_the_same(tokenizer: GLMTokenizer, model_file: Path) -> None:
    sentencepiece: Any = pytest.importorskip("sentencepiece")
    twin = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    lines = [
        line for file in sorted((FIXTURES / "data").rglob("*.txt")) for line in file.read_text("utf-8").split("\n")
    ]
    lines = [line for line in [*lines[:1500], *(row[0] for row in ROWS)] if line.strip()]
    assert lines
    for line in lines:
        ids = twin.encode(line)
        assert tokenizer.EncodeAsIds(line) == ids, line
        assert tokenizer.DecodeIds(ids) == twin.decode(ids), line


def test_merges_are_ordered_by_the_score_of_what_they_make(model_file: Path) -> None:
    model = read_sentencepiece(model_file)
    merges = sentencepiece_merges(model)
    assert len(merges) == 54408
    scores = dict(zip(model.pieces, model.scores, strict=True))
    ranks = [scores[left + right] for left, right in merges]
    assert ranks == sorted(ranks, reverse=True)


# bad input


def test_a_damaged_file_is_an_error(model_file: Path, tmp_path: Path) -> None:
    for content in (b"", b"no model", model_file.read_bytes()[:500_001]):
        (tmp_path / "cog-pretrain.model").write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged or no SentencePiece model"):
            GLMTokenizer.from_vocabulary(tmp_path)


def test_models_of_other_kinds_are_refused(model_file: Path, tmp_path: Path) -> None:
    proto: Any = import_protobuf()
    model = proto.ModelProto()
    model.ParseFromString(model_file.read_bytes())
    model.trainer_spec.model_type = 1
    model.normalizer_spec.add_dummy_prefix = False
    (tmp_path / "cog-pretrain.model").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="lacks: model_type BPE, add_dummy_prefix"):
        GLMTokenizer.from_vocabulary(tmp_path)


def test_without_protobuf_the_error_says_what_to_install(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    monkeypatch.setitem(sys.modules, "google.protobuf.message", None)
    with pytest.raises(MissingExtraError, match=r'pip install "flagai\[glm\]"'):
        GLMTokenizer.from_vocabulary(model_file)

"""Tiny tokenizers of the three usual kinds with fixed vocabularies (training one breaks ties by chance)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

_TEXTS = [
    "Angela Merkel visited Zürich and New York-based ACME Corp. on 15th May.",
    "6月15日，河南省文物考古研究所的ＡＢＣ公司在北京。",
    "I ❤️ Paris 🗼 and 👨‍👩‍👧 in 𠮷野家!",
    "Cafe\u0301 Müller's owner",
    "서울에서 만나요, ก็ได้ ที่กรุงเทพ",
]
_SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


@cache
def _wordpiece() -> Any:
    """As BERT: lower case, accents stripped, Han characters apart; long words in several pieces."""
    normalizer = normalizers.BertNormalizer()
    chars = sorted({char for text in _TEXTS for char in normalizer.normalize_str(text) if not char.isspace()})
    pieces = ["angela", "##kel", "new", "paris", "##ers", "corp"]
    names = [*_SPECIALS, *chars, *(f"##{char}" for char in chars), *pieces]
    vocab = {name: i for i, name in enumerate(dict.fromkeys(names))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))  # type: ignore[call-arg]
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return _finish(tokenizer)


@cache
def _byte_bpe() -> Any:
    """As RoBERTa and GPT-2: bytes, the space before a word belongs to its token."""
    merges = [("Ġ", "N"), ("e", "w"), ("ĠN", "ew"), ("Ġ", "a"), ("Ġa", "n"), ("P", "a"), ("r", "i"), ("æ", "²")]
    names = [*_SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _finish(tokenizer)


@cache
def _unigram() -> Any:
    """As XLM-R: NFKC, pieces over whole runs between spaces."""
    normalizer = normalizers.NFKC()
    chars = sorted({char for text in _TEXTS for char in normalizer.normalize_str(text) if not char.isspace()})
    scores = dict.fromkeys(_SPECIALS, 0.0) | {"▁": -4.0} | dict.fromkeys(chars, -5.0)
    scores |= dict.fromkeys(("▁New", "▁York", "el", "er", "▁visit", "研究", "Corp"), -6.0)
    tokenizer = Tokenizer(models.Unigram(list(scores.items()), unk_id=1, byte_fallback=False))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return _finish(tokenizer)


def _finish(tokenizer: Tokenizer) -> Any:
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )


_KINDS = {"wordpiece": _wordpiece, "byte-bpe": _byte_bpe, "unigram": _unigram}


@pytest.fixture(scope="session")
def tokenizer_of() -> Callable[[str], Any]:
    """The tokenizer of a kind: "wordpiece", "byte-bpe" or "unigram"."""
    return lambda kind: _KINDS[kind]()

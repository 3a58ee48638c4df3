"""The original's tokenizers of CPM, T5, OPT and RoBERTa by name and argument. Knows no model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flagai._compat._adapters.tokenizer import BertTokenizer
from flagai.models.tokenization_words import cpm_tokenizer, pegasus_tokenizer
from flagai.models.tokenizers import build_tokenizer


class CPMTokenizer(BertTokenizer):
    """CPM's; unlike the original's it joins the words by spaces, as the text was that CPM learned from.

    Args:
        vocab_file: not read: the ids are those of `model_file`.
        model_file: chinese_vocab.model.
    """

    def __init__(self, vocab_file: str | None, model_file: str, max_length: int | None = None) -> None:
        self.flagai_tokenizer: Any = cpm_tokenizer(model_file)
        self.max_len = max_length

    @property
    def eod(self) -> int:
        """The id that ends a text."""
        return self.flagai_tokenizer.eos_token_id

    eod_id = eod

    @property
    def token_end_id(self) -> int:
        return self.eod

    @property
    def token_start_id(self) -> int:
        return self.flagai_tokenizer.bos_token_id

    def encode(self, text: str) -> list[int]:
        """The ids of a text; nothing is put around it."""
        return self.EncodeAsIds(text)

    def encode_plus(self, text: str, max_length: int | None = None, **_: Any) -> dict[str, list[int]]:
        """{"input_ids"} of a text, whole unless `max_length` is given."""
        return {"input_ids": self.EncodeAsIds(text)[:max_length]}


class T5PegasusTokenizer(BertTokenizer):
    """T5-PEGASUS': words of the vocabulary stay whole.

    Args:
        vocab_path: a vocab.txt.
    """

    def __init__(self, vocab_path: str, **_: Any) -> None:
        self.flagai_tokenizer: Any = pegasus_tokenizer(vocab_path)


class _ByName(BertTokenizer):
    def __init__(self, tokenizer_model_type: str, cache_dir: str | None = None, **_: Any) -> None:
        from flagai._compat._adapters.bert import find_folder

        given = Path(cache_dir or tokenizer_model_type)
        folder = given if given.is_dir() else find_folder("./checkpoints/", tokenizer_model_type)
        self.flagai_tokenizer: Any = build_tokenizer(folder)


class OPTTokenizer(_ByName):
    """OPT's byte pairs, from a folder, a name or a hub id."""

    def __init__(self, tokenizer_model_type: str = "facebook/opt-125m", cache_dir: str | None = None, **_: Any) -> None:
        super().__init__(tokenizer_model_type, cache_dir)


class ROBERTATokenizer(_ByName):
    """RoBERTa's byte pairs, from a folder, a name or a hub id."""

    def __init__(self, tokenizer_model_type: str = "roberta-base", cache_dir: str | None = None, **_: Any) -> None:
        super().__init__(tokenizer_model_type, cache_dir)


class T5BPETokenizer(_ByName):
    """T5's SentencePiece, from a folder, a name or a hub id."""

    def __init__(self, tokenizer_model_type: str = "t5-base", cache_dir: str | None = None, **_: Any) -> None:
        super().__init__(tokenizer_model_type, cache_dir)

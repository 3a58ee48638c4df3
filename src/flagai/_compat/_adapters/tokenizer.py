"""The original's BERT tokenizer around today's fast tokenizer: its methods and their results. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flagai.errors import DataError
from flagai.models.tokenizers import build_tokenizer

_COMMANDS = {
    "pad": "pad_token_id",
    "cls": "cls_token_id",
    "enc": "cls_token_id",
    "sep": "sep_token_id",
    "unk": "unk_token_id",
    "mask": "mask_token_id",
}


class BertTokenizer:
    """WordPiece as BERT has it; `flagai_tokenizer` is the Hugging Face tokenizer that does the work.

    What is not defined here is that tokenizer's own.

    Args:
        vocab_file: a vocab.txt, or the folder it lies in.
    """

    def __init__(self, vocab_file: str, **_: Any) -> None:
        path = Path(vocab_file)
        self.flagai_tokenizer: Any = build_tokenizer(path.parent if path.is_file() else path)

    @classmethod
    def of(cls, tokenizer: Any) -> Any:
        """Around a tokenizer that is loaded already."""
        made = cls.__new__(cls)
        made.flagai_tokenizer = tokenizer
        return made

    @classmethod
    def from_pretrained(cls, tokenizer_model_name: str, cache_dir: str | None = None, **_: Any) -> Any:
        """The tokenizer of `cache_dir`, of a folder, of a name of the original or of a hub id."""
        from flagai._compat._adapters.bert import find_folder
        from flagai.models.glm.tokenization import glm_tokenizer_of

        folder = Path(cache_dir) if cache_dir is not None else Path("checkpoints_in") / tokenizer_model_name
        if not folder.is_dir():
            folder = find_folder("./checkpoints/", tokenizer_model_name)
        glm = glm_tokenizer_of(folder)  # it has the original's methods itself
        return cls.of(build_tokenizer(folder)) if glm is None else glm

    def __getattr__(self, name: str) -> Any:
        if name == "flagai_tokenizer":
            raise AttributeError(name)
        return getattr(self.flagai_tokenizer, name)

    def __call__(self, *texts: Any, **options: Any) -> Any:
        return self.flagai_tokenizer(*texts, **options)

    def __len__(self) -> int:
        return len(self.flagai_tokenizer)

    @property
    def vocab(self) -> dict[str, int]:
        return self.flagai_tokenizer.get_vocab()

    @property
    def token_start_id(self) -> int:
        return self.flagai_tokenizer.cls_token_id

    @property
    def token_end_id(self) -> int:
        return self.flagai_tokenizer.sep_token_id

    @property
    def token_unk_id(self) -> int:
        return self.flagai_tokenizer.unk_token_id

    @property
    def token_pad_id(self) -> int:
        return self.flagai_tokenizer.pad_token_id

    def get_command_id(self, name: str) -> int:
        """The id of a special token by the original's name: pad, cls (ENC), sep, unk, mask (MASK)."""
        return getattr(self.flagai_tokenizer, _COMMANDS[name.lower()])

    def tokenize(self, text: str, maxlen: int | None = None, add_spatial_tokens: bool = False) -> list[str]:
        """The tokens of a text, with [CLS] and [SEP] where asked for, `maxlen` of them at most."""
        tokens = self._encode(text).tokens
        room = len(tokens) if maxlen is None else max(0, maxlen - 2 * add_spatial_tokens)
        tokens = tokens[:room]
        inner = self.flagai_tokenizer
        return [inner.cls_token, *tokens, inner.sep_token] if add_spatial_tokens else tokens

    def rematch(self, text: str, tokens: Sequence[str]) -> list[list[int]]:
        """For each token of `tokenize(text)` the characters of the text it covers; none for special tokens.

        Raises:
            DataError: the tokens are not those of the text.
        """
        special = {self.flagai_tokenizer.cls_token, self.flagai_tokenizer.sep_token}
        encoding = self._encode(text)
        found = iter(zip(encoding.tokens, encoding.offsets, strict=True))
        rows: list[list[int]] = []
        for i, token in enumerate(tokens):
            if token in special and i in (0, len(tokens) - 1):
                rows.append([])
                continue
            name, (start, end) = next(found, ("", (0, 0)))
            if name != token:
                raise DataError(
                    f"token {i} is {token!r}, the text has {name!r} there", where="rematch", expected="tokenize(text)"
                )
            rows.append(list(range(start, end)))
        return rows

    def encode_plus(
        self,
        text: str,
        second_text: str | None = None,
        add_special_tokens: bool = True,
        truncation: bool = True,
        max_length: int | None = None,
        **_: Any,
    ) -> dict[str, list[int]]:
        """{"input_ids", "token_type_ids"} of a text or a pair, `max_length` tokens at most."""
        cut = {"truncation": True, "max_length": max_length} if truncation and max_length else {}
        encoded = self.flagai_tokenizer(text, second_text, add_special_tokens=add_special_tokens, verbose=False, **cut)
        ids = list(encoded["input_ids"])
        return {"input_ids": ids, "token_type_ids": list(encoded.get("token_type_ids") or [0] * len(ids))}

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        return self.flagai_tokenizer.convert_tokens_to_ids(tokens)

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        return self.flagai_tokenizer.convert_ids_to_tokens(ids)

    def decode(self, ids: Sequence[int], **options: Any) -> str:
        return self.flagai_tokenizer.decode(ids, **options)

    def EncodeAsTokens(self, text: str, process_fn: Any = None) -> list[str]:
        return self.tokenize(process_fn(text) if process_fn else text)

    def EncodeAsIds(self, text: str, process_fn: Any = None) -> list[int]:
        return list(self._encode(process_fn(text) if process_fn else text).ids)

    def IdToToken(self, Id: int) -> str:
        return self.flagai_tokenizer.convert_ids_to_tokens(Id)

    def TokenToId(self, token: str) -> int:
        return self.flagai_tokenizer.convert_tokens_to_ids(token)

    def DecodeIds(self, Ids: Sequence[int]) -> str:
        return self.flagai_tokenizer.decode(Ids)

    def DecodeTokens(self, Tokens: Sequence[str]) -> str:
        return self.flagai_tokenizer.convert_tokens_to_string(list(Tokens))

    def _encode(self, text: str) -> Any:
        backend = self.flagai_tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        return backend.encode(text, add_special_tokens=False)


BertWordPieceTokenizer = BertTokenizer
Tokenizer = BertTokenizer

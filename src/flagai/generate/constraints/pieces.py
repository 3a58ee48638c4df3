"""The bytes that each token of a tokenizer adds to a text. Knows kinds of vocabularies, no constraint and no model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

_BYTE: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE: Final = "▁"
_ANCHOR: Final = "a"
_CLEANED: Final = frozenset(".?!,")  # the decoder's clean-up takes the space in front of these away


@dataclass(frozen=True, slots=True)
class Piece:
    """A token's own text.

    Args:
        data: UTF-8, perhaps of a part of a character.
        glued: WordPiece only: it stands behind another piece without a space.
        inner: WordPiece only: it goes on with a word, so that no answer begins with it.
    """

    data: bytes
    glued: bool = True
    inner: bool = False


def read_pieces(tokenizer: Any) -> tuple[list[Piece | None], bool]:
    """(The piece of each id, None where it stands for no text; whether pieces are joined by spaces as WordPieces are.)

    Byte-level BPE, SentencePiece with or without bytes, and WordPiece are read from the vocabulary itself; any other
    tokenizer is asked what it decodes behind an anchor.
    """
    tokens = _tokens(tokenizer)
    special = _special_ids(tokenizer)
    kinds, cleanup = _decoder(tokenizer)
    if "ByteLevel" in kinds:
        found = [_byte_level(token) for token in tokens]
    elif "WordPiece" in kinds:
        found = [_word_piece(token, cleanup=cleanup) for token in tokens]
    elif kinds & {"Metaspace", "Replace"}:
        found = [_sentence_piece(token, with_bytes="ByteFallback" in kinds) for token in tokens]
    else:
        found = _decoded(tokenizer, len(tokens), special)
    pieces = [None if i in special or piece is None or not piece.data else piece for i, piece in enumerate(found)]
    return pieces, "WordPiece" in kinds


def _tokens(tokenizer: Any) -> list[str]:
    by_id = {number: token for token, number in tokenizer.get_vocab().items()}
    return [str(by_id.get(i, "")) for i in range(1 + max(by_id))]


def _special_ids(tokenizer: Any) -> frozenset[int]:
    ids = {int(i) for i in getattr(tokenizer, "all_special_ids", ()) if i is not None}
    added: Mapping[int, Any] = getattr(tokenizer, "added_tokens_decoder", None) or {}
    ids |= {int(i) for i, token in added.items() if getattr(token, "special", False)}
    commands = getattr(tokenizer, "command_tokens", ())
    return frozenset(ids | {int(one.Id) for one in commands if hasattr(one, "Id")})


def _decoder(tokenizer: Any) -> tuple[set[str], bool]:
    """Names of the decoders of a fast tokenizer, and whether one cleans up; none for others."""
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    if decoder is None:
        return set(), False
    parts = list(_flat(json.loads(decoder.__getstate__())))
    return {str(part["type"]) for part in parts}, any(part.get("cleanup") for part in parts)


def _flat(state: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for part in state.get("decoders", ()):
        yield from _flat(part)
    if "type" in state:
        yield state


def _letters_to_bytes() -> dict[str, int]:
    """The letters that byte-level BPE writes bytes with: printable ones stand for themselves, others from 256 on."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    letters, others = {}, 0
    for byte in range(256):
        letters[chr(byte if byte in plain else 256 + others)] = byte
        others += byte not in plain
    return letters


_LETTERS: Final = _letters_to_bytes()


def _byte_level(token: str) -> Piece:
    known = all(letter in _LETTERS for letter in token)
    return Piece(bytes(_LETTERS[letter] for letter in token) if known else token.encode())


def _sentence_piece(token: str, *, with_bytes: bool) -> Piece:
    found = _BYTE.fullmatch(token) if with_bytes else None
    return Piece(bytes([int(found[1], 16)]) if found else token.replace(_SPACE, " ").encode())


def _word_piece(token: str, *, cleanup: bool) -> Piece:
    inner = token.startswith("##") and len(token) > 2
    return Piece(token[2 * inner :].encode(), glued=inner or (cleanup and token in _CLEANED), inner=inner)


def _decoded(tokenizer: Any, size: int, special: frozenset[int]) -> list[Piece | None]:
    anchor = tokenizer.encode(_ANCHOR, add_special_tokens=False)
    before = _decode(tokenizer, anchor)
    pieces: list[Piece | None] = []
    for i in range(size):
        text = "" if i in special else _decode(tokenizer, [*anchor, i])
        added = text[len(before) :] if text.startswith(before) else ""
        pieces.append(None if "\ufffd" in added else Piece(added.encode()))
    return pieces


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

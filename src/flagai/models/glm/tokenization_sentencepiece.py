"""A SentencePiece model of the BPE kind → the same tokenizer in Rust, normalisation, unknowns and spaces included.

It knows no command tokens: they are added by whoever builds the whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from flagai.errors import CheckpointError, MissingExtraError, ModelError

_BPE: Final = 2
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
_SPACE: Final = "▁"

_REMOVED: Final = "[\\x01-\\x08\\x0b\\x0e-\\x1f\\x7f\\x8f\\x9f]"
"""what SentencePiece's rules nmt_* delete; the Rust side loses its place where they stand first"""
_EXTENDS: Final = "(?<!\\A)(?=[\\p{M}\u200c\u200d\uff9e\uff9f\U0001f3fb-\U0001f3ff])"
_BREAK: Final = "\x01"
"""one of the deleted ones, so that it goes again"""
_UNKNOWN_MARK: Final = "\ue000"
_UNKNOWN_SURFACE: Final = " ⁇ "


@dataclass(frozen=True, kw_only=True)
class SentencePiece:
    """What a .model file holds, as far as it matters for encoding."""

    pieces: tuple[str, ...]
    """by id"""
    scores: tuple[float, ...]
    kinds: tuple[int, ...]
    charsmap: bytes
    unknown: str

    def of_kind(self, kind: int) -> list[str]:
        """The pieces of one kind: 1 ordinary, 2 unknown, 3 control, 4 defined by the user."""
        return [piece for piece, this in zip(self.pieces, self.kinds, strict=True) if this == kind]


def read_sentencepiece(path: str | Path) -> SentencePiece:
    """Read a .model file.

    Errors: `MissingExtraError` without protobuf; `CheckpointError` for a damaged file; `ModelError` for a model that is
    not of the BPE kind, or has a switch that GLM's has not.
    """
    path = Path(path)
    proto, damage = _message()
    try:
        proto.ParseFromString(path.read_bytes())
    except damage as error:
        raise _damaged(path) from error
    if not proto.pieces:
        raise _damaged(path)
    _check(proto, path)
    return SentencePiece(
        pieces=tuple(piece.piece for piece in proto.pieces),
        scores=tuple(piece.score for piece in proto.pieces),
        kinds=tuple(piece.type for piece in proto.pieces),
        charsmap=proto.normalizer_spec.precompiled_charsmap,
        unknown=proto.pieces[proto.trainer_spec.unk_id].piece,
    )


def _message() -> tuple[Any, type[Exception]]:
    """An empty message of SentencePiece's format, and what reading a damaged one raises."""
    from transformers.convert_slow_tokenizer import import_protobuf

    try:
        module: Any = import_protobuf()
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise MissingExtraError.for_package("protobuf", "glm") from error
    return module.ModelProto(), DecodeError


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(
        "the file is damaged or no SentencePiece model", fix="copy or download it again", where=str(path)
    )


def _check(proto: Any, path: Path) -> None:
    rules, how = proto.normalizer_spec, proto.trainer_spec
    wrong = [
        name
        for name, right in {
            "model_type BPE": how.model_type == _BPE,
            "no byte_fallback": not how.byte_fallback,
            "add_dummy_prefix": rules.add_dummy_prefix,
            "remove_extra_whitespaces": rules.remove_extra_whitespaces,
            "escape_whitespaces": rules.escape_whitespaces,
            "a normaliser": bool(rules.precompiled_charsmap),
        }.items()
        if not right
    ]
    if wrong:
        raise ModelError(
            f"the SentencePiece model lacks: {', '.join(wrong)}",
            expected="GLM's Chinese vocabulary, cog-pretrain.model",
            fix="give that file; models of other kinds belong to other families",
            where=str(path),
        )


def sentencepiece_merges(model: SentencePiece) -> list[tuple[str, str]]:
    """All pairs of pieces that make a piece, the best-scored first.

    SentencePiece joins any two neighbours whose union is a piece; the pairs of one piece are equally good.
    """
    ranked: list[tuple[float, str, str]] = []
    ordinary = set(model.of_kind(_NORMAL))
    for piece, score in zip(model.pieces, model.scores, strict=True):
        if piece in ordinary:
            ranked += [
                (-score, left, right) for left, right in _halves(piece) if left in ordinary and right in ordinary
            ]
    return [(left, right) for _, left, right in sorted(ranked, key=lambda row: row[0])]


def _halves(piece: str) -> Iterator[tuple[str, str]]:
    return ((piece[:i], piece[i:]) for i in range(1, len(piece)))


def sentencepiece_vocab(model: SentencePiece) -> dict[str, int]:
    """Token → id. A symbol that the user defined stands under one character, see `_stand_ins`."""
    vocab = {piece: number for number, piece in enumerate(model.pieces)}
    for symbol, character in _stand_ins(model):
        vocab[character] = vocab.pop(symbol)
    return vocab


def _stand_ins(model: SentencePiece) -> list[tuple[str, str]]:
    """(symbol, character): white space that normalising leaves nowhere, so that it is free to stand for a symbol.

    A symbol has no merges that lead to it, and a token cut out beforehand would break the text in two.
    """
    symbols = model.of_kind(_USER_DEFINED)
    if len(symbols) > len(free := "\n\t\x0b\x0c\r"):
        raise ModelError(f"{len(symbols)} user-defined symbols", expected=f"{len(free)} at most")
    return list(zip(symbols, free, strict=False))


def sentencepiece_normalizer(model: SentencePiece) -> normalizers.Normalizer:
    """The normaliser of the .model file, then single spaces between words and none around them.

    The Rust version takes the rule of the shortest prefix for a whole grapheme, SentencePiece that of the longest. So
    letters are composed first and again afterwards, and marks that stay apart are separated for its sake. U+0344 and
    stacks of marks in an order that Unicode does not use still come out otherwise.
    """
    steps: Sequence[normalizers.Normalizer] = [
        normalizers.Replace(Regex(_REMOVED), ""),
        normalizers.NFC(),
        normalizers.Replace(Regex(_EXTENDS), _BREAK),
        normalizers.Precompiled(model.charsmap),
        normalizers.NFC(),
        normalizers.Replace(Regex(" {2,}"), " "),
        normalizers.Replace(Regex("^ | $"), ""),
        *(normalizers.Replace(symbol, character) for symbol, character in _stand_ins(model)),
    ]
    return normalizers.Sequence(list(steps))


def sentencepiece_decoder(model: SentencePiece, commands: Sequence[str]) -> decoders.Decoder:
    """Pieces → text as SentencePiece joins them, each stretch between command tokens by itself."""
    alternatives = "|".join(["\\A", *(_escaped(token) for token in commands)])
    steps = [
        decoders.Replace(_SPACE, " "),
        decoders.Replace(model.unknown, _UNKNOWN_MARK),
        *(decoders.Replace(piece, "") for piece in model.of_kind(_CONTROL)),
        decoders.Fuse(),
        decoders.Replace(Regex(f"(?<={alternatives}) +"), ""),
        decoders.Replace(_UNKNOWN_MARK, _UNKNOWN_SURFACE),
        *(decoders.Replace(character, symbol) for symbol, character in _stand_ins(model)),
    ]
    return decoders.Sequence(steps)


def _escaped(token: str) -> str:
    return "".join(f"\\{character}" if not character.isalnum() else character for character in token)


def sentencepiece_backend(model: SentencePiece, vocab: dict[str, int], commands: Sequence[str]) -> Tokenizer:
    """The whole tokenizer, over a vocabulary that has the pieces and may have more."""
    merges = sentencepiece_merges(model)
    backend = Tokenizer(BPE(vocab=vocab, merges=merges, unk_token=model.unknown, fuse_unk=True))
    backend.normalizer = sentencepiece_normalizer(model)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    backend.decoder = sentencepiece_decoder(model, commands)
    return backend

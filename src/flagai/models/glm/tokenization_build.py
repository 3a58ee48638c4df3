"""Published vocabulary files → a fast tokenizer with the command tokens at their ids. It knows no folder's layout."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, WordPiece

from flagai.errors import CheckpointError, MissingFileError, ModelError
from flagai.models.glm.commands import CommandToken, LayoutName, command_tokens

_CASED_SHARE: Final = 0.05


@dataclass(frozen=True, kw_only=True)
class Built:
    """A tokenizer and what its command tokens are."""

    backend: Tokenizer
    tokens: tuple[CommandToken, ...]
    base_size: int


def build_wordpiece(
    file: Path, *, task_mask: bool | None = None, dblock: bool = False, lower_case: bool | None = None
) -> Built:
    """BERT's: a vocab.txt with a token a line. `lower_case` also takes accents off; default: as the tokens look."""
    words = _lines(file)
    base = _numbered(words, file)
    tokens = _tokens("bert", base, str(file), task_mask, dblock)
    lower = not _is_cased(words) if lower_case is None else lower_case
    backend = Tokenizer(WordPiece(_with_commands(base, tokens), unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lower)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return _finished(backend, tokens, 1 + max(base.values()))


def build_byte_bpe(
    vocab_file: Path,
    merges_file: Path,
    layout: LayoutName,
    *,
    task_mask: bool | None = None,
    dblock: bool = False,
) -> Built:
    """GPT-2's and RoBERTa's: vocab.json and merges.txt. No space is put in front of a text."""
    base = _read_vocab_json(vocab_file)
    names = base
    if layout == "roberta" and "[MASK]" in base:
        names = base | {"<mask>": base["[MASK]"]}  # a vocabulary that was edited says itself what the mask is
    tokens = _tokens(layout, names, str(vocab_file), task_mask, dblock)
    merges = _read_merges(merges_file)
    try:
        backend = Tokenizer(BPE(vocab=_with_commands(base, tokens), merges=merges))
    except Exception as error:
        if type(error) is not Exception:  # the Rust side raises bare exceptions
            raise
        raise ModelError(
            f"the merges do not belong to the vocabulary ({error})",
            expected=f"the merges.txt that came with {vocab_file.name}",
            where=str(merges_file),
        ) from error
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return _finished(backend, tokens, 1 + max(base.values()))


def build_sentencepiece(
    file: Path, layout: LayoutName, *, task_mask: bool | None = None, dblock: bool = False
) -> Built:
    """The Chinese one: cog-pretrain.model. Needs protobuf (`flagai[glm]`)."""
    from flagai.models.glm.tokenization_sentencepiece import (
        read_sentencepiece,
        sentencepiece_backend,
        sentencepiece_vocab,
    )

    model = read_sentencepiece(file)
    base = sentencepiece_vocab(model)
    tokens = _tokens(layout, base, str(file), task_mask, dblock)
    backend = sentencepiece_backend(model, _with_commands(base, tokens), [token.token for token in tokens])
    return _finished(backend, tokens, len(base))


def _tokens(
    layout: LayoutName, base: Mapping[str, int], where: str, task_mask: bool | None, dblock: bool
) -> tuple[CommandToken, ...]:
    try:
        return command_tokens(layout, base, task_mask=task_mask, dblock=dblock)
    except ModelError as error:
        raise ModelError(error.found, expected=error.expected, fix=error.fix, where=where) from error


def _with_commands(base: Mapping[str, int], tokens: Sequence[CommandToken]) -> dict[str, int]:
    """The whole vocabulary. An id that a command takes over has its name; a gap becomes a token that no text has."""
    names = {number: token for token, number in base.items()} | canonical(tokens)
    names |= {number: f"[UNUSED{number}]" for number in range(max(names)) if number not in names}
    return {token: number for number, token in names.items()}


def canonical(tokens: Sequence[CommandToken]) -> dict[int, str]:
    """Id → the string it is decoded to: the last of the command tokens with that id, as in the original."""
    return {token.Id: token.token for token in tokens}


def _finished(backend: Tokenizer, tokens: tuple[CommandToken, ...], base_size: int) -> Built:
    """Make the command tokens be found in texts, and frame texts as [CLS] … eos."""
    names = canonical(tokens)
    doubles = {token.token: names[token.Id] for token in tokens if names[token.Id] != token.token}
    backend.add_special_tokens(
        [
            # A token with a second name is looked for behind the normaliser, which turns that name into it.
            AddedToken(token.token, lstrip=token.lstrip, normalized=token.token in doubles.values(), special=True)
            for token in tokens
            if token.token not in doubles
        ]
    )
    if doubles:
        first = [normalizers.Replace(name, kept) for name, kept in doubles.items()]
        rest = [] if backend.normalizer is None else [backend.normalizer]
        backend.normalizer = normalizers.Sequence([*first, *rest])
    backend.post_processor = _frame({token.name: token for token in tokens}, names)
    return Built(backend=backend, tokens=tokens, base_size=base_size)


def _frame(by_name: Mapping[str, CommandToken], names: Mapping[int, str]) -> processors.TemplateProcessing:
    cls, sep, eos = (names[by_name[name].Id] for name in ("ENC", "sep", "eos"))
    special = {names[by_name[name].Id]: by_name[name].Id for name in ("ENC", "sep", "eos")}
    return processors.TemplateProcessing(
        single=[cls, "$A", eos], pair=[cls, "$A", sep, "$B:1", f"{eos}:1"], special_tokens=list(special.items())
    )


# files


def _lines(file: Path) -> list[str]:
    try:
        # Not splitlines(): a line separator of Unicode may itself be a token.
        return file.read_text("utf-8").replace("\r\n", "\n").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"no UTF-8 text ({error})", where=str(file)) from error
    except FileNotFoundError as error:
        raise MissingFileError("the vocabulary file is not there", where=str(file)) from error


def _numbered(words: Sequence[str], file: Path) -> dict[str, int]:
    base = {word: number for number, word in enumerate(words)}
    if len(base) != len(words):
        twice = next(word for number, word in enumerate(words) if base[word] != number)
        raise CheckpointError(f"the token {twice!r} stands twice", expected="each token once", where=str(file))
    return base


def _is_cased(words: Sequence[str]) -> bool:
    """Whether a vocabulary knows capitals: more than stray ones among its words of Latin letters."""
    latin = [word for word in words if word.isascii() and word.isalpha()]
    return sum(word != word.lower() for word in latin) > _CASED_SHARE * len(latin)


def _read_vocab_json(file: Path) -> dict[str, int]:
    try:
        values = json.loads("\n".join(_lines(file)))
    except ValueError as error:
        raise CheckpointError(f"no JSON ({error})", where=str(file)) from error
    if not isinstance(values, dict) or not values or not all(type(number) is int for number in values.values()):
        raise CheckpointError("no vocabulary", expected="an object of token: id", where=str(file))
    return values


def _read_merges(file: Path) -> list[tuple[str, str]]:
    rows = [line.split(" ") for line in _lines(file) if line and not line.startswith("#version")]
    if wrong := next((row for row in rows if len(row) != 2), None):
        raise CheckpointError(f"the line {' '.join(wrong)!r}", expected="two parts of a word a line", where=str(file))
    return [(left, right) for left, right in rows]

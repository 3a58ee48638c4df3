"""Tokenizers that cut Chinese text into words first, as CPM's and T5-PEGASUS' do. Knows no model.

The words are jieba's. A word is then cut into pieces of the vocabulary by the Rust tokenizer, which keeps the offsets.
What is saved is the whole tokenizer but for the words (`flagai_words` in tokenizer_config.json says that they belong
to it); other programs that open the folder cut without words and get other tokens.
"""

from __future__ import annotations

import contextlib
import json
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

from tokenizers import NormalizedString, PreTokenizedString, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram, WordPiece
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from flagai.errors import CheckpointError, MissingExtraError
from flagai.models.checkpoints import read_json
from flagai.models.quiet import quiet_transformers

Words = Literal["cpm", "t5-pegasus"]

_KEY: Final = "flagai_words"
_SPACE: Final = "▁"
_BLANKS: Final = {" ": "\u2582", "\n": "\u2583"}
"""the two characters by which CPM writes white space of a text"""
_UNIGRAM, _BPE, _CONTROL = 1, 2, 3
_CPM_FILES: Final = ("chinese_vocab.model", "spiece.model")
_LIKE_BERT: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class WordsTokenizer(PreTrainedTokenizerFast):
    """A tokenizer of transformers that cuts text into words by itself; `cpm_tokenizer` and the like build one."""

    model_input_names: ClassVar[list[str]] = ["input_ids", "attention_mask"]

    # No __init__: transformers would then rebuild the tokenizer from its parts instead of reading tokenizer.json.

    @classmethod
    def of(cls, backend: Tokenizer, words: Words, **options: Any) -> WordsTokenizer:
        """Around a Rust tokenizer that does not know the words yet."""
        return cls(tokenizer_object=backend, flagai_words=words, clean_up_tokenization_spaces=False, **options)._ready()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *inputs: Any, **kwargs: Any) -> Any:
        """What `save_pretrained` wrote. Errors: `MissingExtraError` without jieba."""
        with quiet_transformers():
            return super().from_pretrained(pretrained_model_name_or_path, *inputs, **kwargs)._ready()

    @property
    def words(self) -> Words:
        """Whose way of using the words it is."""
        return self.init_kwargs[_KEY]

    def _ready(self) -> WordsTokenizer:
        backend = self.backend_tokenizer
        # Words are cut from the text as it is and normalised one by one.
        rules, backend.normalizer = backend.normalizer, None
        self._rules = rules
        cutter = _CpmWords(rules) if self.words == "cpm" else _PegasusWords(self.get_vocab())
        backend.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(cutter)
        return self

    def save_pretrained(self, save_directory: Any, *inputs: Any, **kwargs: Any) -> Any:
        """As transformers has it, without the words, which no file can hold."""
        with self._without_words():
            written = super().save_pretrained(save_directory, *inputs, **kwargs)
        file = Path(save_directory) / "tokenizer_config.json"
        # a class that programs without flagai have, too
        told = read_json(file) | {"tokenizer_class": "PreTrainedTokenizerFast"}
        file.write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", "utf-8")
        return written

    @contextlib.contextmanager
    def _without_words(self) -> Iterator[None]:
        backend = self.backend_tokenizer
        kept = backend.pre_tokenizer
        backend.pre_tokenizer = pre_tokenizers.Metaspace() if self.words == "cpm" else pre_tokenizers.BertPreTokenizer()
        backend.normalizer = self._rules
        try:
            yield
        finally:
            backend.pre_tokenizer, backend.normalizer = kept, None


def words_tokenizer_of(folder: Path, config: Mapping[str, Any]) -> WordsTokenizer | None:
    """The tokenizer of a folder whose text is cut into words first; None for any other.

    Args:
        config: the content of the model's config.json, {} where there is none: a T5 with a vocab.txt is a T5-PEGASUS.
    Errors: `MissingExtraError` without jieba or protobuf, `CheckpointError` for damaged files.
    """
    settings = folder / "tokenizer_config.json"
    told = read_json(settings) if settings.is_file() else {}
    if _KEY in told and (folder / "tokenizer.json").is_file():
        return WordsTokenizer.from_pretrained(str(folder), local_files_only=True)
    if (folder / "tokenizer.json").is_file():
        return None
    if (file := _cpm_file(folder, told, config)) is not None:
        return cpm_tokenizer(file)
    is_t5 = config.get("model_type") in ("t5", "mt5") or ("model_type" not in config and "d_kv" in config)
    return pegasus_tokenizer(folder / "vocab.txt") if is_t5 and (folder / "vocab.txt").is_file() else None


def _cpm_file(folder: Path, told: Mapping[str, Any], config: Mapping[str, Any]) -> Path | None:
    original, common = (folder / name for name in _CPM_FILES)
    if original.is_file():
        return original
    named = str(told.get("tokenizer_class", "")).startswith("Cpm")
    is_gpt2 = "n_embd" in config or config.get("model_type") == "gpt2"
    return common if common.is_file() and (named or is_gpt2) else None


# -- CPM -----------------------------------------------------------------------------------------------------------


def cpm_tokenizer(file: str | Path) -> WordsTokenizer:
    """CPM's tokenizer from its SentencePiece file (`chinese_vocab.model`); no special tokens are put around a text.

    Words are joined by spaces, as in the text that CPM was trained with. Errors: see `words_tokenizer_of`.
    """
    proto = _read(Path(file))
    pieces = [(piece.piece, float(piece.score)) for piece in proto.pieces]
    backend = Tokenizer(_model(proto, pieces))
    if charsmap := proto.normalizer_spec.precompiled_charsmap:
        backend.normalizer = normalizers.Precompiled(charsmap)
    undo = [decoders.Replace(written, read) for read, written in _BLANKS.items()]
    backend.decoder = decoders.Sequence([decoders.Replace(_SPACE, ""), decoders.Fuse(), *undo])
    names = {piece.piece for piece in proto.pieces}
    control = [piece.piece for piece in proto.pieces if piece.type == _CONTROL]
    wanted = {"unk": "<unk>", "pad": "<pad>", "bos": "<s>", "eos": "<eod>", "cls": "<cls>", "sep": "<sep>"}
    special = {f"{field}_token": token for field, token in wanted.items() if token in names}
    others = [token for token in control if token not in special.values()]
    return WordsTokenizer.of(backend, "cpm", extra_special_tokens=others, **special)


def _read(file: Path) -> Any:
    from transformers.convert_slow_tokenizer import import_protobuf

    try:
        module: Any = import_protobuf()
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise MissingExtraError.for_package("protobuf", "cpm") from error
    proto = module.ModelProto()
    try:
        proto.ParseFromString(file.read_bytes())
    except DecodeError:
        proto.Clear()
    if not proto.pieces or proto.trainer_spec.model_type not in (_UNIGRAM, _BPE):
        raise CheckpointError(
            "the file is damaged or no SentencePiece model", fix="copy or download it again", where=str(file)
        )
    return proto


def _model(proto: Any, pieces: list[tuple[str, float]]) -> Any:
    unknown = proto.trainer_spec.unk_id
    if proto.trainer_spec.model_type == _UNIGRAM:
        return Unigram(pieces, unknown, False)
    vocab = {piece: number for number, (piece, _) in enumerate(pieces)}
    ranked = sorted(
        (-score, piece[:i], piece[i:])
        for piece, score in pieces
        for i in range(1, len(piece))
        if piece[:i] in vocab and piece[i:] in vocab
    )
    merges = [(left, right) for _, left, right in ranked]
    return BPE(vocab=vocab, merges=merges, unk_token=pieces[unknown][0], fuse_unk=True)


class _CpmWords:
    """Words of a text, each with a mark in front of it, and white space by its stand-ins."""

    def __init__(self, rules: Any) -> None:
        self._jieba, self._rules = _load_jieba(), rules

    def pre_tokenize(self, text: PreTokenizedString) -> None:
        """Called by the Rust side."""
        text.split(lambda _, part: [part[i:j] for _, i, j in self._jieba.tokenize(str(part.normalized))])
        text.normalize(self._mark)

    def _mark(self, word: NormalizedString) -> None:
        for read, written in _BLANKS.items():
            word.replace(read, written)
        if self._rules is not None:
            self._rules.normalize(word)
        word.strip()
        if str(word.normalized):
            word.replace(" ", _SPACE)
            word.prepend(_SPACE)


# -- T5-PEGASUS ----------------------------------------------------------------------------------------------------


def pegasus_tokenizer(file: str | Path) -> WordsTokenizer:
    """T5-PEGASUS' tokenizer from its vocab.txt: words of the vocabulary stay whole, others are cut as BERT does.

    A text is framed by [CLS] and [SEP]. Errors: see `words_tokenizer_of`.
    """
    lines = Path(file).read_text("utf-8").replace("\r\n", "\n").removesuffix("\n").split("\n")
    vocab = {token: number for number, token in enumerate(lines)}
    if lost := [token for token in _LIKE_BERT[:4] if token not in vocab]:
        raise CheckpointError(f"the vocabulary has no {', '.join(lost)}", expected="a BERT vocabulary", where=str(file))
    backend = Tokenizer(WordPiece(vocab=vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    backend.decoder = decoders.WordPiece(cleanup=True)
    ends = [(token, vocab[token]) for token in ("[CLS]", "[SEP]")]
    frame, pair = "[CLS]:0 $A:0 [SEP]:0", "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1"
    backend.post_processor = TemplateProcessing(single=frame, pair=pair, special_tokens=ends)
    special = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    named = {f"{field}_token": token for field, token in special.items() if token in vocab}
    return WordsTokenizer.of(backend, "t5-pegasus", bos_token="[CLS]", eos_token="[SEP]", **named)


class _PegasusWords:
    """Words of a text; those that the vocabulary lacks are cut and cleaned as BERT does with a whole text."""

    def __init__(self, vocab: Mapping[str, int]) -> None:
        self._jieba, self._vocab = _load_jieba(), vocab

    def pre_tokenize(self, text: PreTokenizedString) -> None:
        """Called by the Rust side."""
        text.split(self._cut)
        text.normalize(self._clean)

    def _cut(self, _: int, text: NormalizedString) -> list[NormalizedString]:
        parts = []
        for word, start, end in self._jieba.tokenize(str(text.normalized), HMM=False):
            spans = [(start, end)] if word in self._vocab else _bert_spans(word, start)
            parts += [text[i:j] for i, j in spans]
        return parts

    def _clean(self, word: NormalizedString) -> None:
        if str(word.normalized) not in self._vocab:
            word.nfd()
            word.filter(lambda character: unicodedata.category(character) not in ("Mn", "Cc", "Cf"))
            word.lowercase()


def _bert_spans(word: str, start: int) -> list[tuple[int, int]]:
    """Chinese characters and punctuation alone, white space nowhere."""
    spans: list[tuple[int, int]] = []
    open_until = -1
    for place, character in enumerate(word, start):
        alone = _stands_alone(character)
        if character.isspace():
            continue
        if alone or open_until != place:
            spans.append((place, place + 1))
        else:
            spans[-1] = (spans[-1][0], place + 1)
        open_until = -1 if alone else place + 1
    return spans


def _stands_alone(character: str) -> bool:
    code = ord(character)
    if 0x4E00 <= code <= 0x9FFF or 0x3400 <= code <= 0x4DBF or 0x20000 <= code <= 0x2FA1F or 0xF900 <= code <= 0xFAFF:
        return True
    symbol = character.isascii() and not character.isalnum() and character.isprintable()
    return symbol or unicodedata.category(character).startswith("P")


def _load_jieba() -> Any:
    """jieba, with nothing said while it reads its dictionary."""
    import logging
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its use of pkg_resources
            import jieba
    except ImportError as error:
        raise MissingExtraError.for_package("jieba", "cpm") from error
    jieba.setLogLevel(logging.WARNING)
    return jieba

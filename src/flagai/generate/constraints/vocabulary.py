"""What each token does to a text, as arrays: the characters that it completes, and where that leaves the text.

It knows tokens and characters, no constraint and no model.
"""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from flagai.generate.constraints.pieces import Piece, read_pieces

NO_CHARACTER: Final = -1
_LONGEST: Final = 48  # characters of one token: rulers of white space beyond that are no loss to a constrained answer
_ASTRAL: Final = range(0x1F300, 0x1FB00)  # pictographs, beside the basic plane


class Context(NamedTuple):
    """What of the text before decides what a token adds.

    Args:
        before: "start" of the answer, where one space is dropped; behind a "wide" character or a "narrow" one
            (WordPiece puts a space between narrow ones); "plain" in vocabularies that write their own spaces.
        pending: the bytes of a character that is not complete.
    """

    before: Literal["start", "plain", "narrow", "wide"]
    pending: bytes = b""


START: Final = Context("start")
_PLAIN: Final = Context("plain")


@dataclass(frozen=True, slots=True)
class Table:
    """What the tokens that may follow a context do; one row a token.

    Args:
        ids: int64 [n], ascending.
        characters: int32 [n, longest], indices into `Vocabulary.alphabet`, filled up with `NO_CHARACTER`.
        after: int64 [n], indices into `contexts`.
        contexts: the contexts that follow.
    """

    ids: np.ndarray
    characters: np.ndarray
    after: np.ndarray
    contexts: tuple[Context, ...]


class Vocabulary:
    """The text of a tokenizer's tokens.

    Args:
        pieces: for each id its own text, None where it has none.
        spaced: whether there are spaces between pieces, as between WordPieces.
    """

    def __init__(self, pieces: Sequence[Piece | None], *, spaced: bool = False) -> None:
        self.pieces, self.spaced = tuple(pieces), spaced
        self.compiled: dict[Any, Any] = {}
        """for those who compute something from a vocabulary and want to keep it with it"""
        self._tables: dict[Context, Table] = {}
        self._completions: dict[bytes, np.ndarray] = {}

    @classmethod
    def of(cls, tokenizer: Any) -> Vocabulary:
        """The vocabulary of a tokenizer; computed once for each, and again where tokens were added since."""
        size = len(tokenizer)
        if (known := _KNOWN.get(tokenizer)) is None or known[0] != size:
            pieces, spaced = read_pieces(tokenizer)
            known = _KNOWN[tokenizer] = (size, cls(pieces, spaced=spaced))
        return known[1]

    def __len__(self) -> int:
        return len(self.pieces)

    @cached_property
    def has_bytes(self) -> bool:
        """Whether every byte is a token, so that any character can be written."""
        single = {piece.data[0] for piece in self.pieces if piece is not None and len(piece.data) == 1}
        return len(single & set(range(0x80, 0xF5))) >= 100

    @cached_property
    def alphabet(self) -> np.ndarray:
        """The characters that can be written: code points, uint32, ascending."""
        found: set[str] = set()
        for piece in self.pieces:
            if piece is not None:
                found.update(piece.data.decode(errors="ignore"))
        if self.has_bytes:
            found.update(chr(code) for code in (*range(0x10000), *_ASTRAL) if _is_text(chr(code)))
        if self.spaced:
            found.add(" ")
        found.discard("\ufffd")
        return np.array(sorted(map(ord, found)), dtype=np.uint32)

    @cached_property
    def encoded(self) -> np.ndarray:
        """UTF-8 of each character of the alphabet, uint8 [characters, 4], filled up with 0."""
        joined = b"".join(chr(code).encode().ljust(4, b"\0") for code in self.alphabet.tolist())
        return np.frombuffer(joined, dtype=np.uint8).reshape(-1, 4)

    @cached_property
    def costs(self) -> np.ndarray:
        """About how many tokens each character of the alphabet takes, int64; 1 for one in longer tokens only."""
        sizes = (self.encoded != 0).sum(1).clip(1)
        single = {piece.data for piece in self.pieces if piece is not None}
        alone = np.array([chr(code).encode() in single for code in self.alphabet.tolist()], dtype=bool)
        return np.where(alone | (not self.has_bytes), 1, sizes)

    def index(self, text: str) -> np.ndarray:
        """The characters' places in the alphabet, int32; `NO_CHARACTER` for those that it lacks."""
        codes = np.array([ord(char) for char in text], dtype=np.uint32)
        places = np.searchsorted(self.alphabet, codes).clip(max=len(self.alphabet) - 1)
        return np.where(self.alphabet[places] == codes, places, NO_CHARACTER).astype(np.int32)

    def add(self, context: Context, token: int) -> tuple[str, Context] | None:
        """(The characters that the token completes, the context after it); None where it cannot stand there."""
        piece = self.pieces[token] if 0 <= token < len(self.pieces) else None
        if piece is None or (context.before == "start" and piece.inner):
            return None
        found = self._own[token] if not context.pending else decode(context.pending + piece.data)
        return None if found is None else self._joined(context, piece, *found)

    @cached_property
    def _own(self) -> list[tuple[str, bytes] | None]:
        """Each piece's own characters and what it begins; None for none."""
        return [None if piece is None else decode(piece.data) for piece in self.pieces]

    def _joined(self, context: Context, piece: Piece, text: str, pending: bytes) -> tuple[str, Context]:
        if self.spaced:
            apart = context.before == "narrow" and not piece.glued and not is_wide(text[:1])
            return " " * apart + text, Context("wide" if is_wide(text[-1:]) else "narrow", pending)
        if context.before == "start" and not context.pending:
            text = text.removeprefix(" ")
        return text, Context("plain", pending) if pending else _PLAIN

    def table(self, context: Context) -> Table:
        """All that may follow a context; computed once."""
        if context not in self._tables:
            self._tables[context] = self._make_table(context)
        return self._tables[context]

    def _make_table(self, context: Context) -> Table:
        ids = self._continuing if context.pending else range(len(self))
        found = [(i, one) for i in ids if (one := self.add(context, i)) is not None and len(one[0]) <= _LONGEST]
        lengths = np.array([len(text) for _, (text, _) in found], dtype=np.int64)
        characters = np.full((len(found), max(lengths.max(initial=0), 1)), NO_CHARACTER, dtype=np.int32)
        written = np.arange(characters.shape[1]) < lengths[:, None]
        characters[written] = self.index("".join(text for _, (text, _) in found))
        # Bytes can be joined to characters that the alphabet leaves out.
        known = ((characters >= 0) == written).all(1)
        numbers: dict[Context, int] = {}
        after = np.array([numbers.setdefault(one, len(numbers)) for _, (_, one) in found], dtype=np.int64)
        numbers_of_ids = np.array([i for i, _ in found], dtype=np.int64)
        return Table(numbers_of_ids[known], characters[known], after[known], tuple(numbers))

    @cached_property
    def _continuing(self) -> list[int]:
        """Tokens that may go on with a character."""
        found = enumerate(self.pieces)
        return [i for i, piece in found if piece is not None and 0x80 <= piece.data[0] < 0xC0]

    def completions(self, pending: bytes) -> np.ndarray:
        """The characters of the alphabet whose UTF-8 begins with these bytes: indices, int64."""
        if pending not in self._completions:
            same = np.ones(len(self.alphabet), dtype=bool)
            for place, byte in enumerate(pending):
                same &= self.encoded[:, place] == byte
            self._completions[pending] = np.flatnonzero(same)
        return self._completions[pending]

    def text(self, tokens: Iterable[int]) -> str:
        """The text of an answer; tokens without a text, and broken characters, left out."""
        context, parts = START, []
        for token in tokens:
            if (found := self.add(context, int(token))) is not None:
                parts.append(found[0])
                context = found[1]
        return "".join(parts)


_KNOWN: WeakKeyDictionary[Any, tuple[int, Vocabulary]] = WeakKeyDictionary()


def decode(data: bytes) -> tuple[str, bytes] | None:
    """(The characters that the bytes complete, the bytes left over); None where they are no UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        text = decoder.decode(data)
    except UnicodeDecodeError:
        return None
    pending = decoder.getstate()[0]
    # Halves of surrogate pairs are no characters: the decoder says so only at their last byte.
    broken = "\ufffd" in text or (pending[:1] == b"\xed" and pending[1:2] >= b"\xa0")
    return None if broken else (text, pending)


def is_wide(char: str) -> bool:
    """Whether no space stands beside the character when WordPieces are joined: East Asian scripts and their marks."""
    return bool(char) and "\u2e80" <= char <= "\uffef"


def _is_text(char: str) -> bool:
    return unicodedata.category(char)[0] != "C" or char in "\n\t"

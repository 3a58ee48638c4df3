"""Documents of a corpus → the samples of an epoch: windows of long ones, several short ones joined. Knows no model.

A sample is `[CLS] document eos`, at most `max_length` tokens. What a sample holds is a pure function of (corpus,
framing, seed, epoch, index): no random state is used up, and any sample can be had without those before it. The idea
(windows that end where sentences end, short documents joined) is that of the data set GLM was pre-trained with; that
one draws documents at random, this one takes each token once an epoch.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from flagai.data.corpus import Corpus
from flagai.data.streams import stream
from flagai.errors import ConfigError

_LEAST: Final = 8


@dataclass(frozen=True, kw_only=True)
class Framing:
    """How documents become samples.

    Raises:
        ConfigError: fewer than 8 tokens a sample.
    """

    cls: int
    """id of the token in front of a document"""
    eos: int
    """id of the token behind the last token of a document; a window that ends before has none"""
    sentence_ends: np.ndarray
    """ids of the tokens that end a sentence, ascending"""
    max_length: int
    """most tokens of a sample, special tokens counted"""
    join: bool = False
    """whether several short documents share a sample"""

    def __post_init__(self) -> None:
        if self.max_length < _LEAST:
            raise ConfigError(
                f"samples of {self.max_length} tokens leave no room for text",
                where="data.max_length",
                expected=f"at least {_LEAST}",
                fix="raise it",
            )


@dataclass(frozen=True, slots=True)
class Sample:
    """One model input before anything is cut out of it."""

    ids: np.ndarray
    """[n], special tokens included"""
    predicted: np.ndarray
    """bool [n]: False for prompts, which are read and not learned"""


class Samples(Protocol):
    """The samples of one epoch."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sample, int64 [samples]."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


class SampleSource(Protocol):
    """Where the samples of each epoch come from: one corpus, or a mixture of them."""

    @property
    def hash(self) -> str:
        """sha256 of all that decides which samples there are, the epoch excepted."""
        ...

    def epoch(self, number: int) -> Samples:
        """The samples of the 0-based epoch."""
        ...


class CorpusSamples:
    """The samples of one corpus, epoch by epoch.

    Args:
        corpus: the documents.
        framing: how they become samples.
        seed: where the windows of long documents begin, and which documents are joined, depends on it and the epoch.
        documents: indices of the documents to take; None for all.
        vary: False gives the same samples in every epoch, for held-out data.
    """

    def __init__(
        self,
        corpus: Corpus,
        framing: Framing,
        *,
        seed: int,
        documents: np.ndarray | None = None,
        vary: bool = True,
    ) -> None:
        self.corpus, self.framing, self.seed, self.vary = corpus, framing, seed, vary
        self.documents = np.arange(len(corpus)) if documents is None else np.asarray(documents, dtype=np.int64)
        self.hash = self._hash()
        """sha256 of documents and framing"""
        self._cached: dict[int, _Epoch] = {}

    def _hash(self) -> str:
        framing = self.framing
        told = [self.corpus.info.hash, framing.cls, framing.eos, framing.max_length, framing.join, self.vary]
        digest = hashlib.sha256("/".join(map(str, told)).encode())
        digest.update(np.ascontiguousarray(framing.sentence_ends, dtype="<i8").tobytes())
        digest.update(np.ascontiguousarray(self.documents, dtype="<i8").tobytes())
        return digest.hexdigest()

    def epoch(self, number: int) -> Samples:
        """The samples of the 0-based epoch; the last two epochs asked for are kept."""
        number = number if self._varies else 0
        found = self._cached.get(number)  # one read: threads that prepare batches ahead share this object
        if found is None:
            found = _Epoch(self.corpus, self.framing, self._pieces(number), self._order_seed(number))
            kept = {key: value for key, value in self._cached.items() if key == number - 1}
            self._cached = kept | {number: found}
        return found

    def _order_seed(self, number: int) -> np.random.Generator:
        return stream("join", self.seed, number, self.hash)

    @functools.cached_property
    def _sizes(self) -> np.ndarray:
        """Tokens of each document with its eos."""
        return self.corpus.lengths[self.documents] + 1

    @functools.cached_property
    def _varies(self) -> bool:
        """Whether another epoch has other samples: not where each document is a sample of its own."""
        return self.vary and (self.framing.join or bool((self._sizes > self.framing.max_length - 1).any()))

    def _pieces(self, number: int) -> np.ndarray:
        """Windows as rows (document, start, stop) over the document's ids and its eos; int64 [pieces, 3]."""
        whole = self._sizes <= self.framing.max_length - 1  # the [CLS]
        pieces = np.stack([self.documents, np.zeros_like(self._sizes), self._sizes], axis=1)
        if whole.all():
            return pieces
        begun = np.ones(len(self.documents))
        if self.vary:
            begun = stream("windows", self.seed, number, self.hash).random(len(self.documents))
        cut = [
            (document, start, stop)
            for document, first in zip(self.documents[~whole].tolist(), begun[~whole].tolist(), strict=True)
            for start, stop in windows(self.corpus[document], self.framing, begun=first)
        ]
        rows = np.concatenate([pieces[whole], np.array(cut, dtype=np.int64)])
        return rows[np.lexsort((rows[:, 1], rows[:, 0]))]


class _Epoch:
    """The samples of one epoch: `pieces[firsts[i]:firsts[i + 1]]` make sample i."""

    def __init__(self, corpus: Corpus, framing: Framing, pieces: np.ndarray, order: np.random.Generator) -> None:
        self._corpus, self._framing = corpus, framing
        sizes = pieces[:, 2] - pieces[:, 1] + 1
        if framing.join:
            chosen = order.permutation(len(pieces))
            self._pieces, sizes = pieces[chosen], sizes[chosen]
            self._firsts = joined(sizes, framing.max_length)
        else:
            self._pieces, self._firsts = pieces, np.arange(len(pieces) + 1)
        ends = np.concatenate([[0], sizes.cumsum()])
        self.lengths = np.diff(ends[self._firsts])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int, /) -> Sample:
        rows = self._pieces[self._firsts[index] : self._firsts[index + 1]]
        parts = [self._part(*map(int, row)) for row in rows]
        if len(parts) == 1:
            return parts[0]
        return Sample(np.concatenate([part.ids for part in parts]), np.concatenate([part.predicted for part in parts]))

    def _part(self, document: int, start: int, stop: int) -> Sample:
        return frame(self._corpus[document], self._corpus.prompt_length(document), start, stop, self._framing)


def joined(sizes: np.ndarray, most: int) -> np.ndarray:
    """Where each sample begins when pieces of `sizes` tokens are put one after another into samples of at most `most`.

    Returns: int64 [samples + 1], ascending, from 0 to the number of pieces.
    """
    ends = sizes.cumsum()
    firsts, filled = [0], 0
    while firsts[-1] < len(sizes):
        stop = max(int(np.searchsorted(ends, filled + most, side="right")), firsts[-1] + 1)
        firsts.append(stop)
        filled = int(ends[stop - 1])
    return np.array(firsts, dtype=np.int64)


def windows(ids: np.ndarray, framing: Framing, *, begun: float = 1.0) -> Iterator[tuple[int, int]]:
    """Cuts (start, stop) of one document; `stop` is len(ids) + 1 where the eos belongs to the window.

    A window ends behind the last sentence end in its second half; where there is none, it is full.

    Args:
        ids: [n] the document without special tokens.
        begun: in [0, 1], the size of the first window from a half to a whole one; 1 for all as large as they can be.
    """
    room = framing.max_length - 1  # the [CLS]
    total = len(ids) + 1
    if total <= room:
        yield 0, total
        return
    ends = np.flatnonzero(np.isin(ids, framing.sentence_ends)) + 1
    start, limit = 0, room // 2 + int(begun * (room - room // 2))
    while start < len(ids):  # an eos alone is nothing to learn from
        stop = min(start + limit, total)
        if stop < total:
            before = int(np.searchsorted(ends, stop, side="right"))
            stop = int(ends[before - 1]) if before and ends[before - 1] > start + limit // 2 else stop
        yield start, stop
        start, limit = stop, room


def frame(ids: np.ndarray, prompt: int, start: int, stop: int, framing: Framing) -> Sample:
    """One window of a document, whose first `prompt` tokens are not learned, between [CLS] and (where it ends) eos."""
    body = ids[start:stop]
    framed = np.empty(1 + stop - start, dtype=np.int64)
    framed[0] = framing.cls
    framed[1 : 1 + len(body)] = body
    framed[1 + len(body) :] = framing.eos
    predicted = np.ones(len(framed), dtype=bool)
    predicted[: 1 + max(0, prompt - start)] = False
    return Sample(framed, predicted)

"""Which tokens of a sample become blanks: short spans, whole sentences, or one long span. Knows no mask and no layout.

Spans are arrays of starts and ends (exclusive), ascending. All randomness comes from the generator that is handed in.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flagai.models.glm.sentence_ends import closing

if TYPE_CHECKING:
    from flagai.models.glm.blank_options import BlankOptions
    from flagai.models.glm.commands import Commands


class Spans(NamedTuple):
    """Stretches of a sample: `starts` [n] and `ends` [n] (exclusive), int64, ascending, without overlap."""

    starts: np.ndarray
    ends: np.ndarray


def special_tokens(ids: np.ndarray, commands: Commands) -> np.ndarray:
    """Which `ids` [n] are commands → bool [n]. The unknown token is a word like others."""
    table = _special_table(commands)
    return table[np.minimum(ids, len(table) - 1)]


@lru_cache(maxsize=8)
def _special_table(commands: Commands) -> np.ndarray:
    c = commands
    marks = (c.cls, c.eos, c.pad, c.sep, c.sop, c.eop, c.mask, c.smask, c.gmask, c.dblock)
    known = [mark for mark in marks if mark is not None]
    table = np.zeros(max(known) + 2, dtype=bool)  # the last entry stands for all ids above
    table[known] = True
    return table


def documents(special: np.ndarray) -> Spans:
    """The stretches between special tokens. The last token of a sample is left out: there the original expects an eos.

    Only where nothing else is left (a [CLS] and one token) does the last token count.
    """
    open_ = np.zeros(len(special) + 2, dtype=bool)
    np.logical_not(special[:-1], out=open_[1:-2])
    if not open_.any():
        open_[-2] = not special[-1]
    edges = np.flatnonzero(open_[1:] != open_[:-1])
    return Spans(edges[::2], edges[1::2])


def token_spans(
    docs: Spans, length: int, options: BlankOptions, rng: np.random.Generator, *, one_span: bool = False
) -> Spans:
    """Short spans for token mode: lengths ~ Poisson, dealt to the documents, at random places in each.

    Args:
        docs: `documents` of the sample, at least one.
        length: tokens of the sample; spans are drawn until they cover `mask_ratio` of it (the last is not trimmed).
        one_span: one span only.

    Between two spans of a document stays at least one token. As in the original, the shorter documents take spans up to
    `mask_ratio` of their own length and the longest takes the rest. Where the rest does not fit, the original drops the
    sample; here the spans are dealt anew, each to the document with most room, and trimmed to that room.
    """
    drawn = _draw_lengths(1 if one_span else max(1, int(options.mask_ratio * length)), options, rng)
    sizes = (docs.ends - docs.starts).tolist()
    order = _from_short_to_long(sizes)
    counts = _deal(drawn, [sizes[i] for i in order], options.mask_ratio)
    if counts is None:
        drawn, counts = _deal_by_room(drawn, [sizes[i] for i in order])
    dealt = [(i, count) for i, count in zip(order, counts, strict=True) if count]
    index, count = np.array(dealt, dtype=np.int64).T
    return _place(np.array(drawn, dtype=np.int64), count, docs.starts[index], docs.ends[index], rng)


def sentence_spans(
    ids: np.ndarray, special: np.ndarray, ends: np.ndarray, ratio: float, rng: np.random.Generator
) -> Spans:
    """Random whole sentences (with their end token) that together hold at least `ratio` of the sample; maybe none.

    Special tokens break sentences and belong to none; text before one, without a sentence end, is none either. (The
    original counts a [CLS] inside a packed sample to the sentence behind it, and so learns to write it.)
    """
    closes = closing(ids, ends) & ~special
    closes[-1] |= not special[-1]
    cuts = np.flatnonzero(closes | special)
    starts = np.concatenate(([0], cuts[:-1] + 1))
    is_sentence = closes[cuts]
    starts, stops = starts[is_sentence], cuts[is_sentence] + 1
    order = rng.permutation(len(starts))
    covered = (stops - starts)[order].cumsum()
    taken = np.sort(order[: covered.searchsorted(int(ratio * len(ids))) + 1])
    return Spans(starts[taken], stops[taken])


def long_span(doc: Spans, size: int, rng: np.random.Generator) -> Spans:
    """One span of `size` tokens at a random place of the only document, trimmed to it."""
    room = int(doc.ends[0] - doc.starts[0])
    size = min(size, room)
    start = doc.starts + rng.integers(room - size + 1)
    return Spans(start, start + size)


def _draw_lengths(budget: int, options: BlankOptions, rng: np.random.Generator) -> list[int]:
    """Span lengths up to the first sum ≥ `budget`, shuffled: the one that reaches it is longer on average."""
    lengths = _length_table(options).searchsorted(rng.random(budget), side="right") + 1
    enough = int(lengths.cumsum().searchsorted(budget)) + 1
    return rng.permutation(lengths[:enough]).tolist()


@lru_cache(maxsize=32)
def _length_table(options: BlankOptions) -> np.ndarray:
    table = np.cumsum(options.span_weights())
    table[-1] = 1.0  # rounding must not leave a gap above the last length
    return table


def _from_short_to_long(sizes: list[int]) -> list[int]:
    """Documents by length; of equal ones the later first, as in the original, which lists them from the end."""
    return sorted(range(len(sizes)), key=lambda i: (sizes[i], -i))


def _deal(lengths: list[int], sizes: list[int], ratio: float) -> list[int] | None:
    """How many of the lengths, in order, each document (short to long) takes; None where they do not all fit."""
    sums = [0, *accumulate(lengths)]
    counts, taken = [], 0
    for size in sizes[:-1]:
        until = bisect_right(sums, sums[taken] + int(size * ratio)) - 1
        counts.append(until - taken)
        taken = until
    rest = len(lengths) - taken
    if sums[-1] - sums[taken] + rest - 1 > sizes[-1]:
        return None
    return [*counts, rest]


def _deal_by_room(lengths: list[int], sizes: list[int]) -> tuple[list[int], list[int]]:
    """Every length to the document with most room, trimmed to it → lengths by document, and how many each has."""
    dealt: list[list[int]] = [[] for _ in sizes]
    room = [(-size, i) for i, size in enumerate(sizes)]
    heapq.heapify(room)
    for length in lengths:
        free, i = room[0]
        if free >= 0:
            break
        dealt[i].append(min(length, -free))
        heapq.heapreplace(room, (free + dealt[i][-1] + 1, i))
    return [length for doc in dealt for length in doc], [len(doc) for doc in dealt]


def _place(
    lengths: np.ndarray, counts: np.ndarray, starts: np.ndarray, ends: np.ndarray, rng: np.random.Generator
) -> Spans:
    """Places for spans whose lengths [n] are ordered by document; counts, starts and ends [documents].

    The original's law: each span draws one of the free places of its document, and the places are sorted. Sorting
    all documents at once: a key holds document and place.
    """
    doc = np.arange(len(counts)).repeat(counts)
    before = (lengths + 1).cumsum() - lengths - 1
    first = counts.cumsum() - counts
    before -= before[first][doc]
    width = before[first + counts - 1] + lengths[first + counts - 1]  # all spans of a document and one token between
    choices = ends - starts - width + 1
    place = (rng.random(len(doc)) * choices[doc]).astype(np.int64)
    key_size = int(choices.max()) + 1
    key = doc * key_size + place
    key.sort()
    place = key - doc * key_size
    begin = starts[doc] + before + place
    order = begin.argsort()
    return Spans(begin[order], (begin + lengths)[order])

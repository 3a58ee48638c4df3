"""A packed sample → several short ones, cut where sentences end. Knows no blank."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from flagai.models.glm.sentence_ends import closing
from flagai.models.glm.spans import special_tokens

if TYPE_CHECKING:
    from flagai.models.glm.commands import Commands

_SHORTEST: Final = 32


class Sample(NamedTuple):
    """A text to learn from: `ids` [n] int64, `predicted` [n] bool (False for a prompt), `special` [n] bool."""

    ids: np.ndarray
    predicted: np.ndarray
    special: np.ndarray


def short_samples(
    sample: Sample, *, length: int, ends: np.ndarray, commands: Commands, rng: np.random.Generator
) -> list[Sample]:
    """Cut a sample as the original does: one target length from 32 to `length` - 2, as many pieces as fit in `length`.

    Each piece starts at random, moved back to the begin of a sentence or document, and is cut back to the end of one
    unless that loses half of it; pieces may overlap, and what none of them holds is not seen this time. A sample not
    longer than the target is taken whole, each time. A [CLS] stands in front of each piece (the original doubles it
    where the piece begins with one). Below a `length` of 34 nothing is cut.
    """
    if length < _SHORTEST + 2:
        return [sample]
    target = int(rng.integers(_SHORTEST, length - 1))
    count = (length - 1) // target
    start = 1 if sample.ids[0] == commands.cls else 0
    body = Sample(*(part[start:] for part in sample))
    if target >= len(body.ids):
        return [sample] * count
    boundaries = _boundaries(body.ids, ends, commands.eos)
    begins = boundaries[body.ids[np.minimum(boundaries, len(body.ids) - 1)] != commands.eos]
    pieces = []
    for drawn in rng.integers(len(body.ids) - target, size=count):
        begin = _last_up_to(begins, int(drawn), lowest=0)
        end = _last_up_to(boundaries, begin + target, lowest=begin)
        if end - begin < target // 2:
            end = begin + target
        pieces.append(_piece(body, begin, end, commands))
    return [piece if not piece.special.all() else sample for piece in pieces]


def _boundaries(ids: np.ndarray, ends: np.ndarray, eos: int) -> np.ndarray:
    """Places behind the end of a sentence or document, ascending, 1 … n."""
    return np.flatnonzero(closing(ids, ends) | (ids == eos)) + 1


def _last_up_to(places: np.ndarray, limit: int, *, lowest: int) -> int:
    index = int(np.searchsorted(places, limit, side="right")) - 1
    return max(lowest, int(places[index])) if index >= 0 else lowest


def _piece(body: Sample, begin: int, end: int, commands: Commands) -> Sample:
    ids, predicted, special = (part[begin:end] for part in body)
    if commands.cls is None or ids[0] == commands.cls:
        return Sample(ids, predicted, special)
    ids = np.concatenate(([commands.cls], ids))
    return Sample(ids, np.concatenate(([False], predicted)), special_tokens(ids, commands))

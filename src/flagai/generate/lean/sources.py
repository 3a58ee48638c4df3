"""Keys and values of encoded texts, each kept once for all rows that write from it. Knows no model and no search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flagai.generate.lean.slots import Slot


@dataclass(frozen=True, slots=True)
class Plan:
    """How rows are laid beside their texts: queries of one text are attended together.

    Args:
        gather: int64 [texts × most], the row of each place (any row where there is none); None: row i is of text i.
        scatter: int64 [rows], the place of each row.
        most: rows of the text that has most.
        mask: [texts × heads, 1, columns], -inf behind a text's end; None where all are equally long.
    """

    gather: Tensor | None
    scatter: Tensor | None
    most: int
    mask: Tensor | None


class Sources:
    """The cache of all layers for cross-attention."""

    def __init__(self, layers: int, heads: int, dim: int, *, dtype: torch.dtype, device: torch.device) -> None:
        self._lengths: list[int] = []
        self._set(torch.empty(2, layers, 0, heads, 0, dim, dtype=dtype, device=device))

    def _set(self, data: Tensor) -> None:
        """The cache, some of whose texts may not be in use yet."""
        self._data, used = data, len(self._lengths)
        self.keys, self.values = (list(kind[:, :used]) for kind in data)
        """of each layer [texts, heads, columns, dim]"""

    @property
    def nbytes(self) -> int:
        """What the cache takes."""
        return self._data.nbytes

    def add(self, lengths: Sequence[int]) -> int:
        """New texts behind the others: the number of the first. Their keys are still to be written."""
        first = len(self._lengths)
        self._lengths += lengths
        kinds, layers, room, heads, columns, dim = self._data.shape
        new = self._data
        if len(self._lengths) > room or max(lengths) > columns:
            # Room for more texts: what is not written to takes no memory, and growing costs a copy.
            texts = room if len(self._lengths) <= room else max(len(self._lengths), 2 * room)
            new = self._data.new_empty(kinds, layers, texts, heads, max(columns, *lengths), dim)
            new[:, :, :first, :, :columns] = self._data[:, :, :first]
            new[:, :, :first, :, columns:] = 0  # a hidden NaN would be one all the same
        new[:, :, first : len(self._lengths)] = 0
        self._set(new)
        return first

    def write(self, layer: int, first: int, lengths: Sequence[int], both: Sequence[Tensor]) -> None:
        """Keys and values of texts one behind the other, each [tokens, heads × dim]."""
        for cache, new in zip((self.keys[layer], self.values[layer]), both, strict=True):
            for text, one in enumerate(new.split(list(lengths)), start=first):
                cache[text, :, : len(one)] = one.view(len(one), *cache.shape[1::2]).transpose(0, 1)

    def keep_used(self, slots: Sequence[Slot]) -> None:
        """Forget texts that no row writes from, once they are half of all: each time costs a copy."""
        used = sorted({slot.source for slot in slots})
        if 2 * len(used) > len(self._lengths):
            return
        self._lengths = [self._lengths[source] for source in used]
        longest = max(self._lengths, default=0)
        self._set(self._data[:, :, used, :, :longest].contiguous())
        places = {source: place for place, source in enumerate(used)}
        for slot in slots:
            slot.source = places[slot.source]

    def plan(self, slots: Sequence[Slot]) -> Plan:
        """For rows in the order of their slots."""
        device, heads = self._data.device, self._data.shape[3]
        mask = self._mask(heads)
        sources = [slot.source for slot in slots]
        if sources == list(range(len(self._lengths))):
            return Plan(None, None, 1, mask)
        rows: list[list[int]] = [[] for _ in self._lengths]
        for row, source in enumerate(sources):
            rows[source].append(row)
        most = max(map(len, rows))
        gather = [row for one in rows for row in (*one, *[0] * (most - len(one)))]
        scatter = [0] * len(sources)
        for source, one in enumerate(rows):
            for place, row in enumerate(one):
                scatter[row] = source * most + place
        return Plan(torch.tensor(gather, device=device), torch.tensor(scatter, device=device), most, mask)

    def _mask(self, heads: int) -> Tensor | None:
        columns = self._data.shape[4]
        if min(self._lengths) == columns:
            return None
        places = torch.arange(columns, device=self._data.device)
        hidden = places >= torch.tensor(self._lengths, device=self._data.device)[:, None]
        mask = torch.zeros(hidden.shape, dtype=self._data.dtype, device=self._data.device)
        return mask.masked_fill(hidden, -torch.inf).repeat_interleave(heads, 0)[:, None]

"""Keys and values of rows that come, go and are repeated, written in place. Knows no model and no search.

Every row has a slot. A slot's tokens stand at its columns 0, 1, …; columns behind a row's length are hidden by a mask
where rows differ in length. Slots 0 … n - 1 are in use, so that they are one block; which slot a row has is told by
`order`. Where beams change places, only what differs is copied: not the prompt that they share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_SPARE_COLUMNS = 64
_AT_ONCE = 16


@dataclass(slots=True)
class Slot:
    """What a row has read.

    Args:
        length: tokens.
        origin: the number of the prompt that was read for it.
        shared: tokens that all rows of that origin have.
        source: the encoder's text, see `Sources`.
        place, block, later: GLM: position of the blank that is answered, second position of the last token, blanks
            that follow. UniLM: `block` is the segment.
    """

    length: int
    origin: int = 0
    shared: int = 0
    source: int = 0
    place: int = 0
    block: int = 0
    later: tuple[int, ...] = ()


class Slots:
    """The cache of all layers.

    Args:
        layers, heads, dim: of keys.
        dtype: fp32 on CPUs whatever the model's: attention reads it faster there.
    """

    def __init__(self, layers: int, heads: int, dim: int, *, dtype: torch.dtype, device: torch.device) -> None:
        self._data = torch.empty(2, layers, 0, heads, 0, dim, dtype=dtype, device=device)
        self._layers = layers
        self._filled = (0, 0)
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.slots: list[Slot] = []
        self.order: list[int] = []
        """the slot of each row"""

    @property
    def nbytes(self) -> int:
        """What of the cache is written to."""
        rows, columns = self._filled
        return self._data[:, :, :rows, :, :columns].nbytes

    @property
    def in_order(self) -> bool:
        """Whether each row's slot has the row's number."""
        return self.order == list(range(len(self.order)))

    def add(self, slots: Sequence[Slot]) -> int:
        """New rows behind the others: the number of their first slot. Their keys are still to be written."""
        first = len(self.slots)
        self.slots += slots
        self.order += range(first, first + len(slots))
        self.reserve(len(self.slots), max(slot.length for slot in slots))
        return first

    def reserve(self, rows: int, columns: int) -> None:
        """Make room; what is there is kept. There are numbers in all of it: a hidden NaN would be one all the same."""
        _, _, had_rows, heads, had_columns, dim = self._data.shape
        if rows > had_rows or columns > had_columns:
            # More than is asked for: what is not written to takes no memory, and growing costs a copy.
            more_columns = had_columns if columns <= had_columns else max(columns + _SPARE_COLUMNS, 2 * had_columns)
            more_rows = had_rows if rows <= had_rows else max(rows, 2 * had_rows)
            new = self._data.new_empty(2, self._layers, more_rows, heads, more_columns, dim)
            filled_rows, filled_columns = self._filled
            new[:, :, :filled_rows, :, :filled_columns] = self._data[:, :, :filled_rows, :, :filled_columns]
            self._data = new
            self.keys, self.values = list(new[0]), list(new[1])
        self._fill(rows, columns)

    def _fill(self, rows: int, columns: int) -> None:
        """Zeros where nothing was written yet."""
        had_rows, had_columns = self._filled
        if columns > had_columns:
            columns = min(columns + _AT_ONCE, self._data.shape[4])
            self._data[:, :, :had_rows, :, had_columns:columns] = 0
        columns = max(columns, had_columns)
        if rows > had_rows:
            self._data[:, :, had_rows:rows, :, :columns] = 0
        self._filled = (max(rows, had_rows), columns)

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows: left out, in another order, or several times."""
        wanted = [self.order[row] for row in rows]
        count = len(wanted)
        self.reserve(count, 0)
        self.order, moves = _assign(wanted, self.slots)
        for source, target in moves:
            self._copy(source, target)
        held = {target: self.slots[source] for source, target in zip(wanted, self.order, strict=True)}
        self.slots = [_copied(held[i]) for i in range(count)]

    def _copy(self, source: int, target: int) -> None:
        start, end = 0, self.slots[source].length
        if target < len(self.slots) and self.slots[target].origin == self.slots[source].origin:
            start = self.slots[source].shared
        if start < end:
            self._data[:, :, target, :, start:end] = self._data[:, :, source, :, start:end]


def _copied(slot: Slot) -> Slot:
    return Slot(slot.length, slot.origin, slot.shared, slot.source, slot.place, slot.block, slot.later)


def _assign(wanted: Sequence[int], slots: Sequence[Slot]) -> tuple[list[int], list[tuple[int, int]]]:
    """A slot below len(wanted) for each wanted one, and what must be copied: (from, to).

    A wanted slot stays where it is the first time; a copy goes to a slot that nobody wants, best one of its own prompt.
    """
    count, taken = len(wanted), set()
    order = [-1] * count
    for row, slot in enumerate(wanted):
        if slot < count and slot not in taken:
            order[row] = slot
            taken.add(slot)
    free = [slot for slot in range(count) if slot not in taken]
    moves = []
    for row, slot in enumerate(wanted):
        if order[row] < 0:
            origin = slots[slot].origin
            best = next((i for i, f in enumerate(free) if f < len(slots) and slots[f].origin == origin), 0)
            order[row] = free.pop(best)
            moves.append((slot, order[row]))
    return order, moves

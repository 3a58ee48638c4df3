"""Keys and values of rows that grow in place, are chosen, and are joined by others. Knows no model and no search.

transformers' own growing cache makes a new tensor for every token and layer; this one writes into a buffer that is
wider than it is full, so that a token costs the copy of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

Side = Literal["left", "right"]

_LEAST_SPARE, _MOST_SPARE = 64, 1024  # columns beyond those in use when a buffer is made


class RowLayer(DynamicLayer):
    """Keys and values of one layer: `keys` and `values` are views [rows, heads, columns, dim] of buffers.

    Columns that a row has no token for hold zeros or what was there before: finite, for a mask to hide.

    Args:
        grows: whether tokens are to come; without it a buffer is as wide as what is put in.
        side: where the columns of a row are that all rows have: shorter rows are filled up on the other side.
    """

    def __init__(self, *, grows: bool = True, side: Side = "right") -> None:
        super().__init__()
        self._grows, self._side = grows, side
        self._buffers: list[Tensor] = []
        self._rows = self._start = self._end = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Note dtype and device; buffers are made when it is known how wide they must be."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Put new columns [rows, heads, n, dim] behind the others: all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._rows = len(key_states)
        new = key_states.shape[-2]
        if not self._buffers and not self._grows:
            self._buffers = [key_states, value_states]
        else:
            self._make_room((key_states, value_states), rows=self._rows, after=new)
            for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
                buffer[: self._rows, :, self._end : self._end + new] = states
        self._end += new
        return self._show()

    def select(self, rows: Tensor, moved: Tensor) -> None:
        """Go on with these rows, int64 [n]; `moved`: the places where another row than before will be."""
        if len(rows) > len(self._buffers[0]):
            columns = self._end - self._start
            self._buffers = [_widened(live[rows], self._spare(columns)) for live in self._live()]
            self._start, self._end = 0, columns
        else:
            for buffer in self._buffers:
                live = buffer[:, :, self._start : self._end]
                live.index_copy_(0, moved, live.index_select(0, rows[moved]))
        self._rows = len(rows)
        self._show()

    def join(self, other: RowLayer) -> None:
        """Put the rows of another behind these; both are filled up to the wider of the two."""
        states = other._live()
        new, width = states[0].shape[0], states[0].shape[2]
        lacking = max(width - (self._end - self._start), 0)
        before, after = (lacking, 0) if self._side == "right" else (0, lacking)
        self._make_room(states, rows=self._rows + new, before=before, after=after)
        self._start, self._end = self._start - before, self._end + after
        first = self._end - width if self._side == "right" else self._start
        for buffer, theirs in zip(self._buffers, states, strict=True):
            buffer[self._rows : self._rows + new, :, first : first + width] = theirs
        self._rows += new
        self._show()

    def drop_columns(self, count: int) -> None:
        """Leave out the first columns, which no row has a token in any more."""
        self._start += count
        self._show()

    def crop(self, tokens_to_remove: int) -> None:
        """Leave out the last `-tokens_to_remove` columns, as transformers asks for it."""
        self._end -= abs(tokens_to_remove)
        self._show()

    def _spare(self, columns: int) -> int:
        return min(max(columns, _LEAST_SPARE), _MOST_SPARE) if self._grows else 0

    def _make_room(self, like: Sequence[Tensor], *, rows: int, before: int = 0, after: int = 0) -> None:
        """Buffers with room for so many rows and for columns on both sides of those there are."""
        have = self._buffers[0].shape if self._buffers else (0, 0, 0)
        if rows <= have[0] and before <= self._start and self._end + after <= have[2]:
            return
        columns = before + self._end - self._start + after
        made = []
        for states in like:
            shape = (max(rows, have[0]), states.shape[1], columns + self._spare(columns), states.shape[3])
            made.append(states.new_zeros(shape))
        for buffer, live in zip(made, self._live(), strict=False):
            buffer[: self._rows, :, before : before + live.shape[2]] = live
        self._start, self._end = before, before + self._end - self._start
        self._buffers = made

    def _live(self) -> list[Tensor]:
        return [buffer[: self._rows, :, self._start : self._end] for buffer in self._buffers]

    def _show(self) -> tuple[Tensor, Tensor]:
        keys, values = self._live()
        self.keys, self.values = keys, values
        return keys, values


class RowCache(Cache):
    """A cache of transformers whose rows come and go; see `RowLayer`."""

    def __init__(self, *, grows: bool = True, side: Side = "right") -> None:
        def make() -> RowLayer:
            return RowLayer(grows=grows, side=side)

        super().__init__(layer_class_to_replicate=cast(Any, make))

    @property
    def _all(self) -> list[RowLayer]:
        return cast("list[RowLayer]", self.layers)

    def select(self, rows: Sequence[int], device: torch.device) -> None:
        """Go on with these rows, at least one: left out, in another order, or several times."""
        index = torch.tensor(rows, device=device)
        moved = torch.tensor([i for i, row in enumerate(rows) if i != row], dtype=torch.long, device=device)
        for layer in self._all:
            layer.select(index, moved)

    def join(self, other: RowCache) -> None:
        """Put the rows of another behind these."""
        for layer, new in zip(self._all, other._all, strict=True):
            layer.join(new)

    def drop_columns(self, count: int) -> None:
        """Leave out the first columns."""
        if count:
            for layer in self._all:
                layer.drop_columns(count)


def _widened(states: Tensor, spare: int) -> Tensor:
    rows, heads, columns, dim = states.shape
    buffer = states.new_zeros(rows, heads, columns + spare, dim)
    buffer[:, :, :columns] = states
    return buffer

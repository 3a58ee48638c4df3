"""What a task makes of one record: token ids and a target, not padded. Knows no model and no batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class Example:
    """One model input. A record longer than the model becomes several (`window` 0, 1, …).

    `target` is the task's own (a label id, a list of tags, …), None for a record without a label.
    `weight` is 1 / number of windows, so that a long record counts as much as a short one.
    `offsets[i]` is the half-open range of code points of the text that token i covers, (0, 0) for special tokens.
    """

    input_ids: Sequence[int] | np.ndarray
    record: int
    target: Any = None
    token_type_ids: list[int] | None = None
    second_ids: list[int] | None = None
    """a second text that is encoded by itself and must be in the same batch (text vectors of a pair)"""
    offsets: list[tuple[int, int]] | None = None
    window: int = 0
    weight: float = 1.0
    tokens_lost: int = 0
    """tokens of the record that are in no window of it (counted on its first window)"""
    target_cut: bool = False
    """whether a part of the target (an entity, an answer) is lost with them"""
    target_slots: int = 0
    """token positions that the target takes in a batch beside those of the inputs (an answer that is learned)"""

    @property
    def slots(self) -> int:
        """Token positions this example takes in a batch of its own length: those of both texts of a pair of vectors,
        those of a source and its target."""
        return (len(self) if self.second_ids is None else 2 * len(self)) + self.target_slots

    def __len__(self) -> int:
        """Tokens of the longest input: what padding and budgets count."""
        return max(len(self.input_ids), len(self.second_ids or ()))


class Examples(ABC, Sequence[Example]):
    """Examples that are made when they are asked for, of known lengths; they may be others in every epoch."""

    @property
    @abstractmethod
    def lengths(self) -> np.ndarray:
        """`Example.slots` of each, int64 [examples]."""

    @abstractmethod
    def at(self, epoch: int) -> Examples:
        """Those of the 0-based epoch."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _make(self, index: int) -> Example:
        """The example at 0 ≤ index < len."""

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self._make(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        return self._make(int(index) % len(self))

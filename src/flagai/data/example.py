"""What a task makes of one record: token ids and a target, not padded. Knows no model and no batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Example:
    """One model input. A record longer than the model becomes several (`window` 0, 1, …).

    `target` is the task's own (a label id, a list of tags, …), None for a record without a label.
    `weight` is 1 / number of windows, so that a long record counts as much as a short one.
    `offsets[i]` is the half-open range of code points of the text that token i covers, (0, 0) for special tokens.
    """

    input_ids: list[int]
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

    @property
    def slots(self) -> int:
        """Token positions this example takes in a batch of its own length: those of both texts of a pair of vectors."""
        return len(self) if self.second_ids is None else 2 * len(self)

    def __len__(self) -> int:
        """Tokens of the longest input: what padding and budgets count."""
        return max(len(self.input_ids), len(self.second_ids or ()))

"""The heaviest part of a batch that a run will see, and how much there is in all. Knows no model and no memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from flagai.config import TrainConfig
from flagai.data.batching import BatchPlan, cut, slots_of
from flagai.data.example import Example, Examples
from flagai.tasks.base import Task

_LOOKED_AT: Final = 64
"""the heaviest steps whose parts are weighed one by one"""


@dataclass(frozen=True, kw_only=True)
class Heaviest:
    """The part of a step that one process computes at once and that has most in it.

    Args:
        batch: as `Task.collate_training` makes it.
        step: the 0-based step of the run it is of.
        examples, length: rows, and tokens of the longest.
        parts: such parts of one step that a process goes through, one after the other.
    """

    batch: Mapping[str, Any]
    step: int
    examples: int
    length: int
    parts: int


class Work:
    """The steps of a run and what is in them; the first epoch stands for all."""

    def __init__(self, train: TrainConfig, task: Task, examples: Sequence[Example], plan: BatchPlan) -> None:
        self._task, self._seed = task, train.seed
        self._examples = examples.at(0) if isinstance(examples, Examples) else examples
        self._lengths = slots_of(self._examples)
        self._steps = plan.epoch(0)
        self.slots = np.array([len(step) * self._lengths[step].max(initial=0) for step in self._steps], dtype=np.int64)
        """positions of each step, pads counted, as one batch"""
        self.total_steps = train.max_steps or sum(plan.num_steps(epoch) for epoch in range(train.epochs))

    @property
    def most_parts(self) -> int:
        """Examples of the smallest step: it cannot be cut into more parts."""
        return min(len(step) for step in self._steps)

    def heaviest(self, *, accumulation: int, processes: int) -> Heaviest:
        """The heaviest part, over all processes that see different examples."""
        found = [self._weighed(accumulation, (index, processes)) for index in range(processes)]
        _, step, indices, parts = max(found, key=lambda one: one[0])
        batch = self._batch(indices)
        count, length = batch["input_ids"].shape[:2]
        return Heaviest(batch=batch, step=step, examples=count, length=length, parts=parts)

    def heaviest_step(self, accumulation: int, axis: tuple[int, int]) -> int:
        """The step in which that part is."""
        return max((self._weighed(accumulation, (i, axis[1])) for i in range(axis[1])), key=lambda one: one[0])[1]

    @property
    def typical_step(self) -> int:
        """The step of the median weight."""
        return int(np.argsort(self.slots, kind="stable")[len(self.slots) // 2])

    def micro_batches(self, step: int, *, accumulation: int, axis: tuple[int, int]) -> list[Mapping[str, Any]]:
        """The parts of a step that a process goes through."""
        return [self._batch(part) for part in cut(self._steps[step], accumulation=accumulation, axis=axis)]

    def _weighed(self, accumulation: int, axis: tuple[int, int]) -> tuple[int, int, np.ndarray, int]:
        """(positions, step, examples, parts of the step) of the heaviest part of one process."""
        best: tuple[int, int, np.ndarray, int] = (-1, 0, self._steps[0][:1], 1)
        for step in np.argsort(-self.slots, kind="stable")[:_LOOKED_AT]:
            parts = cut(self._steps[step], accumulation=accumulation, axis=axis)
            for part in parts:
                weight = len(part) * int(self._lengths[part].max())
                if weight > best[0]:
                    best = (weight, int(step), part, len(parts))
        return best

    def _batch(self, indices: np.ndarray) -> Mapping[str, Any]:
        return self._task.collate_training([self._examples[i] for i in indices], epoch=0, seed=self._seed)

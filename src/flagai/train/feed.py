"""Steps → the micro-batches that this process computes of them, prepared ahead by threads. Knows no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from flagai.config import TrainConfig
from flagai.data.batching import BatchPlan, cut
from flagai.data.example import Example, Examples
from flagai.tasks.base import Task


@dataclass(frozen=True, kw_only=True)
class Portion:
    """What one process computes of one optimizer step."""

    step: int
    pieces: int
    """in how many times more micro-batches than `train.gradient_accumulation_steps` says the step is computed"""
    micro_batches: list[dict[str, Any]]
    examples: int
    """of the whole step, over all processes"""
    useful: int
    """tokens of this process that are no padding"""
    slots: int
    """token slots of this process, padding included"""
    most: int
    """examples of the largest micro-batch"""


class Feed:
    """The batches of a run, from any step on.

    Args:
        axis: (index, count): which share of every step's examples this process takes.
        pieces: see `Portion`; may be raised while the run goes on.
    """

    def __init__(
        self,
        config: TrainConfig,
        task: Task,
        examples: Sequence[Example],
        plan: BatchPlan,
        *,
        axis: tuple[int, int],
        pieces: int = 1,
    ) -> None:
        self._config, self._task, self._examples, self._plan = config, task, examples, plan
        self._axis, self.pieces = axis, pieces

    @property
    def parts(self) -> int:
        """Micro-batches that a full step is cut into on each process."""
        return self._config.gradient_accumulation_steps * self.pieces

    def portions(self, steps: range) -> Iterator[Portion]:
        """One after the other; with `num_workers`, threads collate ahead, in the same order."""
        ahead = self._config.num_workers
        if not ahead:
            yield from map(self.portion, steps)
            return
        with ThreadPoolExecutor(ahead) as pool:
            waiting: list[Future[Portion]] = [pool.submit(self.portion, step) for step in steps[:ahead]]
            for step in steps:
                ready = waiting.pop(0).result()
                if (later := step + ahead) < steps.stop:
                    waiting.append(pool.submit(self.portion, later))
                yield ready if ready.pieces == self.pieces else self.portion(step)

    def portion(self, step: int) -> Portion:
        """What this process computes of the 0-based step."""
        pieces, (epoch, _) = self.pieces, self._plan.locate(step)
        indices = self._plan.step(step)
        examples = self._examples.at(epoch) if isinstance(self._examples, Examples) else self._examples
        parts = cut(indices, accumulation=self._config.gradient_accumulation_steps * pieces, axis=self._axis)
        batches = [
            self._task.collate_training([examples[i] for i in part], epoch=epoch, seed=self._config.seed)
            for part in parts
        ]
        return Portion(
            step=step,
            pieces=pieces,
            micro_batches=batches,
            examples=len(indices),
            useful=sum(map(_useful, batches)),
            slots=sum(batch["input_ids"].size for batch in batches),
            most=max(map(len, parts), default=0),
        )


def _useful(batch: dict[str, Any]) -> int:
    """Tokens that are no pads; of a mask [B, 1, L, L] those that see themselves."""
    mask = batch["attention_mask"]
    return int((mask if mask.ndim == 2 else mask.diagonal(axis1=-2, axis2=-1)).sum())

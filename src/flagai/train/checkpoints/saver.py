"""Saving a run while it goes on: at once, or from a copy in a thread. Knows no loop.

An asynchronous save copies what this process holds into memory of the host and returns; a thread writes the copy,
and ends the checkpoint with the threads of the other processes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from threading import Thread, get_native_id
from typing import Any

import torch

from flagai.parallel.company import company
from flagai.parallel.parts import Box, Part
from flagai.parallel.strategy import Strategy
from flagai.train.checkpoints.keeping import Score, best, keep
from flagai.train.checkpoints.manifest import READERS
from flagai.train.checkpoints.writing import Describe, Writing, write_manifest, write_state
from flagai.train.state import TrainState


class Saver:
    """Writes the checkpoints of a run; making one and every `save` are collective.

    Args:
        root: the folder `checkpoints` of the run.
        strategy: whose model and optimizer are saved.
        describe: writes what a model's folder holds beside tensors; called by the first process, in its own thread.
        asynchronous: `save` returns once a copy is in memory (as much again as this process holds).
        keep_last: how many of the newest stay.
        keep_best: how many of those with the best scores stay besides.
    """

    def __init__(
        self,
        root: Path,
        strategy: Strategy,
        *,
        describe: Describe,
        asynchronous: bool = False,
        keep_last: int = 2,
        keep_best: int = 0,
    ) -> None:
        self._root, self._strategy, self._describe = root, strategy, describe
        self._asynchronous, self._keep_last, self._keep_best = asynchronous, keep_last, keep_best
        self._company = company("saving")
        self._thread: Thread | None = None
        self._error: BaseException | None = None
        self._metric: str | None = None
        self._copies: dict[tuple[str, str, Box], torch.Tensor] = {}

    def save(self, state: TrainState, extra: Mapping[str, Any], *, score: Score | None = None) -> Path:
        """Write the checkpoint of the step where the run is; collective.

        Args:
            extra: what must be equal for a bit-equal continuation (data hash, strategy, device, precision).
            score: of an evaluation of these weights; counts for `keep_best`.

        Returns:
            its folder, which is there at once, or after `wait` where this saver is asynchronous.

        Raises:
            OutputError: the disk is full or cannot be written; also for the asynchronous save before this one.
        """
        self.wait()
        folder = self._root / f"step-{state.step}"
        values = {"train": state.to_json(), **self._small()}
        random = values.pop("random")
        writing = Writing(folder, self._company)

        def describe(temporary: Path) -> None:
            self._describe(temporary)
            write_state(temporary, random, values)

        arranged = writing.begin(self._strategy.parts, self._strategy.model, describe)
        parts: Iterable[Part] = (p for p in self._strategy.parts() if (p.name, p.key) in arranged.slots)
        told = dict(extra) if score is None else {**extra, "score": score.to_json()}
        self._metric = self._metric if score is None else score.metric
        if not self._asynchronous:
            self._end(writing, parts, state.step, told)
            return folder
        copied = self._copied_by_all(parts)
        self._thread = Thread(target=self._behind, args=(writing, copied, state.step, told), name="flagai-save")
        self._thread.start()
        return folder

    def wait(self) -> None:
        """Return when no save is going on. Raises what went wrong in the last asynchronous one, once."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def wants(self, score: Score) -> bool:
        """Whether a checkpoint with this score would be among the best that stay; collective."""
        if not self._keep_best or score.value != score.value:
            return False
        self.wait()
        worst = self._company.first(lambda: self._worst(score.metric))
        return worst is None or score.height > worst

    def _worst(self, metric: str) -> float | None:
        """The lowest place that is taken; None while some are free."""
        found = best(self._root, self._keep_best, metric=metric)
        return found[-1][0].height if len(found) == self._keep_best else None

    def _small(self) -> dict[str, Any]:
        state = self._strategy.state()
        model = self._strategy.model
        frozen = sorted(name for name, p in model.named_parameters() if not p.requires_grad)
        return {"random": state["random"], "scaler": state["scaler"], "frozen": frozen}

    def _end(
        self, writing: Writing, parts: Iterable[Part], step: int, extra: Mapping[str, Any], readers: int = READERS
    ) -> None:
        writing.write(parts)
        writing.finish(write_manifest(step, extra), readers=readers)
        kept, metric = self._keep_best, self._metric
        self._company.first(lambda: keep(self._root, self._keep_last, last=step, best_count=kept, metric=metric))

    def _behind(self, writing: Writing, parts: list[Part], step: int, extra: Mapping[str, Any]) -> None:
        _step_back()
        try:
            self._end(writing, parts, step, extra, 1)
        except BaseException as error:  # raised by `wait`, in the thread that can do something about it
            self._error = error

    def _copied_by_all(self, parts: Iterable[Part]) -> list[Part]:
        """The parts of this process; where another one has no memory left, all hear of it."""
        copied: list[Part] = []
        self._company.together(lambda: copied.extend(self._copied(part) for part in parts))
        return copied

    def _copied(self, part: Part) -> Part:
        """The part in memory of the host, where no training step changes it; the memory is used again and again."""
        entry = (part.name, part.key, part.box)
        kept = self._copies.get(entry)
        if kept is None or kept.shape != part.tensor.shape or kept.dtype != part.tensor.dtype:
            kept = torch.empty(part.tensor.shape, dtype=part.tensor.dtype, pin_memory=part.tensor.is_cuda)
            self._copies[entry] = kept
        kept.copy_(part.tensor)
        return replace(part, tensor=kept)


def _step_back() -> None:
    """Training goes first, where this thread and it want the same core."""
    if sys.platform == "linux":  # elsewhere threads have no priority of their own
        os.setpriority(os.PRIO_PROCESS, get_native_id(), 10)

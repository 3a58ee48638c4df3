"""Metrics of the model as it is, on the splits of a run. All processes measure together.

It knows no loop and no folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from flagai.config import TrainConfig
from flagai.data.example import Example
from flagai.predict import loop as predict_loop
from flagai.tasks.base import Task
from flagai.train.prepare import Prepared
from flagai.train.summary import Measurement

Shown = Callable[[int, int], None]
"""(examples done, examples in all)"""


def evenly(total: int, most: int) -> list[int]:
    """At most so many of 0 … total - 1, evenly spread."""
    count = min(total, most)
    return [i * total // count for i in range(count)]


class Measuring:
    """The measurements of one run.

    Args:
        evaluate: `Strategy.evaluate` of the placed model.
    """

    def __init__(self, task: Task, data: Prepared, config: TrainConfig, evaluate: predict_loop.Evaluate) -> None:
        self._task, self._data, self._config, self._evaluate = task, data, config, evaluate

    def rows(self, examples: Sequence[Example], names: Sequence[str]) -> predict_loop.Rows:
        """The outputs themselves, for `Task.start`."""
        return predict_loop.run(self._task, self._evaluate, examples, names=names)

    def on_the_way(self, progress: Shown) -> dict[str, float] | None:
        """Metrics and mean loss on the evaluation data, as often as a training asks for them; None without such."""
        if "eval" not in self._data.examples:
            return None
        most = self._config.eval_written
        if most is None or not self._task.writes or self._task.measured_by_loss:
            return self.split("eval", progress).metrics
        return self._part(most, progress)

    def split(self, split: str, progress: Shown | None = None) -> Measurement:
        """One split, whole."""
        examples, records = self._data.examples[split], self._data.sources.records[split]
        task, evaluate, began = self._task, self._evaluate, time.perf_counter()
        if task.measured_by_loss:
            loss = predict_loop.mean_loss(task, evaluate, examples, progress=progress)
            seconds = time.perf_counter() - began
            return Measurement(split, records, [], [], predict_loop.loss_metrics(loss), seconds)
        answers = predict_loop.answer(task, evaluate, examples, records, with_loss=True, progress=progress)
        seconds = time.perf_counter() - began
        golds = [task.gold(record) for record in records]
        # Tuned at every evaluation, so that the best model is chosen by what it can do and not by a default threshold.
        results = task.tune(answers.results, golds) if split == "eval" else answers.results
        metrics = task.metrics(results, golds)
        if answers.loss is not None:
            metrics["loss"] = answers.loss
        return Measurement(split, records, results, golds, metrics, seconds)

    def _part(self, most: int, progress: Shown) -> dict[str, float]:
        """The loss of all evaluation data, and the other metrics of as many records as are written to on the way."""
        task, evaluate, examples = self._task, self._evaluate, self._data.examples["eval"]
        loss = predict_loop.mean_loss(task, evaluate, examples, progress=progress)
        metrics = {} if loss is None else {"loss": loss}
        chosen = evenly(len(self._data.sources.records["eval"]), most)
        if not chosen:
            return metrics
        records = [self._data.sources.records["eval"][i] for i in chosen]
        windows = [window for i, record in enumerate(records) for window in task.encode(record, i)]
        results = predict_loop.answer(task, evaluate, windows, records, progress=progress).results
        return task.metrics(results, [task.gold(record) for record in records]) | metrics

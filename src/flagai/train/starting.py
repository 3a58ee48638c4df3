"""A new head set from its frozen body, before the model is spread. Knows no loop and no folder."""

from __future__ import annotations

from typing import Any

from flagai.config import TrainConfig
from flagai.parallel.native import SingleProcess
from flagai.parallel.strategy import Strategy
from flagai.tasks.base import Task
from flagai.train.measuring import Measuring
from flagai.train.prepare import Prepared


def start_head(task: Task, model: Any, data: Prepared, config: TrainConfig, strategy: Strategy) -> None:
    """`Task.start` on the model as one process has it; each process does it, and all find the same.

    A task may change whatever it likes of the whole model, which no process has once it is spread.
    """
    if type(task).start is Task.start:
        return
    alone = SingleProcess(device=str(strategy.device), precision=strategy.precision)
    alone.place(model)
    measuring = Measuring(task, data, config, alone.evaluate)
    task.start(model, data.examples["train"], measuring.rows)

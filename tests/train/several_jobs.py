"""What the processes of a world do for `test_several.py`: run the Trainer of the library, and tell what came of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from flagai import Trainer, load_config
from flagai.errors import FlagaiError
from flagai.parallel.spread import Spread
from flagai.train import hollow
from flagai.train.callbacks import Callback
from flagai.train.feed import Feed
from flagai.train.interrupt import Interrupted
from flagai.train.loop import Loop


class Listen(Callback):
    """Keeps what is said and logged."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.rows: list[dict[str, Any]] = []

    def on_message(self, text: str) -> None:
        self.heard.append(text)

    def on_log(self, row: Any) -> None:
        self.rows.append(dict(row))


def train(
    values: dict[str, Any],
    overrides: tuple[str, ...] = (),
    *,
    signal_at: int | None = None,
    on_rank: int = 0,
    while_evaluating: bool = False,
    other_file: str = "",
    large: bool = False,
) -> dict[str, Any]:
    """One call of `Trainer.train`; an interrupt or one of our errors is a result.

    Args:
        signal_at: the step after which the process `on_rank` gets a SIGTERM.
        other_file: training data that rank 1 reads instead.
        large: whether the model counts as one that no process builds whole.
    """
    rank, listen = int(os.environ["RANK"]), Listen()
    if other_file and rank == 1:
        overrides = (*overrides, f"data.train={other_file}")
    plain = Loop._count, Loop.evaluation_progress
    usual, hollow.LARGE = hollow.LARGE, 0 if large else hollow.LARGE  # type: ignore[misc]
    if signal_at is not None and rank == on_rank:
        _arm(signal_at, while_evaluating)
    try:
        trainer = Trainer(load_config(values, overrides), callbacks=[listen])
        result = trainer.train()
        told = {"metrics": result.metrics, "steps": result.steps, "heard": listen.heard, "rows": listen.rows}
        return told | {"in_parts": trainer._filled_from is not None}
    except Interrupted:
        return {"interrupted": True, "heard": listen.heard}
    except FlagaiError as error:
        return {"error": str(error), "kind": type(error).__name__, "heard": listen.heard}
    finally:
        Loop._count, Loop.evaluation_progress = plain
        hollow.LARGE = usual  # type: ignore[misc]
        dist.barrier()


def _arm(step: int, while_evaluating: bool) -> None:
    sent: list[int] = []

    def send(state: Any) -> None:
        if state.step == step and not sent:
            sent.append(step)
            os.kill(os.getpid(), signal.SIGTERM)

    count, progress = Loop._count, Loop.evaluation_progress

    def counting(self: Loop, *arguments: Any) -> None:
        count(self, *arguments)
        send(self.state)

    def progressing(self: Loop, done: int, total: int) -> None:
        send(self.state)
        progress(self, done, total)

    if while_evaluating:
        Loop.evaluation_progress = progressing  # type: ignore[method-assign]
    else:
        Loop._count = counting  # type: ignore[method-assign]


def crash(values: dict[str, Any], overrides: tuple[str, ...], *, error: str, results: str) -> None:
    """Rank 1 fails while step 3 is prepared or computed, and ends; the error of each rank goes into a file."""
    rank = int(os.environ["RANK"])
    if rank == 1:
        _fail(error)
    try:
        Trainer(load_config(values, overrides)).train()
        found = "none"
    except Exception as caught:
        found = f"{type(caught).__name__}: {caught}"
    target = Path(results) / f"{rank}.txt"
    target.with_suffix(".part").write_text(found, encoding="utf-8")
    target.with_suffix(".part").replace(target)
    if rank == 1:
        os._exit(0)


def _fail(error: str) -> None:
    portion, accumulate = Feed.portion, Spread.accumulate

    def failing(self: Feed, step: int) -> Any:
        if step == 2 and error == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if step == 2 and error == "data":
            raise ValueError("planted")
        return portion(self, step)

    def full(self: Spread, micro_batches: Any, loss: Any) -> Any:
        steps.append(1)
        if len(steps) == 3:
            raise torch.OutOfMemoryError("planted")
        return accumulate(self, micro_batches, loss)

    steps: list[int] = []
    Feed.portion = failing  # type: ignore[method-assign]
    if error == "memory":
        Spread.accumulate = full  # type: ignore[method-assign]

"""What may watch a run: one class of empty hooks. Knows nothing of what the watchers do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flagai.train.state import TrainState


class Callback:
    """Hooks of a run; override what you need. All get the live state; none may change the model."""

    def on_start(self, state: TrainState, total_steps: int) -> None:
        """Before the first step (of a new or a continued run)."""

    def on_message(self, text: str) -> None:
        """Something the user should hear, in one sentence."""

    def on_step(self, state: TrainState, row: Mapping[str, Any]) -> None:
        """After each optimizer step. `row`: step, epoch, loss, learning_rate, grad_norm, and speeds; see `loop.py`."""

    def on_log(self, row: Mapping[str, Any]) -> None:
        """Every `train.logging_steps` steps, with the means since the last time: a line of log.jsonl."""

    def on_evaluation_progress(self, done: int, total: int) -> None:
        """While evaluating, in examples."""

    def on_evaluate(self, state: TrainState, metrics: Mapping[str, float], improved: bool) -> None:
        """After each evaluation."""

    def on_save(self, state: TrainState, folder: str) -> None:
        """After a checkpoint is complete."""

    def on_end(self, state: TrainState) -> None:
        """After the last step, or when the run was interrupted."""

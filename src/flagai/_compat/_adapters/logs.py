"""Lines of a run in Python's `logging`, under the name flagai.trainer. Sets nothing up and prints nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from flagai.train.callbacks import Callback
from flagai.train.state import TrainState

_LOGGER = logging.getLogger("flagai.trainer")


def log_line(text: str) -> None:
    """One line at the level INFO."""
    _LOGGER.info("%s", text)


class Log(Callback):
    """Loss, rate and speed every `log_interval` steps, metrics after each evaluation, checkpoints when written."""

    def __init__(self) -> None:
        self._total = 0

    def on_start(self, state: TrainState, total_steps: int) -> None:
        self._total = total_steps

    def on_message(self, text: str) -> None:
        log_line(text)

    def on_log(self, row: Mapping[str, Any]) -> None:
        log_line(
            f"iteration {row['step']}/{self._total} | loss {row['loss']:.6f} | "
            f"learning rate {row['learning_rate']:.3e} | gradient norm {row['grad_norm']:.3f} | "
            f"{row['tokens_per_second']:,.0f} tokens/s"
        )

    def on_evaluate(self, state: TrainState, metrics: Mapping[str, float], improved: bool) -> None:
        numbers = " | ".join(f"{name} {value:.4f}" for name, value in metrics.items() if name != "improvements")
        log_line(f"iteration {state.step} | {numbers}{' | best so far' if improved else ''}")

    def on_save(self, state: TrainState, folder: str) -> None:
        if folder:
            log_line(f"iteration {state.step} | written to {folder}")

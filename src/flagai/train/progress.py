"""One line in the terminal that tells how a run goes. Knows nothing but what callbacks are told."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from flagai.train.callbacks import Callback
from flagai.train.environment import peak_memory
from flagai.train.state import TrainState

_REFRESH_SECONDS = 0.2
_PLAIN_SECONDS = 10.0


class Progress(Callback):
    """Step, loss, learning rate, gradient norm, useful tokens/s, memory, remaining time.

    In a terminal the line is redrawn; elsewhere (a log file) a new line is written every ten seconds.
    """

    def __init__(self, stream: TextIO | None = None, *, device: str = "cpu") -> None:
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._device = device
        self._drawn = 0.0
        self._total = 0
        self._first_step = 0
        self._began = 0.0
        self._paused = 0.0
        self._evaluating: float | None = None

    def on_message(self, text: str) -> None:
        self._line(text)

    def on_start(self, state: TrainState, total_steps: int) -> None:
        self._total, self._first_step, self._began, self._paused = total_steps, state.step, time.perf_counter(), 0.0

    def on_step(self, state: TrainState, row: Mapping[str, Any]) -> None:
        now = time.perf_counter()
        if now - self._drawn < (_REFRESH_SECONDS if self._live else _PLAIN_SECONDS) and state.step < self._total:
            return
        self._drawn = now
        text = (
            f"step {state.step}/{self._total}  epoch {row['epoch']}  loss {row['loss']:.4f}  "
            f"lr {row['learning_rate']:.2e}  norm {row['grad_norm']:.2f}  "
            f"{row['tokens_per_second']:,.0f} tokens/s ({row['useful_share']:.0%} useful)  "
            f"{peak_memory(self._device) / 2**30:.1f} GiB  {_remaining(self._left(state.step, now))}"
        )
        self._show(text)

    def on_evaluation_progress(self, done: int, total: int) -> None:
        if self._evaluating is None:
            self._evaluating = time.perf_counter()
        if self._live:
            self._show(f"evaluating {done}/{total}")

    def on_evaluate(self, state: TrainState, metrics: Mapping[str, float], improved: bool) -> None:
        if self._evaluating is not None:
            self._paused += time.perf_counter() - self._evaluating
            self._evaluating = None
        numbers = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        self._line(f"step {state.step}  {numbers}{'  (best so far)' if improved else ''}")

    def on_end(self, state: TrainState) -> None:
        if self._live:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _left(self, step: int, now: float) -> float:
        """Seconds of training still to come, at the pace so far, evaluations not counted."""
        done = step - self._first_step
        return (now - self._began - self._paused) / max(1, done) * (self._total - step)

    def _show(self, text: str) -> None:
        self._stream.write(f"\r\x1b[K{text}" if self._live else f"{text}\n")
        self._stream.flush()

    def _line(self, text: str) -> None:
        self._stream.write(f"\r\x1b[K{text}\n" if self._live else f"{text}\n")
        self._stream.flush()


def _remaining(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} left"

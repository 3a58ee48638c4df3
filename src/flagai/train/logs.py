"""log.jsonl and TensorBoard: what a run leaves for curves. Knows no terminal."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flagai.data.whole import TEMPORARY
from flagai.errors import MissingExtraError
from flagai.train.callbacks import Callback
from flagai.train.state import TrainState


class JsonLog(Callback):
    """One JSON object a line: {"kind": "train", "step", "loss", …} and {"kind": "eval", "step", <metrics>}."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_start(self, state: TrainState, total_steps: int) -> None:
        """A continued run drops the lines after its checkpoint, so that no step stands there twice."""
        rows = [row for row in read_log(self._path) if row["step"] <= state.step]
        if state.evaluated_step < state.step:
            rows = [row for row in rows if row["kind"] != "eval" or row["step"] <= state.evaluated_step]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        # Under another name first: a kill in between must not cost the lines that were there.
        temporary = self._path.with_name(TEMPORARY + self._path.name)
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, self._path)

    def on_log(self, row: Mapping[str, Any]) -> None:
        self._write({"kind": "train", **row})

    def on_evaluate(self, state: TrainState, metrics: Mapping[str, float], improved: bool) -> None:
        self._write({"kind": "eval", "step": state.step, **metrics, "best": improved})

    def _write(self, row: Mapping[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({key: _finite(value) for key, value in row.items()}, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    """JSON has no NaN: null stands for it."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a log.jsonl; a last line cut off by a crash is left out."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def need_tensorboard() -> None:
    """Raise MissingExtraError unless TensorBoard is installed."""
    if find_spec("tensorboard") is None:
        raise MissingExtraError.for_package("tensorboard", "tensorboard")


class TensorBoardLog(Callback):
    """The same curves as TensorBoard events, only when asked for."""

    def __init__(self, folder: Path) -> None:
        need_tensorboard()
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def on_log(self, row: Mapping[str, Any]) -> None:
        for key in ("loss", "learning_rate", "grad_norm", "tokens_per_second"):
            self._writer.add_scalar(f"train/{key}", row[key], row["step"])

    def on_evaluate(self, state: TrainState, metrics: Mapping[str, float], improved: bool) -> None:
        for key, value in metrics.items():
            self._writer.add_scalar(f"eval/{key}", value, state.step)

    def on_end(self, state: TrainState) -> None:
        self._writer.close()

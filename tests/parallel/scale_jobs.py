"""fp16 with a loss scale, over checkpoints on disk, for the test of its survival."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import spread_jobs as jobs
import torch

from flagai.models.saved_form import describe_model
from flagai.parallel.native import SingleProcess
from flagai.parallel.spread import Spread
from flagai.train import checkpoint
from flagai.train.state import TrainState

SCALE, INTERVAL = 2.0**10, 3
"""a scale that nobody begins with and that overflows nowhere; good steps after which it is doubled"""


def train(sizes: Mapping[str, int] | None, root: str | None, to: str, steps: int) -> dict[str, Any]:
    """Some steps from a checkpoint, or from the beginning with a scale of our own; then a checkpoint.

    Returns:
        The scaler's state as found and as left, and (loss, gradient norm) of each step.
    """
    torch.manual_seed(5)
    strategy = jobs.make(sizes, precision="fp16")
    assert isinstance(strategy, SingleProcess if sizes is None else Spread)
    strategy.place(jobs.model_of("bert"))
    strategy.optimizer(jobs.adamw)
    state = TrainState()
    if root is None:
        begin = {**strategy.state()["scaler"], "scale": SCALE, "growth_interval": INTERVAL}
        strategy.load_state({"random": strategy.state()["random"], "scaler": begin}, {}, _nothing)
    else:
        newest = checkpoint.newest(Path(root), lambda text: None)
        assert newest is not None
        state = checkpoint.load(newest, strategy)
    found = dict(strategy.state()["scaler"])
    losses = jobs.steps(strategy, "bert", jobs.ROWS[state.step : state.step + steps], 1, first=state.step)
    state.step += steps
    saver = checkpoint.Saver(Path(to), strategy, describe=lambda folder: describe_model(strategy.model, folder))
    saver.save(state, {"data": "tiny", "strategy": "single" if sizes is None else "ddp"})
    saver.wait()
    return {"found": found, "left": dict(strategy.state()["scaler"]), "steps": losses}


def _nothing(name: str, key: str, box: object) -> torch.Tensor:
    raise AssertionError(f"{name}/{key} was not saved")

"""What the processes of the matrix do: train a tiny model under a layout, save or load by the real checkpoint code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import spread_jobs as jobs
import torch

from flagai.config import ParallelConfig
from flagai.parallel.choose import make_strategy
from flagai.parallel.strategy import Strategy
from flagai.train import checkpoint
from flagai.train.state import TrainState

Steps = list[tuple[float, float]]
"""(mean loss, gradient norm) of each step"""
PLANTS = ("moments lost", "moments of another parameter", "two rows swapped")


def _placed(family: str, parallel: Mapping[str, Any], seed: int) -> Strategy:
    """A model at work; each seed gives other weights, so that nothing is right by chance."""
    torch.manual_seed(seed)
    model = jobs.model_of(family)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.1 * seed)
    strategy = make_strategy(ParallelConfig(**parallel), device="cpu")
    strategy.place(model)
    strategy.optimizer(jobs.adamw)
    return strategy


def save(family: str, parallel: Mapping[str, Any], root: str, before: int, after: int) -> tuple[Steps, Steps]:
    """Train, save, and go on: the steps before and after the checkpoint."""
    strategy = _placed(family, parallel, seed=0)
    first = jobs.steps(strategy, family, jobs.ROWS[:before], 1)
    describe = strategy.model.config.save_pretrained
    saver = checkpoint.Saver(Path(root), strategy, describe=describe)
    saver.save(TrainState(step=before), {"data": "tiny", "strategy": parallel["strategy"]})
    saver.wait()
    return first, jobs.steps(strategy, family, jobs.ROWS[before : before + after], 1, first=before)


def load(family: str, parallel: Mapping[str, Any], roots: Sequence[str], after: int, plant: str = "") -> list[Steps]:
    """Continue from each of several checkpoints: the steps after it.

    Args:
        plant: a mistake in what is loaded, which the comparison must notice.
    """
    found = []
    for root in roots:
        strategy = _placed(family, parallel, seed=1)
        newest = checkpoint.newest(Path(root), lambda text: None)
        assert newest is not None
        state = checkpoint.load(newest, strategy)
        _spoil(strategy, plant)
        found.append(jobs.steps(strategy, family, jobs.ROWS[state.step : state.step + after], 1, first=state.step))
    return found


@torch.no_grad()
def _spoil(strategy: Any, plant: str) -> None:
    moments = strategy._optimizer.state
    if plant == "moments lost":
        for values in moments.values():
            values["exp_avg"].zero_()
    elif plant == "moments of another parameter":
        same = [values for values in moments.values() if values["exp_avg"].shape == (32, 32)]
        same[0]["exp_avg"], same[1]["exp_avg"] = same[1]["exp_avg"], same[0]["exp_avg"]
    elif plant == "two rows swapped":
        table = next(p for p in strategy.model.parameters() if p.dim() == 2)
        table[[3, 4]] = table[[4, 3]]
    else:
        assert not plant

"""A tiny model in training, for the tests of checkpoints: dropout on, so that random streams count."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "parallel"))  # other processes import these by name

import spread_jobs as jobs

from flagai.models.saved_form import describe_model
from flagai.parallel.strategy import Strategy
from flagai.train import checkpoint
from flagai.train.state import TrainState

EXTRA = {"data": "0123", "device": "cpu", "strategy": "single", "precision": "fp32"}


def model_of(family: str, dropout: float = 0.1) -> Any:
    model = jobs.model_of(family)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    return model


class Run:
    """A model under a strategy that can do steps, save itself and be loaded."""

    def __init__(
        self, family: str = "bert", sizes: Mapping[str, int] | None = None, *, dropout: float = 0.1, meta: bool = False
    ) -> None:
        torch.manual_seed(5)
        model = jobs.forward_names(model_of(family, dropout), family)
        if meta:
            jobs._to_meta(model)
        self.family = family
        self.strategy: Strategy = jobs.make(sizes)
        self.model = self.strategy.place(model)
        self.strategy.optimizer(jobs.adamw)
        self.state = TrainState()

    def steps(self, count: int) -> list[tuple[float, float]]:
        """(loss, gradient norm) of the next steps."""
        found = jobs.steps(self.strategy, self.family, (8,) * count, 1, first=self.state.step)
        self.state.step += count
        return found

    def describe(self, folder: Path) -> None:
        describe_model(self.model, folder)

    def saver(self, root: Path, **options: Any) -> checkpoint.Saver:
        return checkpoint.Saver(root, self.strategy, describe=self.describe, **options)

    def save(self, root: Path, **options: Any) -> Path:
        saver = self.saver(root, **options)
        folder = saver.save(self.state, EXTRA)
        saver.wait()
        return folder

    def load(self, root: Path, tell: Callable[[str], None] = lambda _: None) -> None:
        found = checkpoint.newest(root, tell)
        assert found is not None
        self.state = checkpoint.load(found, self.strategy, tell)

    def weights(self) -> dict[str, np.ndarray]:
        return {name: tensor.detach().numpy().copy() for name, tensor in self.strategy.weights()}

    def moments(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in jobs.moments_of(self.strategy).items()}


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two sets of arrays are equal, bit for bit."""
    return one.keys() == other.keys() and all(np.array_equal(np.asarray(one[n]), np.asarray(other[n])) for n in one)

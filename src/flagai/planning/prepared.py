"""What a run reads before it builds a model: tokenizer, task, data, and the batches they make. Knows no memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flagai.config import RunConfig
from flagai.planning.batches import Work
from flagai.train.assemble import Ingredients, ingredients
from flagai.train.prepare import prepare, read_sources, training_file
from flagai.train.trainer import batch_plan


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run before its model."""

    parts: Ingredients
    work: Work


def prepared(config: RunConfig, *, offline: bool, tell: Callable[[str], None]) -> Prepared:
    """Read and check everything that a training would. Raises FlagaiError as `Trainer` does."""
    training_file(config)
    parts = ingredients(config, offline=offline)
    data = prepare(config, parts.task, read_sources(config, parts.task, tell), tell)
    plan = batch_plan(config.train, data)
    return Prepared(parts=parts, work=Work(config.train, parts.task, data.examples["train"], plan))

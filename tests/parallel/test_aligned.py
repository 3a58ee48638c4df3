"""Weights that lie elsewhere in memory, as those mapped from a file do, train to the same bits."""

from __future__ import annotations

from typing import Any

import spread_jobs as jobs
import torch
from torch import nn

from flagai.parallel.aligned import align
from flagai.parallel.native import SingleProcess


def moved(model: nn.Module, numbers: int) -> None:
    """Put each parameter so many fp32 numbers behind the beginning of its memory."""
    for parameter in model.parameters():
        room = torch.empty(parameter.numel() + numbers)
        room[numbers:] = parameter.data.flatten()
        parameter.data = room[numbers:].view(parameter.shape)


def test_parameters_begin_where_torch_would_begin_them() -> None:
    model: Any = jobs.model_of("bert")
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    same = [id(parameter) for parameter in model.parameters()]
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    moved(model, 6)
    assert {parameter.data_ptr() % 64 for parameter in model.parameters()} == {24}
    align(model)
    assert {parameter.data_ptr() % 64 for parameter in model.parameters()} == {0}
    assert [id(parameter) for parameter in model.parameters()] == same
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert tied == (model.get_input_embeddings().weight is model.get_output_embeddings().weight)
    kept = [parameter.data_ptr() for parameter in model.parameters()]
    align(model)
    assert [parameter.data_ptr() for parameter in model.parameters()] == kept, "what lies well is not copied"


def test_nothing_is_asked_of_parameters_without_numbers() -> None:
    with torch.device("meta"):
        align(nn.Linear(3, 3))


def losses(numbers: int) -> list[tuple[float, float]]:
    """A classifier whose batches hold one example now and then: products with a single row are those that differ."""
    model = jobs.model_of("classifier")
    moved(model, numbers)
    strategy = SingleProcess(device="cpu")
    strategy.place(model)
    strategy.optimizer(jobs.adamw)
    return jobs.steps(strategy, "classifier", (1, 1, 2, 1, 3, 1), 1)


def test_training_does_not_depend_on_where_weights_lay() -> None:
    assert losses(0) == losses(6) == losses(14)

"""Runs of flat partitions as boxes of named tensors, and gradients that arrive in one order."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from flagai.parallel.zero_pieces import Piece, boxes
from flagai.parallel.zero_usage import _Last, reached


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 4), (2, 1, 3, 2), (4, 1), (1, 6)])
def test_boxes_are_the_run(shape: tuple[int, ...]) -> None:
    numbers = torch.arange(math.prod(shape))
    for start, stop in itertools.combinations_with_replacement(range(len(numbers) + 1), 2):
        found = list(boxes(shape, start, stop))
        told = [numbers.view(shape)[box.slices].flatten() for box in found]
        assert torch.cat(told or [numbers[:0]]).tolist() == numbers[start:stop].tolist()
        assert len(found) <= 2 * len(shape) - 1
        assert all(piece.shape == torch.Size([math.prod(b.shape)]) for piece, b in zip(told, found, strict=True))


def test_a_number_alone() -> None:
    assert [box.shape for box in boxes((), 0, 1)] == [()]
    assert list(boxes((), 0, 0)) == []


def test_a_piece_tells_and_is_filled() -> None:
    whole = torch.arange(24.0).view(2, 3, 4)
    piece = Piece("w", (2, 3, 4), 5, whole.flatten()[5:18].clone())
    told = torch.full_like(whole, -1.0)
    for part in piece.parts("exp_avg", piece.tensor):
        assert (part.name, part.key, part.whole) == ("w", "exp_avg", (2, 3, 4))
        told[part.box.slices] = part.tensor
    assert told.flatten().tolist() == [float(i) if 5 <= i < 18 else -1.0 for i in range(24)]
    piece.fill("", piece.tensor, lambda name, key, box: 10 * whole[box.slices])
    assert piece.tensor.tolist() == [10.0 * i for i in range(5, 18)]


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.other, self.last = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 1)

    def forward(self, x: torch.Tensor, *, rare: bool) -> torch.Tensor:
        x = self.first(x)
        return self.last(x + self.other(x) if rare else x).sum()


@pytest.mark.parametrize("rare", [True, False])
def test_what_a_loss_reaches(rare: bool) -> None:
    model = Two()
    loss = model(torch.ones(1, 2), rare=rare)
    there = reached(loss)
    loss.backward()
    assert there == {p for p in model.parameters() if p.grad is not None}


def test_a_rare_parameter_is_always_the_last() -> None:
    """Used or not, its gradient is made after all others: what is sent is the same on all processes."""
    orders = []
    for rare in (True, False):
        model, order = Two(), []
        for name, parameter in model.named_parameters():
            parameter.register_post_accumulate_grad_hook(lambda _, name=name, order=order: order.append(name))
        moody = list(model.other.parameters())
        last = _Last.apply(set() if rare else {0, 1}, *moody)
        (model(torch.ones(1, 2), rare=rare) + last).backward()  # type: ignore[operator]
        orders.append(order)
        assert [p.grad is not None for p in moody] == [True, True]
        assert rare or not any(p.grad.any() for p in moody if p.grad is not None)
    assert orders[0] == orders[1]
    assert orders[0][-2:] == ["other.weight", "other.bias"]

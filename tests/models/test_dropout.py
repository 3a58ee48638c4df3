"""The quick dropout is a dropout: its rate, its mean, its gradient, its seed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flagai.models.dropout import QuickDropout, keep_mask, quicken


@pytest.mark.parametrize("p", [0.1, 0.37, 0.5, 0.9])
def test_the_rate_is_that_asked_for(p):
    torch.manual_seed(0)
    count = 400_000
    mask, factor = keep_mask((count // 8, 8), p)
    kept = mask.sum().item()
    spread = (count * p * (1 - p)) ** 0.5
    assert abs(kept - count * (1 - p)) < 5 * spread + count / 65536
    assert factor == pytest.approx(1 / (1 - p), rel=1e-3)


def test_neighbours_are_independent():
    """Four elements come from one draw: their bits must not know of one another."""
    torch.manual_seed(0)
    mask, _ = keep_mask((200_000, 4), 0.5)
    correlations = torch.corrcoef(mask.float().T)
    assert (correlations - torch.eye(4)).abs().max() < 0.02


@pytest.mark.parametrize("shape", [(1,), (3,), (5, 7), (2, 3, 11)])
def test_odd_sizes(shape):
    assert keep_mask(shape, 0.3)[0].shape == shape


def test_a_seed_gives_the_same_mask():
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(keep_mask((1000,), 0.5)[0])
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_output_and_gradient_use_one_mask(dtype):
    layer = QuickDropout(0.25)
    x = torch.ones(50, 40, dtype=dtype, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())
    low, high = sorted(y.detach().float().unique().tolist())
    assert low == 0.0
    assert high == pytest.approx(4 / 3, rel=1e-2)
    assert y.dtype == dtype


def test_evaluation_changes_nothing():
    x = torch.randn(10, 10)
    assert torch.equal(QuickDropout(0.5).eval()(x), x)
    assert torch.equal(QuickDropout(0.0)(x), x)


def test_only_plain_dropouts_are_replaced_and_nothing_is_saved():
    class Own(nn.Dropout):
        pass

    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1), Own(0.1))
    before = list(model.state_dict())
    quicken(model)
    assert [type(module) for module in model] == [nn.Linear, QuickDropout, Own]
    assert list(model.state_dict()) == before

"""Ghosts take no memory, count what real tensors would take, and leave whole numbers real."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from flagai.planning.ghosts import Ghosts
from flagai.planning.machine import status


def test_what_lives_is_counted_and_what_is_gone_is_not():
    ghosts = Ghosts()
    with ghosts:
        a = torch.empty(1000)
        assert ghosts.live == 4000
        b = a.view(10, 100).t()  # a view is no memory of its own
        assert ghosts.live == 4000
        c = (b * 2).half()
        assert ghosts.live == 6000  # the product is gone, its half is there
        c.add_(1)
        assert ghosts.live == 6000
        del a, b
        assert ghosts.live == 2000
    del c
    assert ghosts.live == 0


def test_the_course_has_the_peak_of_a_step():
    ghosts = Ghosts()
    with ghosts:
        layer = nn.Linear(100, 100, bias=False)
        x = torch.empty(50, 100)
        ghosts.watch(list(layer.parameters()))
        before = ghosts.restart()
        layer(x).relu().sum().backward()
    course = ghosts.course()
    assert before == 40_000 + 20_000
    assert ghosts.gradients == 40_000
    assert course[-1].tolist() == [before + 40_000, 40_000]
    # At the product of backward: output and gradient of relu, gradients of the product and of the weight.
    assert before + 60_000 <= course[:, 0].max() <= before + 100_008


class _Real(TorchDispatchMode):
    """Counts as `Ghosts` does, and computes."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.made += [tuple(t.shape) for t in tree_flatten(result)[0] if isinstance(t, torch.Tensor)]
        return result


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_operations_are_those_of_a_real_step(precision):
    """Shapes of everything that is made, one by one, with attention, dropout and autocast as on the CPU."""

    def step() -> None:
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.1)
        ids = torch.arange(12).view(2, 6)
        x = nn.Embedding(12, 16)(ids)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            out = layer(x, src_key_padding_mask=ids > 9)
        nn.functional.cross_entropy(out.float().flatten(0, 1)[(ids < 9).flatten()], ids[ids < 9]).backward()

    class Ghostly(Ghosts):
        made: list[tuple[int, ...]] = []  # noqa: RUF012

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = super().__torch_dispatch__(func, types, args, kwargs)
            self.made += [tuple(t.shape) for t in tree_flatten(result)[0] if isinstance(t, torch.Tensor)]
            return result

    real, ghostly = _Real(), Ghostly()
    ghostly.made = []
    with real:
        step()
    with ghostly:
        step()
    assert ghostly.made == real.made


def test_whole_numbers_are_computed():
    with Ghosts() as ghosts:
        ids = torch.arange(10)
        assert (ids[ids > 6] * 2).tolist() == [14, 16, 18]
        x = torch.empty(10, 4)
        assert ghosts.is_ghost(x) and not ghosts.is_ghost(ids)
        assert x[ids > 6].shape == (3, 4)
        real = torch.zeros(3)
        real.copy_(x[:3, 0])
        assert ghosts.is_ghost(real), "who takes a ghost's contents has none"


def test_no_page_is_touched():
    before = status("/proc/self/status").get("VmRSS")
    if before is None:
        pytest.skip("needs Linux's /proc")
    with Ghosts() as ghosts:
        model = nn.Sequential(*(nn.Linear(4096, 4096) for _ in range(16)))  # 1 GiB
        model(torch.empty(4096, 4096)).sum().backward()
        assert ghosts.live > 2 * 2**30
        assert status("/proc/self/status")["VmRSS"] - before < 200 << 20
    assert np.isfinite(before)

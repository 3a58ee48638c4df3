"""The operations of a CPU with the memory that those of another device take. Knows no model.

Ghosts are tensors of the CPU. A GPU computes attention by fused kernels that keep no scores, and does under autocast in
fp32 what the CPU leaves as it is (torch's documentation of autocast lists both); here its operations are put in place
of the CPU's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor


class _Fused(torch.autograd.Function):
    """Attention that keeps its inputs, its output and one number a query."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, sums)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(value) for value in ctx.saved_tensors[:3])


def _attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if torch.is_autocast_enabled("cpu"):
        kind = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(kind), key.to(kind), value.to(kind)
    return _Fused.apply(query, key, value)  # type: ignore[return-value]


def _in_full(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that a GPU computes in fp32 under autocast."""

    def call(value: Tensor, *args: Any, **kwargs: Any) -> Any:
        return function(value.float() if torch.is_autocast_enabled("cpu") else value, *args, **kwargs)

    return call


_IN_FULL: Final = ("layer_norm", "softmax", "log_softmax", "cross_entropy")


@contextmanager
def as_on(kind: str) -> Iterator[None]:
    """Inside, operations take the memory that they take on "cpu" or "cuda"."""
    instead = {} if kind == "cpu" else {name: _in_full(getattr(F, name)) for name in _IN_FULL}
    if instead:
        instead["scaled_dot_product_attention"] = _attention
    before = {name: getattr(F, name) for name in instead}
    try:
        for name, function in instead.items():
            setattr(F, name, function)
        yield
    finally:
        for name, function in before.items():
            setattr(F, name, function)

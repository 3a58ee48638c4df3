"""Gradients of weights that wait: backward of a product gives its input's gradient now, its weight's on demand.

It knows products, no schedule and no model. Source: Qi et al. 2023, "Zero Bubble Pipeline Parallelism"
(arXiv:2401.10241), section 2.1.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional

from flagai.parallel.layers import PRODUCT
from flagai.parallel.replicas import local


class Later:
    """What is still to be done for the weights of some modules, by the micro-batch it belongs to."""

    def __init__(self, modules: nn.Module) -> None:
        self._waiting: dict[Hashable, list[tuple[nn.Parameter, Tensor, Tensor]]] = {}
        self._now: Hashable = None
        # Something that needs a gradient, so that backward comes here where the input needs none.
        self._anchor = torch.zeros((), requires_grad=True)
        for module in modules.modules():
            if not isinstance(module, nn.Linear) or not module.weight.requires_grad:
                continue
            if hasattr(module, PRODUCT):
                setattr(module, PRODUCT, self._product_of(module))
            elif type(module) is nn.Linear and not isinstance(module.weight, DTensor):
                product = self._product_of(module)
                module.forward = partial(_whole, product, module)  # type: ignore[method-assign]

    def begin(self, place: Hashable) -> None:
        """The backward that comes belongs to this micro-batch."""
        self._now = place

    @torch.no_grad()
    def catch_up(self, place: Hashable) -> None:
        """Add to the gradients of the weights what the backward of a micro-batch left undone."""
        for weight, x, gradient in self._waiting.pop(place, ()):
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            found = gradient.flatten(0, -2).t() @ x.flatten(0, -2).to(gradient.dtype)
            local(weight.grad).add_(found)

    def _product_of(self, module: nn.Linear) -> Any:
        def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Any:
            if not torch.is_grad_enabled():
                return functional.linear(x, weight, bias)
            # In a list: as an argument of its own it would be told of a gradient that is not there.
            return _Product.apply(x, weight.detach(), bias, self._anchor, self, [module.weight])

        return product

    def add(self, weight: nn.Parameter, x: Tensor, gradient: Tensor) -> None:
        """Keep what the gradient of a weight [out, in] is made of: x […, in] and the gradient […, out]."""
        self._waiting.setdefault(self._now, []).append((weight, x, gradient))


def _whole(product: Any, module: nn.Linear, x: Tensor) -> Tensor:
    return product(x, module.weight, module.bias)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, anchor: Tensor, later: Later, parameter: list[Any]
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.later, ctx.parameter, ctx.bias = later, parameter[0], None if bias is None else bias.dtype
        return functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, weight = ctx.saved_tensors
        gradient = grads[0]
        ctx.later.add(ctx.parameter, x, gradient)
        to_x = (gradient @ weight.to(gradient.dtype)).to(x.dtype) if ctx.needs_input_grad[0] else None
        to_bias = None if ctx.bias is None else gradient.flatten(0, -2).sum(0).to(ctx.bias)
        return to_x, None, to_bias, None, None, None

"""Gradients after backward: made whole where they are pending, measured and clipped as one vector. Knows no model.

The norm is that of the single-device model, whatever lies where: each process measures what it holds, a number that
several hold counts once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from flagai.parallel.axes import Axes
from flagai.parallel.held import Held
from flagai.parallel.parts import copies
from flagai.parallel.replicas import local, settled
from flagai.parallel.world import total

_MESSAGE: Final = 25 << 20
"""bytes of a message of many tensors"""


class Gradients:
    """The gradients of a placed model.

    Args:
        summed: axis → names of parameters that each process along it applied to its own share.
    """

    def __init__(self, held: Held, summed: Mapping[str, Sequence[str]], axes: Axes) -> None:
        self._held, self._axes, self.norm = held, axes, 0.0
        self._parameters = {n: t for n, t in held.tensors.items() if isinstance(t, nn.Parameter) and t.requires_grad}
        self._summed = {
            axis: [self._parameters[name] for name in dict.fromkeys(names) if name in self._parameters]
            for axis, names in summed.items()
        }
        groups = {stages: axes.across(stages) for stages in sorted(held.shared_stages())}
        self._shared = [(tensor, groups[stages]) for tensor, stages in held.shared()]

    @torch.no_grad()
    def settle(self) -> None:
        """Sum what lies in pieces on the processes of one copy: pending sums, shares of heads, tied tables."""
        for parameter in self._parameters.values():
            if parameter.grad is not None:
                parameter.grad = settled(parameter.grad, parameter)
        for axis, parameters in self._summed.items():
            for gradients in _bunches([local(p.grad) for p in parameters if p.grad is not None]):
                self._sum_shares(gradients, axis)
        for tensor, group in self._shared:
            gradient = tensor.grad if tensor.grad is not None else torch.zeros_like(tensor)
            total(local(gradient), group)
            tensor.grad = gradient

    def _sum_shares(self, gradients: list[Tensor], axis: str) -> None:
        """Many small tensors in one message."""
        flat = total(torch.cat([gradient.flatten() for gradient in gradients]), self._axes.group(axis))
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    @torch.no_grad()
    def clip(self, max_norm: float | None, count: float) -> float:
        """Divide by `count` and shorten to `max_norm`; gives the norm before the latter."""
        found = [(name, p) for name, p in self._parameters.items() if p.grad is not None]
        gradients = [local(p.grad) for _, p in found if p.grad is not None]
        squares = torch.zeros((), dtype=torch.float64, device=self._axes.device)
        for (name, parameter), gradient in zip(found, gradients, strict=True):
            if self._held.is_mine(name):
                square = torch.linalg.vector_norm(gradient, dtype=torch.float32).double().square()
                squares += square.to(squares.device) / copies(parameter, self._axes)
        self.norm = math.sqrt(total(squares).item()) / count
        factor = 1 / count
        if max_norm is not None and self.norm > max_norm:
            factor *= max_norm / (self.norm + 1e-6)
        if gradients:
            torch._foreach_mul_(gradients, factor)  # pyright: ignore[reportPrivateImportUsage]
        return self.norm


def _bunches(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    """In lists of about a message each."""
    bunch: list[Tensor] = []
    for gradient in gradients:
        bunch.append(gradient)
        if sum(t.nbytes for t in bunch) > _MESSAGE:
            yield bunch
            bunch = []
    if bunch:
        yield bunch

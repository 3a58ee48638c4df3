"""Micro-batches through the stages of a pipeline: hidden states forth, gradients back. Knows no family and no loss.

Every stage gets the same batches, so that it knows the shape of what comes without being told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from flagai.parallel.axes import PIPELINE, Axes
from flagai.parallel.schedule import one_forward_one_backward
from flagai.parallel.stage import Stage

Inputs = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
Score = Callable[[Any, Mapping[str, Tensor]], Tensor]


class Pipeline:
    """The stages of one copy of a model, seen from one of them.

    Args:
        stage: the part of the model that is here.
        inputs: the part of a batch that goes to the model.
    """

    def __init__(self, stage: Stage, axes: Axes, inputs: Inputs) -> None:
        self._stage, self._axes, self._inputs = stage, axes, inputs
        here = axes.index(PIPELINE)
        self._before = None if stage.is_first else axes.rank_of(here - 1)
        self._behind = None if stage.is_last else axes.rank_of(here + 1)
        self._dtype = next(p.dtype for p in stage.model.parameters() if p.is_floating_point())
        self._sent: list[tuple[Any, Tensor]] = []

    def train(self, batches: Sequence[Mapping[str, Tensor]], score: Score, arm: Callable[[], None]) -> None:
        """Forward and backward of all micro-batches.

        Args:
            score: (outputs, batch) → what backward starts from; called on the last stage only.
            arm: called before the last backward.
        """
        came: dict[int, Tensor] = {}
        left: dict[int, Tensor] = {}
        order = one_forward_one_backward(self._axes.index(PIPELINE), self._axes.sizes.pipeline, len(batches))
        for kind, i in order:
            if kind == "forward":
                out = self._forward(batches[i], lambda template, i=i: came.setdefault(i, self._take(template)))
                left[i] = score(out, batches[i]) if self._stage.is_last else out
            else:
                if i == len(batches) - 1:
                    arm()
                self._backward(left.pop(i), came.pop(i, None))
        self._settle()

    @torch.no_grad()
    def run(self, batch: Mapping[str, Tensor]) -> Any:
        """The outputs of the model on the last stage, None on the others."""
        out = self._forward(batch, self._take)
        self._settle()
        return out if self._stage.is_last else None

    def _forward(self, batch: Mapping[str, Tensor], receive: Callable[[Tensor], Tensor]) -> Any:
        out = self._stage.forward(receive, self._inputs(batch))
        if self._behind is not None:
            self._hand_on(out.detach(), self._behind, self._axes.forward)
        return out

    def _take(self, template: Tensor) -> Tensor:
        came = torch.empty_like(template, dtype=self._dtype, memory_format=torch.contiguous_format)
        dist.recv(came, self._before, group=self._axes.forward)
        return came.requires_grad_(torch.is_grad_enabled())

    def _backward(self, left: Tensor, came: Tensor | None) -> None:
        gradient = None
        if self._behind is not None:
            gradient = torch.empty_like(left, dtype=self._dtype, memory_format=torch.contiguous_format)
            dist.recv(gradient, self._behind, group=self._axes.backward)
            gradient = gradient.to(left.dtype)
        if left.requires_grad:  # not where all that is here is frozen
            torch.autograd.backward(left, gradient)
        if self._before is not None:
            assert came is not None
            known = came.grad if came.grad is not None else torch.zeros_like(came)
            self._hand_on(known, self._before, self._axes.backward)

    def _hand_on(self, value: Tensor, rank: int, group: Any) -> None:
        value = value.to(self._dtype).contiguous()
        self._sent.append((dist.isend(value, rank, group=group), value))
        self._sent = [(work, kept) for work, kept in self._sent if not work.is_completed()]

    def _settle(self) -> None:
        for work, _ in self._sent:
            work.wait()
        self._sent.clear()

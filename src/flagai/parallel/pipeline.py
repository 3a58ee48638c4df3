"""Micro-batches through the stages of a pipeline: hidden states forth, gradients back. Knows no family and no loss.

Every stage gets the same batches, so that it knows the shape of what comes without being told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from flagai.parallel.axes import PIPELINE, Axes
from flagai.parallel.later import Later
from flagai.parallel.schedule import orders
from flagai.parallel.stage import Stage
from flagai.parallel.tokens import Tokens

Inputs = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
Score = Callable[[Any, int], Tensor]
_Way = Literal["forward", "backward"]


class Pipeline:
    """The stages of one copy of a model, seen from one of them.

    Args:
        stage: the part of the model that is here.
        inputs: the part of a batch that goes to the model.
        formats: what stands around each forward (autocast). Around all of them at once it would keep the weights that
            it has narrowed for the first; later micro-batches would give their gradients after the layer has sent them.
        schedule: in which order micro-batches are worked on.
        later: what is known of weights whose gradients can wait.
        tokens: who shares tokens between the products; their lengths follow the micro-batch.
    """

    def __init__(
        self,
        stage: Stage,
        axes: Axes,
        inputs: Inputs,
        *,
        formats: Callable[[], AbstractContextManager[Any]] = nullcontext,
        schedule: str = "1f1b",
        later: Later | None = None,
        tokens: Sequence[Tokens] = (),
    ) -> None:
        self._stage, self._axes, self._inputs, self._schedule = stage, axes, inputs, schedule
        self._later, self._tokens, self._formats = later, list(tokens), formats
        self._here, self._count = axes.index(PIPELINE), axes.sizes.pipeline
        self._dtype = next(p.dtype for p in stage.model.parameters() if p.is_floating_point())
        self._sent: list[tuple[Any, Tensor]] = []
        for way in ("forward", "backward"):
            for around in (False, True)[: min(stage.chunks, 2)]:
                axes.way(_group(way, around=around))

    def train(self, batches: Sequence[Mapping[str, Tensor]], score: Score, arm: Callable[[], None]) -> None:
        """Forward and backward of all micro-batches.

        Args:
            score: (outputs, number of the batch) → what backward starts from; called on the last stage only.
            arm: called before the last backward.
        """
        came: dict[tuple[int, int], list[Tensor]] = {}
        left: dict[tuple[int, int], tuple[Tensor, ...]] = {}
        lengths: dict[tuple[int, int], list[int]] = {}
        order = orders(self._schedule, self._count, self._stage.chunks, len(batches))[self._here]
        backwards = sum(action.kind == "backward" for action in order)
        for kind, i, chunk in order:
            place = chunk, i
            if kind == "forward":
                out, came[place] = self._forward(batches[i], chunk)
                left[place] = (score(out, i),) if self._stage.is_last(chunk) else out
                lengths[place] = [tokens.length for tokens in self._tokens]
            elif kind == "backward":
                backwards -= 1
                if not backwards:
                    arm()
                self._return(lengths.pop(place), place)
                self._backward(left.pop(place), came.pop(place), chunk)
            elif self._later is not None:
                self._later.catch_up(place)
        self._settle()

    @torch.no_grad()
    def run(self, batch: Mapping[str, Tensor]) -> Any:
        """The outputs of the model where the last stage is, None elsewhere."""
        out = None
        for chunk in range(self._stage.chunks):
            out, _ = self._forward(batch, chunk)
        self._settle()
        return out if self._stage.is_last(self._stage.chunks - 1) else None

    def _forward(self, batch: Mapping[str, Tensor], chunk: int) -> tuple[Any, list[Tensor]]:
        """What the model gives, and what came to it from the stage before."""
        came: list[Tensor] = []

        def receive(template: Tensor) -> Tensor:
            value = self._take(template, "forward", chunk, self._here - 1).requires_grad_(torch.is_grad_enabled())
            came.append(value)
            return value

        with self._formats():
            out = self._stage.forward(receive, self._inputs(batch), chunk)
        if not self._stage.is_last(chunk):
            for value in out:
                self._hand_on(value.detach(), "forward", self._here + 1)
        return out, came

    def _return(self, lengths: list[int], place: tuple[int, int]) -> None:
        """Back to a micro-batch whose forward was some time ago."""
        for tokens, length in zip(self._tokens, lengths, strict=True):
            tokens.length = length
        if self._later is not None:
            self._later.begin(place)

    def _backward(self, left: tuple[Tensor, ...], came: list[Tensor], chunk: int) -> None:
        gradients: list[Tensor | None] = [None] * len(left)
        if not self._stage.is_last(chunk):
            gradients = [self._take(v, "backward", chunk, self._here + 1).to(v.dtype) for v in left]
        known = [(v, g) for v, g in zip(left, gradients, strict=True) if v.requires_grad]
        if known:  # not where all that is here is frozen
            torch.autograd.backward([v for v, _ in known], [g for _, g in known])  # type: ignore[arg-type]
        for value in came:
            self._hand_on(value.grad if value.grad is not None else torch.zeros_like(value), "backward", self._here - 1)

    def _take(self, template: Tensor, way: _Way, chunk: int, place: int) -> Tensor:
        came = torch.empty_like(template, dtype=self._dtype, memory_format=torch.contiguous_format, requires_grad=False)
        rank, group = self._neighbour(way, place)
        dist.recv(came, rank, group=group)
        return came

    def _hand_on(self, value: Tensor, way: _Way, place: int) -> None:
        value = value.to(self._dtype).contiguous()
        rank, group = self._neighbour(way, place)
        self._sent.append((dist.isend(value, rank, group=group), value))
        self._sent = [(work, kept) for work, kept in self._sent if not work.is_completed()]

    def _neighbour(self, way: _Way, place: int) -> tuple[int, Any]:
        """The rank and the group of a stage beside this one; around the end there is another run of layers."""
        around = not 0 <= place < self._count
        return self._axes.rank_of(place % self._count), self._axes.way(_group(way, around=around))

    def _settle(self) -> None:
        for work, _ in self._sent:
            work.wait()
        self._sent.clear()


def _group(way: str, *, around: bool) -> str:
    return f"{way} around" if around else way

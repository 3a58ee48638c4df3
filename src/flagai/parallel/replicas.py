"""Copies of a model that learn from different examples: their gradients are summed, while backward still runs.

It knows parameters and a process group: no model, no loss and no step. Only gradients that are there are sent, so the
copies may see any number of micro-batches, even none, and parameters that no copy used stay without a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

_BUCKET_BYTES: Final = 25 << 20
_USED: Final = 1
_LATE: Final = 2


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that lies on this process: memory of the tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class _Bucket:
    """Gradients that travel together; `ready` are those of this step."""

    def __init__(self, numbers: list[int], parameters: Sequence[nn.Parameter], dtype: torch.dtype) -> None:
        self.numbers = numbers
        sizes = [local(parameters[i]).numel() for i in numbers]
        self.flat = torch.zeros(sum(sizes), dtype=dtype, device=local(parameters[numbers[0]]).device)
        self.pieces = dict(zip(numbers, self.flat.split(sizes), strict=True))
        self.ready: set[int] = set()
        self.work: Any = None


class Replicas:
    """Sums gradients over the copies of a model.

    Args:
        parameters: those that are trained; the same, in the same order, in every copy.
        group: the copies.
        dtype: the format that gradients are summed in; None: their own.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], group: Any, *, dtype: torch.dtype | None = None) -> None:
        self._parameters, self._group = list(parameters), group
        self._buckets = [_Bucket(numbers, self._parameters, dtype or d) for d, numbers in self._cut()]
        self._home = {i: bucket for bucket in self._buckets for i in bucket.numbers}
        # Backward reaches the last parameters first; which of them it reaches at all, the first step will show.
        self._used = set(range(len(self._parameters)))
        self._late: set[int] = set()
        self._next, self._armed = 0, False
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(lambda _, i=i: self._arrived(i))
            for i, parameter in enumerate(self._parameters)
        ]

    def arm(self) -> None:
        """The backward that comes is the last of this step: what is ready may be sent."""
        self._armed = True

    def finish(self) -> None:
        """Send what is left and wait; afterwards each gradient is the sum over all copies."""
        for i, parameter in enumerate(self._parameters):
            if parameter.grad is not None:
                self._take(i)
        self._send(all_of_them=True)
        marks = self._agree()
        self._used = {i for i, mark in enumerate(marks) if mark}
        for bucket in self._buckets:
            bucket.work.wait()
        for i in (i for i, mark in enumerate(marks) if mark == _LATE):
            self._add_late(i)
        for bucket in self._buckets:
            self._give_back(bucket)
        self._late.clear()
        self._next, self._armed = 0, False

    def close(self) -> None:
        """Leave the parameters alone."""
        for hook in self._hooks:
            hook.remove()

    def _cut(self) -> list[tuple[torch.dtype, list[int]]]:
        """Parameters from the last to the first, in runs of one dtype and of a bucket's size."""
        runs: list[tuple[torch.dtype, list[int]]] = []
        size = 0
        for i in reversed(range(len(self._parameters))):
            part = local(self._parameters[i])
            if not runs or runs[-1][0] != part.dtype or size > _BUCKET_BYTES:
                runs.append((part.dtype, []))
                size = 0
            runs[-1][1].append(i)
            size += part.nbytes
        return runs

    def _arrived(self, number: int) -> None:
        if self._armed:
            self._take(number)
            self._send()

    def _agree(self) -> list[int]:
        """0 for a parameter that no copy used, `_LATE` for one whose gradient missed its bucket somewhere, else 1."""
        marks = [
            0 if parameter.grad is None else _LATE if i in self._late else _USED
            for i, parameter in enumerate(self._parameters)
        ]
        told = torch.tensor(marks, dtype=torch.uint8, device=self._buckets[0].flat.device)
        dist.all_reduce(told, dist.ReduceOp.MAX, group=self._group)
        return told.tolist()

    def _add_late(self, number: int) -> None:
        piece = self._home[number].pieces[number]
        extra = self._local_gradient(number).to(piece) if number in self._late else torch.zeros_like(piece)
        dist.all_reduce(extra, group=self._group)
        piece.add_(extra)

    def _local_gradient(self, number: int) -> Tensor:
        parameter = self._parameters[number]
        assert parameter.grad is not None
        return local(settled(parameter.grad, parameter)).flatten()

    def _take(self, number: int) -> None:
        bucket = self._home[number]
        if bucket.work is not None and number not in bucket.ready:
            self._late.add(number)  # its bucket left without it: earlier steps had not used it
        elif number not in bucket.ready:
            bucket.pieces[number].copy_(self._local_gradient(number))
            bucket.ready.add(number)

    def _send(self, *, all_of_them: bool = False) -> None:
        """Buckets go in one order on all processes: one that is not full holds back those behind it."""
        while self._next < len(self._buckets):
            bucket = self._buckets[self._next]
            if not all_of_them and not self._used.intersection(bucket.numbers) <= bucket.ready:
                return
            bucket.work = dist.all_reduce(bucket.flat, group=self._group, async_op=True)
            self._next += 1

    def _give_back(self, bucket: _Bucket) -> None:
        for i in bucket.numbers:
            parameter = self._parameters[i]
            if i not in self._used:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad = settled(parameter.grad, parameter)
            mine = local(parameter.grad)
            mine.copy_(bucket.pieces[i].view_as(mine))
        bucket.flat.zero_()
        bucket.ready.clear()
        bucket.work = None


def settled(gradient: Tensor, parameter: nn.Parameter) -> Tensor:
    """A gradient divided as its parameter is: one that DTensor left as a pending sum is summed."""
    if isinstance(gradient, DTensor) and isinstance(parameter, DTensor) and gradient.placements != parameter.placements:
        return gradient.redistribute(placements=parameter.placements)
    return gradient

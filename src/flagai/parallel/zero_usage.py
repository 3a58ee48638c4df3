"""Which parameters a loss reaches, and gradients that arrive in the same order on all processes.

DeepSpeed sends gradients in the order in which backward makes them, packed together: processes whose examples need
different parts of a model would add numbers of different parameters, in silence. It knows autograd, no ZeRO stage.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def reached(loss: Tensor) -> set[Tensor]:
    """The leaves that a backward from `loss` gives a gradient."""
    found: set[Tensor] = set()
    seen: set[Any] = set()
    waiting: list[Any] = [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            found.add(leaf)
        waiting.extend(following for following, _ in node.next_functions)
    return found


class _Last(torch.autograd.Function):
    """A zero whose backward comes after that of all that is computed later; gives zeros to chosen parameters."""

    @staticmethod
    def forward(ctx: Any, absent: Collection[int], *parameters: Tensor) -> Tensor:
        ctx.absent = absent
        ctx.kinds = [(p.shape, p.dtype, p.device) for p in parameters]
        return torch.zeros((), device=parameters[0].device)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        made = [
            torch.zeros(shape, dtype=dtype, device=device) if i in ctx.absent else None
            for i, (shape, dtype, device) in enumerate(ctx.kinds)
        ]
        return None, *made


class Usage:
    """Follows, over the micro-batches of a step, which parameters any process used.

    Args:
        parameters: those that are trained, by name; the same on all processes, in the same order.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], device: torch.device) -> None:
        self._names, self._parameters = list(parameters), list(parameters.values())
        self._device = device
        self._used = [False] * len(self._names)
        self._moody: list[int] = []
        """numbers of the parameters that some examples use and others do not; found out on the way"""

    def begin(self) -> None:
        """A new step."""
        self._used = [False] * len(self._names)

    def note(self, parameters: Collection[Tensor]) -> None:
        """These have a gradient from this process."""
        self._used = [used or p in parameters for used, p in zip(self._used, self._parameters, strict=True)]

    def all_together(self) -> set[str]:
        """The names of those that any process used in this step; all processes must call it."""
        marks = self._most(self._used)
        return {name for name, used in zip(self._names, marks, strict=True) if used}

    def in_order(self, forward: Callable[[], Tensor]) -> Tensor:
        """`forward()`'s loss, whose backward reaches the same parameters on all processes, in the same order.

        Computed twice, with the same random numbers, where a parameter shows for the first time that only some
        examples use it. All processes must call it.
        """
        while True:
            before = _streams(self._device)
            absent: set[int] = set()
            last = None
            if self._moody:
                last = _Last.apply(absent, *[self._parameters[i] for i in self._moody])
            loss = forward()
            used = reached(loss)
            differing = self._differing([p in used for p in self._parameters])
            if set(differing) <= set(self._moody):
                self.note(used)
                absent.update(k for k, i in enumerate(self._moody) if self._parameters[i] not in used)
                return loss if last is None else loss + last
            self._moody = sorted({*self._moody, *differing})
            _wind_back(before, self._device)

    def _differing(self, mine: Sequence[bool]) -> list[int]:
        both = self._most([*mine, *(not used for used in mine)])
        half = len(mine)
        return [i for i in range(half) if both[i] and both[half + i]]

    def _most(self, marks: Sequence[bool]) -> list[bool]:
        told = torch.tensor([int(mark) for mark in marks], dtype=torch.uint8, device=self._device)
        dist.all_reduce(told, dist.ReduceOp.MAX)
        return [bool(mark) for mark in told.tolist()]


def _streams(device: torch.device) -> list[Tensor]:
    found = [torch.get_rng_state()]
    return [*found, torch.cuda.get_rng_state(device)] if device.type == "cuda" else found


def _wind_back(streams: Sequence[Tensor], device: torch.device) -> None:
    torch.set_rng_state(streams[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(streams[1], device)

"""The bytes of parameters, gradients, optimizer states and buffers that one process holds: exact, for every strategy.

It knows sizes and how each strategy keeps them; no activation, no batch and no process.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import torch
from torch import Tensor, nn

from flagai.config_deepspeed import BUCKET, SMALL
from flagai.models.plans import plan_of
from flagai.parallel.plan import blocks
from flagai.planning.layouts import Layout
from flagai.train.optim import adamw

_STEP: Final = 4
"""AdamW counts its steps beside each parameter, in fp32"""
_HALF: Final = 2
_FULL: Final = 4


@dataclass(frozen=True, kw_only=True)
class Held:
    """Bytes on one process.

    Args:
        parameters, gradients, optimizer: of the model; gradients as they are when a step is made.
        buffers: tables of the model, and what a strategy keeps to send gradients.
        gathered: at most, what is put together of parameters and gradients that lie in shards, while a layer computes.
        offloaded: of the above, what lies in the memory of the CPU wherever the model is.
    """

    parameters: int = 0
    gradients: int = 0
    optimizer: int = 0
    buffers: int = 0
    gathered: int = 0
    offloaded: int = 0

    @property
    def total(self) -> int:
        """All that is there when a step is made."""
        return self.parameters + self.gradients + self.optimizer + self.buffers

    def __add__(self, other: Held) -> Held:
        return Held(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(Held)})


def held(model: Any, layout: Layout, *, shard: int = 0) -> Held:
    """What a process holds of `model`, which is its part already (`twin.cut_out`).

    Args:
        shard: its place among those that share parameters.
    """
    tables = Held(buffers=sum(buffer.nbytes for buffer in model.buffers()))
    strategy = layout.parallel.strategy
    if layout.processes == 1:
        return tables + _whole(model)
    if strategy in _ZERO:
        return tables + _ZERO[strategy](model, layout)
    if strategy == "bmtrain":
        return tables + _bmtrain(model, layout)
    if layout.sizes.shard > 1:
        return tables + _sharded(model, layout, shard)
    sent = _sent(model, layout) if layout.sizes.replicate > 1 else 0
    return tables + _whole(model) + Held(buffers=sent)


def _whole(model: nn.Module) -> Held:
    trained = _trained(model)
    size = _bytes(trained)
    return Held(parameters=_bytes(list(model.parameters())), gradients=size, optimizer=2 * size + _STEP * len(trained))


def _sent(model: nn.Module, layout: Layout) -> int:
    """The buffers in which gradients of copies travel."""
    wanted = {"fp32": _FULL, "bf16": _HALF}.get(layout.parallel.reduce_dtype or "")
    return sum(p.numel() * (wanted or p.element_size()) for p in _trained(model))


def _sharded(model: nn.Module, layout: Layout, index: int) -> Held:
    """FSDP2: each parameter cut along its first dimension, its shards of equal size."""
    count = layout.sizes.shard
    every = [(p, _rows(p, count)) for p in model.parameters()]
    parameters = sum(share * p[:1].nbytes for p, share in every)
    gradients = sum(share * p[:1].nbytes for p, share in every if p.requires_grad)
    moments = sum(
        2 * max(0, min(share, len(p) - index * share)) * p[:1].nbytes + _STEP for p, share in every if p.requires_grad
    )
    gathered = _gathered(model, layout)
    if not layout.parallel.offload:
        return Held(parameters=parameters, gradients=gradients, optimizer=moments, gathered=gathered)
    there = parameters + gradients + moments
    return Held(parameters=parameters, gradients=gradients, optimizer=moments, gathered=gathered, offloaded=there)


def _rows(parameter: Tensor, count: int) -> int:
    return -(-len(parameter) // count)


def _gathered(model: nn.Module, layout: Layout) -> int:
    """The outermost unit is whole all the time; of the layers one computes while the next is fetched.

    Both are there as they were received and as they are used, and in backward with their gradients.
    """
    half = layout.config.train.precision in ("bf16", "fp16")
    layers = [sum(p.numel() for p in block.parameters()) for block in blocks(model, plan_of(model))]
    size = _HALF if half else _FULL
    inside = {id(p) for block in blocks(model, plan_of(model)) for p in block.parameters()}
    outer = _bytes([p for p in model.parameters() if id(p) not in inside])
    largest = max(layers, default=0)
    whole = sum(layers) if layout.sizes.pipeline > 1 else 2 * largest
    return 2 * outer + size * whole + 2 * _FULL * largest


def _zero1(model: nn.Module, layout: Layout) -> Held:
    """DeepSpeed, stage 1: whole parameters and gradients, a part of the masters and moments."""
    return _flat(model, layout, gradients=sum(p.numel() for p in _trained(model)))


def _zero2(model: nn.Module, layout: Layout) -> Held:
    """Stage 2: the gradients in parts, too."""
    return _flat(model, layout, gradients=_numbers(model, layout) // layout.data)


def _flat(model: nn.Module, layout: Layout, *, gradients: int) -> Held:
    """`gradients` counts numbers: they add up in fp32, whatever the parameters' format."""
    size, trained = _width(layout), _trained(model)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    flat = _numbers(model, layout)
    part = flat // layout.data
    there = 3 * _FULL * part  # the master weights and both moments, whatever the parameters' format
    sent = min(BUCKET, sum(p.numel() for p in trained)) * size
    return Held(
        parameters=(flat + frozen) * size,
        gradients=gradients * _FULL,
        optimizer=there,
        buffers=sent,
        offloaded=there if layout.parallel.offload else 0,
    )


def _numbers(model: nn.Module, layout: Layout) -> int:
    """What is trained, each group of the optimizer filled up so that every process gets as much."""
    return sum(_aligned(sum(p.numel() for p in group), 2 * layout.data) for group in _groups(model, layout))


def _zero3(model: nn.Module, layout: Layout) -> Held:
    """Stage 3: all in parts; small parameters stay whole beside theirs."""
    size, count = _width(layout), layout.data
    own = sum(-(-p.numel() // count) for p in model.parameters())
    part = sum(-(-p.numel() // count) for p in _trained(model))
    small = sum(p.numel() for p in model.parameters() if p.numel() <= SMALL)
    there = 3 * _FULL * part
    return Held(
        parameters=(own + small) * size,
        gradients=part * _FULL,
        optimizer=there,
        gathered=_gathered(model, layout),
        offloaded=there + own * size if layout.parallel.offload else 0,
    )


def _bmtrain(model: nn.Module, layout: Layout) -> Held:
    """BMTrain: parameters, gradients and moments in equal parts."""
    count = layout.data
    own = sum(-(-p.numel() // count) * p.element_size() for p in model.parameters())
    part = sum(-(-p.numel() // count) * p.element_size() for p in _trained(model))
    return Held(parameters=own, gradients=part, optimizer=2 * part, gathered=_gathered(model, layout))


_ZERO: Final = {"zero1": _zero1, "zero2": _zero2, "zero3": _zero3}


def _width(layout: Layout) -> int:
    return _FULL if layout.config.train.precision == "fp32" else _HALF


def _groups(model: nn.Module, layout: Layout) -> list[list[Tensor]]:
    """The parameters as the optimizer groups them."""
    return [group["params"] for group in adamw(layout.config.train)(model).param_groups]


def _aligned(count: int, to: int) -> int:
    return math.ceil(count / to) * to


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def _bytes(tensors: Sequence[torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)

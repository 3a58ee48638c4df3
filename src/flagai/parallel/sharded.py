"""Parameters, gradients and optimizer states cut into shards: FSDP2 around the layers of a plan. Knows no step.

Each process keeps a part of every parameter; a layer is put together when it computes, and its gradients are summed
and cut again in backward. Source: Zhao et al. 2023, "PyTorch FSDP" (arXiv:2304.11277); torch's `fully_shard`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard

from flagai.models.plan import Plan, find
from flagai.parallel.axes import REPLICATE, SHARD, Axes
from flagai.parallel.plan import blocks
from flagai.parallel.replicas import local


@dataclass(frozen=True, kw_only=True)
class Options:
    """How shards are kept and put together.

    Args:
        offload: shards, gradients and optimizer live in the CPU's memory.
        reduce_dtype: of gradients while they are summed; None: that of the shards.
    """

    offload: bool = False
    reduce_dtype: torch.dtype | None = None


def shard(model: nn.Module, plan: Plan | None, axes: Axes, options: Options) -> Sharded:
    """Cut the parameters of a model in place, layer by layer; what is left is one unit of its own.

    Args:
        plan: names the layers; without one, `_no_split_modules` of a Hugging Face model does.
    """
    mesh = axes.mesh[REPLICATE, SHARD] if axes.sizes.replicate > 1 else axes.mesh[SHARD]
    policy = CPUOffloadPolicy(pin_memory=axes.device.type == "cuda") if options.offload else OffloadPolicy()
    # Layers are put together as they are, and autocast narrows them while they compute: the numbers of one process.
    formats = MixedPrecisionPolicy(reduce_dtype=options.reduce_dtype, cast_forward_inputs=False)
    kept: dict[str, Any] = {"mesh": mesh, "offload_policy": policy, "mp_policy": formats}
    # On a pipeline a layer computes again before its backward has come: it stays whole in between.
    stays = axes.sizes.pipeline > 1
    for table in _tables(model, plan) if stays else ():
        fully_shard(table, reshard_after_forward=False, **kept)
    for block in blocks(model, plan):
        if any(True for _ in block.parameters()):
            fully_shard(block, reshard_after_forward=not stays, **kept)
    # The outermost unit is needed again at once in backward: putting it together twice would be waste.
    fully_shard(model, reshard_after_forward=False, **kept)
    # Scores are a view wherever a product has three dimensions; nothing here writes into them.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    for unit in _units(model):
        unit.set_gradient_divide_factor(1.0)  # sums, not means: the count of the whole batch divides them later
        unit.set_force_sum_reduction_for_comms(True)
        if hasattr(unit, "set_reduce_scatter_unused_params"):
            unit.set_reduce_scatter_unused_params(True, recurse=False)
    return Sharded(model, axes)


def _tables(model: nn.Module, plan: Plan | None) -> list[nn.Module]:
    """What several layers look up: it must be whole whenever one of them does, not only while its own computes."""
    if plan is None or plan.stages is None:
        return []
    found = (m for path in plan.stages.everywhere for m in find(model, f"{plan.block}.{path}").values())
    return [module for module in found if any(True for _ in module.parameters())]


class Sharded:
    """A model whose gradients FSDP sums in every backward; all its processes must run equally many of them.

    Parameters that only some processes used are sent as zeros by the others. Those that none used are told apart by
    hooks on the parameters (and, where a module's parameters are used from outside it, by gradients that are not
    zero): they end without a gradient, as in one process, and no optimizer moves them.
    """

    def __init__(self, model: nn.Module, axes: Axes) -> None:
        self._model, self._axes = model, axes
        self._used: set[str] = set()
        self._watched: set[str] = set()
        for name, module in model.named_modules():
            if module._parameters:
                module.register_forward_pre_hook(partial(self._watch, name))

    def arm(self) -> None:
        """Nothing to prepare: every micro-batch is summed at once, so that no process keeps whole gradients."""

    def finish(self) -> None:
        """Take the gradients from parameters that no process used."""
        names: dict[nn.Parameter, list[str]] = {}
        for name, parameter in self._model.named_parameters(remove_duplicate=False):
            if parameter.requires_grad:
                names.setdefault(parameter, []).append(name)
        marks = [
            not self._used.isdisjoint(known) or (p.grad is not None and bool(local(p.grad).any()))
            for p, known in names.items()
        ]
        told = torch.tensor(marks, dtype=torch.uint8, device=self._axes.device)
        dist.all_reduce(told, dist.ReduceOp.MAX, group=self._axes.data)
        for parameter, used in zip(names, told.tolist(), strict=True):
            if not used:
                parameter.grad = None
        self._used.clear()

    def close(self) -> None:
        """Hooks live and die with the model."""

    def _watch(self, path: str, module: nn.Module, args: Any) -> None:
        """While a module computes, its parameters are whole: objects that FSDP keeps from step to step."""
        for leaf, parameter in module._parameters.items():
            name = f"{path}.{leaf}" if path else leaf
            if parameter is not None and parameter.requires_grad and name not in self._watched:
                self._watched.add(name)
                parameter.register_hook(lambda _, name=name: self._used.add(name))


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """All parameters put together, for what calls parts of a model by itself (decoding)."""
    units = list(_units(model))
    for unit in units:
        unit.unshard()
        unit.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for unit in units:
            unit.set_reshard_after_forward(unit is not model, recurse=False)
            unit.reshard()


def _units(model: nn.Module) -> Iterator[FSDPModule]:
    return (module for module in model.modules() if isinstance(module, FSDPModule))


def as_optimizable(optimizer: torch.optim.Optimizer) -> None:
    """Split parameter groups in place, so that none mixes plain and divided tensors, or two grids of processes.

    torch updates a group in one call, which takes tensors of one kind only.
    """
    groups: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        kinds: dict[Any, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            kinds.setdefault(getattr(parameter, "device_mesh", None), []).append(parameter)
        groups += [{**group, "params": parameters} for parameters in kinds.values()]
    optimizer.param_groups[:] = groups

"""Megatron-Core's linear and embedding layers in the place of a model's own, as its plan says. Knows no family.

Their parameters are DTensors under the model's names, so that all else treats them as any divided model's; what
Megatron computes with is the part that lies on this process. Nothing of Megatron's global state is set up: each layer
is told its group, and no layer allocates or draws anything itself, so that they run wherever torch does.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn import functional

from flagai.errors import ModelError
from flagai.models.plan import Columns, Plan, Rows, Split, Vocabulary, find
from flagai.parallel.tensor import Divided, divide

with warnings.catch_warnings():
    # Without Transformer Engine and Apex it takes its plain layers, which are the ones meant here.
    warnings.simplefilter("ignore", UserWarning)
    from megatron.core.model_parallel_config import ModelParallelConfig
    from megatron.core.tensor_parallel.layers import (
        ColumnParallelLinear,
        RowParallelLinear,
        VocabParallelEmbedding,
        linear_with_grad_accumulation_and_async_allreduce,
    )
    from megatron.core.tensor_parallel.mappings import copy_to_tensor_model_parallel_region


class _Local(nn.Module):
    """Hands out the local part of divided parameters."""

    get_extra_state = nn.Module.get_extra_state  # Megatron adds an empty entry to every state dict
    computes_in_half = True

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)
        if isinstance(value, DTensor):
            value = value.to_local()
        return _as_computed(value) if self.computes_in_half and isinstance(value, Tensor) else value


class DividedColumns(_Local, ColumnParallelLinear):
    """y = x·Wᵀ + b, of whose columns each process has some.

    Args:
        width: the outputs of all processes together.
    """

    width: int
    gathers: bool = False

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """[…, inputs] → […, outputs of this process], or of all where the plan gathers them."""
        out, _ = super().forward(_as_computed(x))
        return _Gather.apply(out, self.width, self.tp_group) if self.gathers else out  # type: ignore[return-value]


class DividedRows(_Local, RowParallelLinear):
    """y = x·Wᵀ + b, of whose inputs each process has some; the sum is whole."""

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """[…, inputs of this process] → […, outputs]."""
        return super().forward(_as_computed(x))[0]


class DividedVocabulary(_Local, VocabParallelEmbedding):
    """An embedding, of whose rows each process has some."""

    computes_in_half = False
    padding_idx: int | None = None

    def forward(self, ids: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Ids […] → […, hidden]."""
        out = super().forward(ids)
        if self.padding_idx is None:
            return out
        return torch.where((ids == self.padding_idx)[..., None], out.detach(), out)  # its row is not learned


class _Gather(torch.autograd.Function):
    """Columns of all processes side by side; the loss behind them is computed by each of them alike.

    Megatron's own wants equal parts and a CUDA device.
    """

    @staticmethod
    def forward(ctx: Any, mine: Tensor, width: int, group: Any) -> Tensor:
        count, ctx.mine = group.size(), mine.shape[-1]
        size = -(-width // count)
        ctx.start = group.rank() * size
        padded = functional.pad(mine, (0, size - ctx.mine)).contiguous()
        there = [torch.empty_like(padded) for _ in range(count)]
        dist.all_gather(there, padded, group=group)
        return torch.cat(there, dim=-1)[..., :width]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0][..., ctx.start : ctx.start + ctx.mine].contiguous(), None, None


def divide_by_megatron(model: nn.Module, plan: Plan, mesh: DeviceMesh) -> Divided:
    """Divide a model in place: its Linears and tables become Megatron's, what Megatron has no layer for DTensor's.

    Raises:
        ModelError: as `parallel.tensor.divide`, and a vocabulary too small to have rows for each process.
    """
    _check(model)
    if mesh.device_type == "cpu":
        linear_with_grad_accumulation_and_async_allreduce.warned = True  # its advice is about CUDA
    done = divide(model, plan, mesh, make=lambda module, split: _make(module, split, mesh))
    for pattern in plan.tokens:
        for part in find(model, pattern).values():
            _copy_once(part, mesh.get_group())
    return done


def _check(model: nn.Module) -> None:
    """The sums in front of an adapter would be made twice: by Megatron's layers, and for its gradients."""
    if wrapped := [name for name, module in model.named_modules() if hasattr(module, "base_layer")]:
        raise ModelError(
            f"{wrapped[0]} is wrapped by an adapter",
            where="parallel.strategy",
            expected="a model without adapters for strategy megatron",
            fix="take strategy ddp or fsdp, which divide adapters, too",
        )


def _make(module: nn.Module, split: Split, mesh: DeviceMesh) -> nn.Module | None:
    if module._forward_hooks or module._forward_pre_hooks:
        return None
    if type(module) is nn.Linear and isinstance(split, Columns):
        return _columns(module, split, mesh)
    if type(module) is nn.Linear and isinstance(split, Rows):
        return _rows(module, mesh)
    if type(module) is nn.Embedding and isinstance(split, Vocabulary):
        return _vocabulary(module, mesh)
    return None


def _columns(old: nn.Linear, split: Columns, mesh: DeviceMesh) -> nn.Module:
    padded = _padded(old.out_features, mesh.size(), "outputs")
    with torch.device("meta"):
        new = DividedColumns(old.in_features, padded, **_common(old, mesh), bias=False, gather_output=False)
    new.width, new.gathers = old.out_features, split.gather
    _put(new, "weight", old.weight, mesh, 0)
    if old.bias is not None:
        _put(new, "bias", old.bias, mesh, 0)
    return new.train(old.training)


def _rows(old: nn.Linear, mesh: DeviceMesh) -> nn.Module:
    options: dict[str, Any] = {"bias": False, "input_is_parallel": True, "skip_bias_add": False}
    with torch.device("meta"):
        new = DividedRows(old.in_features, old.out_features, **_common(old, mesh), **options)
    _put(new, "weight", old.weight, mesh, 1)
    new.bias = old.bias
    return new.train(old.training)


def _vocabulary(old: nn.Embedding, mesh: DeviceMesh) -> nn.Module:
    padded = _padded(old.num_embeddings, mesh.size(), "ids")
    with torch.device("meta"):
        new = DividedVocabulary(padded, old.embedding_dim, **_common(old, mesh))
    new.padding_idx = old.padding_idx
    _put(new, "weight", old.weight, mesh, 0)
    return new.train(old.training)


def _common(old: nn.Module, mesh: DeviceMesh) -> dict[str, Any]:
    """What all of Megatron's layers are told: allocate on the CPU (on meta, here), draw nothing."""
    config = ModelParallelConfig(
        tensor_model_parallel_size=mesh.size(),
        use_cpu_initialization=True,
        perform_initialization=False,
        params_dtype=next(old.parameters()).dtype,
    )
    return {"config": config, "init_method": nn.init.zeros_, "tp_group": mesh.get_group()}


def _padded(number: int, parts: int, what: str) -> int:
    """The next multiple; DTensor cuts at the same places, and leaves the last process fewer rows."""
    size = -(-number // parts)
    if size * (parts - 1) >= number:
        raise ModelError(
            f"{number} {what} for {parts} processes",
            where="parallel.tensor",
            expected="at least one for each process",
            fix="set parallel.tensor to a smaller number",
        )
    return size * parts


def _put(new: nn.Module, leaf: str, old: Tensor, mesh: DeviceMesh, dimension: int) -> None:
    placed = distribute_tensor(old.detach(), mesh, [Shard(dimension)], src_data_rank=None)
    new._parameters[leaf] = nn.Parameter(placed, requires_grad=old.requires_grad)


def _copy_once(part: nn.Module, group: Any) -> None:
    """One message for several products of one input (q, k, v) instead of one each: in backward, in front of them all.

    One product alone keeps its own message, which Megatron sends while it computes the gradient of the weight.
    """
    columns = [m for m in part.modules() if isinstance(m, DividedColumns)]
    others = (m for m in part.modules() if not isinstance(m, _Local) and any(True for _ in m.parameters(recurse=False)))
    if len(columns) < 2 or any(True for _ in others):
        return
    for module in columns:
        module.allreduce_dgrad, module.disable_grad_reduce = False, True

    def copy(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (copy_to_tensor_model_parallel_region(args[0], group=group), *args[1:]), kwargs
        hidden = copy_to_tensor_model_parallel_region(kwargs["hidden_states"], group=group)
        return args, kwargs | {"hidden_states": hidden}

    part.register_forward_pre_hook(copy, with_kwargs=True)


def _as_computed(value: Tensor) -> Tensor:
    """In the format of a surrounding autocast, which does not reach into Megatron's backward on a CPU."""
    kind = value.device.type
    if not value.is_floating_point() or not torch.amp.is_autocast_available(kind):
        return value
    if not torch.is_autocast_enabled(kind):
        return value
    return value.to(torch.get_autocast_dtype(kind))

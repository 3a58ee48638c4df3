"""What flagai uses of BMTrain 1.0, on gloo and the CPU: the same names, arguments, layouts and omissions.

Parameters are cut into ranges of numbers; those of a block lie one behind the other in one storage that is cut, so
that a process may have nothing of some; a block hands on positional arguments only; its gradients keep their memory,
so that setting them to None does not forget them.
"""

from __future__ import annotations

import inspect
import math
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

config: dict[str, Any] = {"initialized": False}
_ALIGNED = 128


def init_distributed(seed: int = 0) -> None:
    """Seeds, as the real one does."""
    torch.manual_seed(seed)
    config["initialized"] = True


class DistributedParameter(nn.Parameter):
    """The numbers [_start_partition, _end_partition) of a tensor, in one dimension."""

    def __new__(cls, data: Tensor, requires_grad: bool = True) -> DistributedParameter:
        assert config["initialized"], "BMTrain is not initialized"
        size = -(-data.numel() // dist.get_world_size())
        first = min(dist.get_rank() * size, data.numel())
        last = min(first + size, data.numel())
        made = Tensor._make_subclass(cls, data.view(-1)[first:last].clone(), requires_grad)
        made._original_shape, made._in_block = data.shape, False
        made._start_partition, made._end_partition = first, last
        return made

    def gather(self) -> Tensor:
        """The whole tensor."""
        return _Gather.apply(self)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: DistributedParameter) -> Tensor:
        first = value._start_partition or 0
        ctx.range = slice(first, first + value.numel())
        whole = value.new_zeros(math.prod(value._original_shape))
        whole[ctx.range] = value
        dist.all_reduce(whole)
        return whole.view(value._original_shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        summed = grads[0].contiguous().clone()
        dist.all_reduce(summed)
        return summed.view(-1)[ctx.range]


class DistributedModule(nn.Module):
    """Gives its parameters whole to who asks."""

    def __getattr__(self, name: str) -> Any:
        found = super().__getattr__(name)
        return found.gather() if isinstance(found, DistributedParameter) and not found._in_block else found


class Block(nn.Module):
    """A layer whose parameters lie in one storage."""

    def __init__(self, inner: nn.Module, use_checkpoint: bool = True, zero_level: int = 3) -> None:
        super().__init__()
        object.__setattr__(self, "_module", inner)
        self._use_checkpoint = use_checkpoint
        parameters = list(inner.parameters())
        if not all(isinstance(parameter, DistributedParameter) for parameter in parameters):
            raise ValueError("All parameters in checkpoint block must be DistributedParameter.")
        sizes = [-(-math.prod(p._original_shape) // _ALIGNED) * _ALIGNED for p in parameters]
        share = -(-sum(sizes) // dist.get_world_size())
        begin, end, place = dist.get_rank() * share, (dist.get_rank() + 1) * share, 0
        for parameter, size in zip(parameters, sizes, strict=True):
            with torch.no_grad():
                whole = parameter.gather().view(-1)
            first, last = max(begin - place, 0), min(end - place, whole.numel())
            parameter._start_partition = first if first < last else None
            parameter.data = whole[first : max(first, last)].clone()
            parameter._in_block = True
            place += size
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(_remember)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What is not positional gets lost."""
        args = inspect.signature(self._module.forward).bind(*args, **kwargs).args
        if self._use_checkpoint:
            return checkpoint(self._whole, *args, use_reentrant=True)
        return self._whole(*args)

    def _whole(self, *args: Any) -> Any:
        gathered = {name: parameter.gather() for name, parameter in self._module.named_parameters()}
        return torch.func.functional_call(self._module, gathered, args)

    def named_modules(self, memo: Any = None, prefix: str = "", remove_duplicate: bool = True) -> Any:
        """Under the names of the layer itself."""
        memo = set() if memo is None else memo
        yield prefix, self
        for name, module in self._module._modules.items():
            if module is not None:
                yield from module.named_modules(memo, f"{prefix}.{name}" if prefix else name, remove_duplicate)

    def train(self, mode: bool = True) -> None:
        """Returns nothing, as the real one."""
        self._module.train(mode)

    def __getattribute__(self, name: str) -> Any:
        if name in ("_parameters", "_buffers"):
            return object.__getattribute__(self, "_module").__dict__[name]
        return super().__getattribute__(name)

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_module"), name)


def _remember(parameter: Any) -> None:
    """Gradients of a block lie in a storage of its own, which only zeroing in place empties."""
    storage = parameter.__dict__.setdefault("_storage", torch.zeros_like(parameter))
    if parameter.grad.data_ptr() != storage.data_ptr():
        storage += parameter.grad
        parameter.grad = storage


class _OptimManager:
    def __init__(self, loss_scale: float | None = None, grad_scale: int | None = None) -> None:
        self.scale, self.optimizers = grad_scale or dist.get_world_size(), []

    def add_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizers.append(optimizer)

    def backward(self, loss: Tensor) -> None:
        (loss / self.scale).backward()

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=False)


optim = SimpleNamespace(OptimManager=_OptimManager)

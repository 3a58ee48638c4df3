"""The products inside the layers of a model, divided, and on request the tokens between them. Knows no family.

One message in front of what needs all tokens (for attention one, not one each for q, k and v) and one behind each sum.
With shared tokens each process keeps the activations of its own ones only, through norms, dropout and residuals; the
sums behind a product are cut in the message that sums them, so that no more is sent than without. Source: Korthikanti
et al. 2022, "Reducing Activation Recomputation in Large Transformer Models" (arXiv:2205.05198), section 4.2.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn import functional

from flagai.errors import ModelError
from flagai.models.plan import Columns, Plan, Rows, find, matches

_Products = Sequence[tuple[str, nn.Linear, Columns | Rows]]


class Tokens:
    """The share of a process of [batch, tokens, hidden]; `length` is that of the batch in the model now.

    The last processes have a token less each, or none, where the number is no multiple of theirs.
    """

    def __init__(self, mesh: DeviceMesh) -> None:
        self.group, self.count, self.index = mesh.get_group(), mesh.size(), mesh.get_local_rank()
        self.length = 0
        self._common: list[Tensor] = []

    def part_ways(self, device: torch.device) -> None:
        """From here on each process draws its own random numbers: its tokens and heads are its own."""
        seed = int(torch.randint(2**62, ()))  # drawn by all from the stream they share, so that they still share it
        self._common = [torch.get_rng_state()]
        if device.type == "cuda":
            self._common.append(torch.cuda.get_rng_state(device))
        torch.manual_seed(seed + self.index)

    def meet(self, device: torch.device) -> None:
        """Back to the stream that all share, however many numbers each has drawn."""
        torch.set_rng_state(self._common[0])
        if device.type == "cuda":
            torch.cuda.set_rng_state(self._common[1], device)

    def cut(self, whole: Tensor) -> Tensor:
        """My tokens."""
        size = self._size(whole.shape[1])
        return whole[:, self.index * size : (self.index + 1) * size].contiguous()

    def gather(self, mine: Tensor, length: int) -> Tensor:
        """The tokens of all."""
        size = self._size(length)
        padded = functional.pad(mine, (0, 0, 0, size - mine.shape[1])).contiguous()
        there = padded.new_empty(self.count * len(padded), *padded.shape[1:])
        _all_gather(there, padded, self.group)
        return there.unflatten(0, (self.count, -1)).movedim(0, 1).reshape(len(mine), self.count * size, -1)[:, :length]

    def sum(self, whole: Tensor) -> Tensor:
        """My tokens of the sum over all processes."""
        size, length = self._size(whole.shape[1]), whole.shape[1]
        padded = functional.pad(whole, (0, 0, 0, self.count * size - length))
        sent = padded.unflatten(1, (self.count, size)).movedim(1, 0).flatten(0, 1).contiguous()
        mine = sent.new_empty(len(whole), *sent.shape[1:])
        _reduce_scatter(mine, sent, self.group)
        return mine[:, : max(0, min(size, length - self.index * size))].contiguous()

    def _size(self, length: int) -> int:
        return -(-length // self.count)


class Whole(Tokens):
    """All tokens on every process: nothing is cut, and sums are whole."""

    def part_ways(self, device: torch.device) -> None:
        """All compute the same between the products, and must draw the same."""

    def meet(self, device: torch.device) -> None:
        """They never parted."""

    def cut(self, whole: Tensor) -> Tensor:
        """All of them."""
        return whole

    def gather(self, mine: Tensor, length: int) -> Tensor:
        """They are there."""
        return mine

    def sum(self, whole: Tensor) -> Tensor:
        """The sum over all processes."""
        summed = whole.contiguous().clone()
        dist.all_reduce(summed, group=self.group)
        return summed


class _Cut(torch.autograd.Function):
    """Whole on all processes → shares."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, tokens: Tokens) -> Tensor:
        ctx.tokens, ctx.length = tokens, whole.shape[1]
        return tokens.cut(whole)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.tokens.gather(grads[0], ctx.length), None


class _Join(torch.autograd.Function):
    """Shares → whole on all processes, which go on with the same computation."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor, tokens: Tokens) -> Tensor:
        ctx.tokens = tokens
        return tokens.gather(mine, tokens.length)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.tokens.cut(grads[0]), None


class _JoinToDivide(_Join):
    """Shares → whole on all processes, each of which goes on with its columns: their gradients are to be summed."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.tokens.sum(grads[0]), None


class _Sum(torch.autograd.Function):
    """Pending sums on all processes → shares of the sum."""

    @staticmethod
    def forward(ctx: Any, pending: Tensor, tokens: Tokens) -> Tensor:
        ctx.tokens, ctx.length = tokens, pending.shape[1]
        return tokens.sum(pending)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.tokens.gather(grads[0], ctx.length), None


def divide_layers(model: nn.Module, plan: Plan, divided: _Products, mesh: DeviceMesh, *, sequence: bool) -> list[str]:
    """Divide the products inside the layers of a model.

    Args:
        divided: those products, whole so far.
        sequence: whether tokens are shared, too.

    Returns:
        The parameters that each process applies to its tokens only, whose gradients are to be summed.

    Raises:
        ModelError: the plan's `tokens` do not fit its `tensor`.
    """
    tokens = Tokens(mesh) if sequence else Whole(mesh)
    layers = {name: m for name, m in find(model, plan.block or "").items() if any(True for _ in m.parameters())}
    whole = [name for pattern in plan.tokens for name in find(model, pattern)]
    _check(model, plan, whole, [name for name, _, split in divided if isinstance(split, Columns)])
    biases = [_divide(name, module, split, tokens, mesh) for name, module, split in divided]
    first, *_, last = (*layers.values(), *layers.values())
    first.register_forward_pre_hook(lambda m, args, kwargs: _enter(tokens, m, args, kwargs), with_kwargs=True)
    last.register_forward_hook(lambda m, _, out: _leave(tokens, m, out))
    for name in whole:
        module = model.get_submodule(name)
        module.register_forward_pre_hook(lambda _, a, k: _replaced(_JoinToDivide, tokens, a, k), with_kwargs=True)
    if not sequence:
        return []
    alone = [
        f"{layer}.{name}"
        for layer, module in layers.items()
        for name, _ in module.named_parameters()
        if not any(f"{layer}.{name}".startswith(f"{part}.") for part in whole)
        and not any(f"{layer}.{name}".startswith(f"{part}.") for part, _, _ in divided)
    ]
    return alone + [name for name in biases if name]


def _check(model: nn.Module, plan: Plan, whole: list[str], columns: list[str]) -> None:
    """Gradients are summed in front of what needs all tokens: there everything is divided, and no columns elsewhere."""
    outside = [name for name in columns if not name.startswith(tuple(f"{part}." for part in whole))]
    undivided = [
        f"{part}.{name}"
        for part in whole
        for name, module in model.get_submodule(part).named_modules()
        if next(module.parameters(recurse=False), None) is not None
        and not any(matches(f"{part}.{name}", pattern) for pattern in plan.tensor)
    ]
    if outside or undivided:
        raise ModelError(
            f"`tokens` in the plan of {plan.family} do not fit its `tensor`: {', '.join([*outside, *undivided][:4])}",
            where="parallel.tensor",
            expected="all columns inside a module of `tokens`, and nothing undivided there",
            fix="correct the plan, or leave `tokens` out (then tokens cannot be shared)",
        )


def _enter(tokens: Tokens, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    hidden = args[0] if args else kwargs["hidden_states"]
    tokens.length = hidden.shape[1]
    if layer.training:
        tokens.part_ways(hidden.device)
    return _replaced(_Cut, tokens, args, kwargs)


def _leave(tokens: Tokens, layer: nn.Module, out: Any) -> Any:
    hidden, *rest = out if isinstance(out, tuple) else (out,)
    if layer.training:
        tokens.meet(hidden.device)
    joined = _Join.apply(hidden, tokens)
    return (joined, *rest) if isinstance(out, tuple) else joined


def _replaced(how: type[torch.autograd.Function], tokens: Tokens, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The arguments of a module with another hidden state."""
    if args:
        return (how.apply(args[0], tokens), *args[1:]), kwargs
    return args, kwargs | {"hidden_states": how.apply(kwargs["hidden_states"], tokens)}


def _divide(name: str, module: nn.Linear, split: Columns | Rows, tokens: Tokens, mesh: DeviceMesh) -> str | None:
    """Divide a product whose input is whole already, or whose sum is cut; gives the bias that is added to tokens."""
    rows = isinstance(split, Rows)
    for leaf, parameter in list(module.named_parameters(recurse=False)):
        if leaf == "weight" or not rows:
            placed = distribute_tensor(parameter.detach(), mesh, [Shard(int(rows))], src_data_rank=None)
            module.register_parameter(leaf, nn.Parameter(placed, requires_grad=parameter.requires_grad))

    def columns(x: Tensor) -> Tensor:
        bias = None if module.bias is None else module.bias.to_local()  # type: ignore[operator]
        return functional.linear(x, module.weight.to_local(), bias)  # type: ignore[operator]

    def summed(x: Tensor) -> Tensor:
        out: Tensor = _Sum.apply(functional.linear(x, module.weight.to_local()), tokens)  # type: ignore[operator,assignment]
        return out if module.bias is None else out + module.bias

    module.forward = summed if rows else columns  # type: ignore[method-assign]
    return f"{name}.bias" if rows and module.bias is not None else None


def _all_gather(out: Tensor, mine: Tensor, group: Any) -> None:
    newer = getattr(dist, "all_gather_single", None)
    (newer or dist.all_gather_into_tensor)(out, mine, group=group)


def _reduce_scatter(out: Tensor, parts: Tensor, group: Any) -> None:
    newer = getattr(dist, "reduce_scatter_single", None)
    (newer or dist.reduce_scatter_tensor)(out, parts, group=group)

"""Who has which tokens of a text, and the messages by which shares become whole and sums become shares.

It knows tensors [batch, tokens, hidden] and a group of processes: no layer, no product, no family.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional


class Tokens:
    """The share of a process of [batch, tokens, hidden]; `length` is that of the batch in the model now.

    With `shares` set to False, layers that were given to `around` leave all tokens to every process for a while.

    The last processes have a token less each, or none, where the number is no multiple of theirs.
    """

    def __init__(self, group: Any) -> None:
        self.group, self.count, self.index = group, dist.get_world_size(group), dist.get_rank(group)
        self.length, self.shares = 0, True
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
        """My tokens, of [batch, tokens, …]."""
        size, length = self._size(whole.shape[1]), whole.shape[1]
        mine = whole[:, self.index * size : (self.index + 1) * size]
        if missing := self.held(length) - mine.shape[1]:
            mine = functional.pad(mine, (0, 0) * (mine.dim() - 2) + (0, missing))
        return mine.contiguous()

    def held(self, length: int) -> int:
        """How many tokens of a text of some length are here."""
        size = self._size(length)
        return max(0, min(size, length - self.index * size))

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
        return mine[:, : self.held(length)].contiguous()

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


class Cut(torch.autograd.Function):
    """Whole on all processes → shares."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, tokens: Tokens) -> Tensor:
        ctx.tokens, ctx.length = tokens, whole.shape[1]
        return tokens.cut(whole)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.tokens.gather(grads[0], ctx.length), None


class Join(torch.autograd.Function):
    """Shares → whole on all processes, which go on with the same computation."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor, tokens: Tokens) -> Tensor:
        ctx.tokens = tokens
        return tokens.gather(mine, tokens.length)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.tokens.cut(grads[0]), None


class JoinToDivide(Join):
    """Shares → whole on all processes, each of which goes on with its columns: their gradients are to be summed."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.tokens.sum(grads[0]), None


class Sum(torch.autograd.Function):
    """Pending sums on all processes → shares of the sum."""

    @staticmethod
    def forward(ctx: Any, pending: Tensor, tokens: Tokens) -> Tensor:
        ctx.tokens, ctx.length = tokens, pending.shape[1]
        return tokens.sum(pending)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.tokens.gather(grads[0], ctx.length), None


def around(layers: Sequence[nn.Module], tokens: Tokens, *, outside: bool = False) -> None:
    """Share the tokens of the hidden states between the first and the last of some layers that follow one another.

    Args:
        outside: in front of what shares tokens there already; else inside of it.
    """
    layers[0].register_forward_pre_hook(lambda m, a, k: _enter(tokens, m, a, k), with_kwargs=True, prepend=outside)
    layers[-1].register_forward_hook(lambda m, _, out: _leave(tokens, m, out))


def _enter(tokens: Tokens, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    hidden = args[0] if args else kwargs["hidden_states"]
    tokens.length = hidden.shape[1]
    if not tokens.shares:
        return args, kwargs
    if layer.training:
        tokens.part_ways(hidden.device)
    return replaced(Cut, tokens, args, kwargs)


def _leave(tokens: Tokens, layer: nn.Module, out: Any) -> Any:
    if not tokens.shares:
        return out
    hidden, *rest = out if isinstance(out, tuple) else (out,)
    if layer.training:
        tokens.meet(hidden.device)
    joined = Join.apply(hidden, tokens)
    return (joined, *rest) if isinstance(out, tuple) else joined


def replaced(how: type[torch.autograd.Function], tokens: Tokens, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The arguments of a module with another hidden state."""
    if args:
        return (how.apply(args[0], tokens), *args[1:]), kwargs
    return args, kwargs | {"hidden_states": how.apply(kwargs["hidden_states"], tokens)}


def _all_gather(out: Tensor, mine: Tensor, group: Any) -> None:
    newer = getattr(dist, "all_gather_single", None)
    (newer or dist.all_gather_into_tensor)(out, mine, group=group)


def _reduce_scatter(out: Tensor, parts: Tensor, group: Any) -> None:
    newer = getattr(dist, "reduce_scatter_single", None)
    (newer or dist.reduce_scatter_tensor)(out, parts, group=group)

"""What one process of a layout holds of a model, cut out of ghosts by the same plan. Knows no bytes and no step.

No process is started and no message is sent: a stage is cut by the code that cuts real ones, products get the sizes
that they would have there, and where a message would bring what others hold, something of its size is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from flagai.models.plan import Columns, Plan, Rows, Shared, Split, find
from flagai.models.plans import plan_of
from flagai.parallel.axes import Sizes
from flagai.parallel.context import Context, check_context, share_tokens
from flagai.parallel.plan import check_tensor, runs, splits
from flagai.parallel.spread import needed_plan
from flagai.parallel.stage import Stage
from flagai.parallel.tokens import JoinToDivide, Sum, Tokens, Whole, around, replaced


class _Shares(Tokens):
    """Shares of tokens without anyone to share with."""

    def __init__(self, count: int, index: int = 0) -> None:
        self.group, self.count, self.index = None, count, index
        self.length, self.shares = 0, True
        self._common = []

    def part_ways(self, device: torch.device) -> None:
        """Nothing is drawn."""

    def meet(self, device: torch.device) -> None:
        """Nothing was drawn."""

    def gather(self, mine: Tensor, length: int) -> Tensor:
        """Something as large as the tokens of all."""
        return mine.new_empty(len(mine), self.count * self._size(length), *mine.shape[2:])[:, :length]

    def sum(self, whole: Tensor) -> Tensor:
        """Something as large as my tokens."""
        return self.cut(whole)


class _Everything(_Shares, Whole):
    """All tokens, whose sums are made in a tensor of their own."""

    def cut(self, whole: Tensor) -> Tensor:
        """All of them."""
        return whole

    def gather(self, mine: Tensor, length: int) -> Tensor:
        """They are there."""
        return mine

    def sum(self, whole: Tensor) -> Tensor:
        """Something as large."""
        return torch.empty_like(whole)


class _SharedContext(_Shares, Context):
    """Shares of a long text."""

    def __init__(self, count: int) -> None:
        _Shares.__init__(self, count)
        self.method = "all-gather"


def cut_out(
    model: Any, sizes: Sizes, *, stage: int = 0, part: int = 0, chunks: int = 1, sequence: bool = False
) -> tuple[Any, Stage | None]:
    """Make a model in place what one process holds of it; entered `Ghosts` make what is new.

    Args:
        stage, part: the place of the process along the axes pipeline and tensor.
        chunks: runs of layers on each stage.

    Returns:
        The model, and its stage where there are several.

    Raises:
        ModelError: the model cannot be divided so.
    """
    plan = plan_of(model)
    if sizes.context > 1:
        check_context(model, plan, sizes.context, "all-gather", tensor=sizes.tensor)
    staged = Stage(model, plan, stage, sizes.pipeline, chunks) if sizes.pipeline > 1 else None
    if sizes.tensor > 1:
        _divide(model, needed_plan(plan, model), sizes.tensor, part, sequence=sequence)
    if sizes.context > 1:
        share_tokens(model, needed_plan(plan, model), _SharedContext(sizes.context))
    return model, staged


def _divide(model: Any, plan: Plan, parts: int, index: int, *, sequence: bool) -> None:
    check_tensor(model, plan, parts, sequence=sequence)
    if plan.prepare is not None:
        plan.prepare(model)
    tokens = _Shares(parts) if sequence else _Everything(parts)
    done: dict[int, nn.Parameter] = {}
    layers = tuple(f"{name}." for name in find(model, plan.block or "")) if plan.tokens else ()
    for name, (module, split) in splits(model, plan).items():
        if isinstance(split, Shared):
            continue
        for leaf, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) not in done:
                done[id(parameter)] = _part(parameter, module, leaf, split, parts, index)
        inside = name.startswith(layers) if layers else False
        _hook(module, split, parts, tokens if inside else None)
    _replace(model, done)
    for run in runs(model, plan) if plan.tokens else []:
        around(list(run.values()), tokens)
    for pattern in plan.tokens:
        for module in find(model, pattern).values():
            module.register_forward_pre_hook(lambda _, a, k: replaced(JoinToDivide, tokens, a, k), with_kwargs=True)
    for pattern, attributes in plan.counted.items():
        for module in find(model, pattern).values():
            for attribute in attributes:
                setattr(module, attribute, getattr(module, attribute) // parts)


def _part(parameter: nn.Parameter, module: nn.Module, leaf: str, split: Split, parts: int, index: int) -> nn.Parameter:
    """The part of a parameter that lies on one process."""
    if isinstance(split, Rows) and leaf == "bias":
        return parameter
    dim = int(isinstance(split, Rows) or (isinstance(split, Columns) and isinstance(module, nn.Embedding)))
    shape = list(parameter.shape)
    share = -(-shape[dim] // parts)
    shape[dim] = max(0, min(share, shape[dim] - index * share))
    return nn.Parameter(torch.empty(shape, dtype=parameter.dtype), requires_grad=parameter.requires_grad)


def _hook(module: nn.Module, split: Split, parts: int, tokens: Tokens | None) -> None:
    """What comes behind a divided product: the outputs of all, or their sum."""
    if isinstance(split, Rows) and tokens is not None:
        module.register_forward_hook(lambda _, args, out: Sum.apply(out, tokens))
    elif isinstance(split, Columns) and split.gather:
        module.register_forward_hook(lambda _, args, out: _joined(out, parts))


def _joined(part: Any, parts: int) -> Tensor:
    return torch.cat([part] * parts, -1)


def _replace(model: nn.Module, done: Mapping[int, nn.Parameter]) -> None:
    """Put the parts in the place of the whole, under every name."""
    for module in model.modules():
        for leaf, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in done:
                module._parameters[leaf] = done[id(parameter)]

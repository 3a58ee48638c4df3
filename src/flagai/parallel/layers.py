"""The products inside the layers of a model, divided, and on request the tokens between them. Knows no family.

One message in front of what needs all tokens (for attention one, not one each for q, k and v) and one behind each sum.
With shared tokens each process keeps the activations of its own ones only, through norms, dropout and residuals; the
sums behind a product are cut in the message that sums them, so that no more is sent than without. Source: Korthikanti
et al. 2022, "Reducing Activation Recomputation in Large Transformer Models" (arXiv:2205.05198), section 4.2.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn import functional

from flagai.errors import ModelError
from flagai.models.plan import Columns, Plan, Rows, find, matches
from flagai.parallel.adapters import wrapped_name
from flagai.parallel.plan import runs
from flagai.parallel.tokens import JoinToDivide, Sum, Tokens, Whole, around, replaced

PRODUCT: Final = "flagai_product"
"""the attribute of a divided layer that computes (x, weight, bias) → x·weightᵀ + bias"""
_Products = Sequence[tuple[str, nn.Linear, Columns | Rows]]


def divide_layers(model: nn.Module, plan: Plan, divided: _Products, mesh: DeviceMesh, tokens: Tokens) -> list[str]:
    """Divide the products inside the layers of a model.

    Args:
        divided: those products, whole so far.
        tokens: who has which of them between the products.

    Returns:
        The parameters that each process applies to its tokens only, whose gradients are to be summed.

    Raises:
        ModelError: the plan's `tokens` do not fit its `tensor`.
    """
    whole = [name for pattern in plan.tokens for name in find(model, pattern)]
    _check(model, plan, whole, [name for name, _, split in divided if isinstance(split, Columns)])
    biases = [_divide(name, module, split, tokens, mesh) for name, module, split in divided]
    layers = runs(model, plan)
    for run in layers:
        around(list(run.values()), tokens)
    for name in whole:
        module = model.get_submodule(name)
        module.register_forward_pre_hook(lambda _, a, k: replaced(JoinToDivide, tokens, a, k), with_kwargs=True)
    if isinstance(tokens, Whole):
        return []
    alone = [
        f"{layer}.{name}"
        for run in layers
        for layer, module in run.items()
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
        and not any(matches(wrapped_name(f"{part}.{name}"), pattern) for pattern in plan.tensor)
    ]
    if outside or undivided:
        raise ModelError(
            f"`tokens` in the plan of {plan.family} do not fit its `tensor`: {', '.join([*outside, *undivided][:4])}",
            where="parallel.tensor",
            expected="all columns inside a module of `tokens`, and nothing undivided there",
            fix="correct the plan, or leave `tokens` out (then tokens cannot be shared)",
        )


def _divide(name: str, module: nn.Linear, split: Columns | Rows, tokens: Tokens, mesh: DeviceMesh) -> str | None:
    """Divide a product whose input is whole already, or whose sum is cut; gives the bias that is added to tokens."""
    rows = isinstance(split, Rows)
    for leaf, parameter in list(module.named_parameters(recurse=False)):
        if leaf == "weight" or not rows:
            placed = distribute_tensor(parameter.detach(), mesh, [Shard(int(rows))], src_data_rank=None)
            module.register_parameter(leaf, nn.Parameter(placed, requires_grad=parameter.requires_grad))

    def columns(x: Tensor) -> Tensor:
        bias = None if module.bias is None else module.bias.to_local()  # type: ignore[operator]
        return getattr(module, PRODUCT)(x, module.weight.to_local(), bias)  # type: ignore[operator]

    def summed(x: Tensor) -> Tensor:
        pending = getattr(module, PRODUCT)(x, module.weight.to_local(), None)  # type: ignore[operator]
        out: Tensor = Sum.apply(pending, tokens)  # type: ignore[assignment]
        return out if module.bias is None else out + module.bias

    setattr(module, PRODUCT, functional.linear)
    module.forward = summed if rows else columns  # type: ignore[method-assign]
    return f"{name}.bias" if rows and module.bias is not None else None

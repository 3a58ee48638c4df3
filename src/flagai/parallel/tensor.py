"""Matrix products divided between processes, as a plan says: torch's DTensor does the work. Knows no family, no step.

Source: Shoeybi et al. 2019, "Megatron-LM" (arXiv:1909.08053), section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.distributed.tensor.parallel.style import ParallelStyle

from flagai.models.plan import Columns, Kept, Plan, Rows, Shared, Split, Vocabulary, find
from flagai.parallel import adapters
from flagai.parallel.layers import divide_layers
from flagai.parallel.plan import check_tensor, splits
from flagai.parallel.ties import Ties
from flagai.parallel.tokens import Tokens, Whole


@dataclass(frozen=True, kw_only=True)
class Divided:
    """What `divide` did that others must know.

    Args:
        kept: the parameters that are kept otherwise than the single-device model keeps them.
        summed: those whose gradients must be summed over the tensor group.
        tokens: who has which tokens between the products.
    """

    kept: dict[str, Kept]
    summed: tuple[str, ...]
    tokens: Tokens


Make = Callable[[nn.Module, Split], nn.Module | None]
"""(module, how it is divided) → what takes its place, its parameters divided; None: torch's DTensor shall do it"""


def divide(
    model: nn.Module,
    plan: Plan,
    mesh: DeviceMesh,
    *,
    sequence: bool = False,
    loss: bool = False,
    make: Make | None = None,
) -> Divided:
    """Divide a model in place between the processes of a one-axis mesh; each must hold the same weights.

    Args:
        sequence: share the tokens between the products, too.
        loss: leave the scores of the output layer divided by the vocabulary, for `loss_parallel`.
        make: puts modules of another library in the place of the model's own.

    Raises:
        ModelError: sizes that the number of processes does not divide, or a plan of another model.
    """
    parts = mesh.size()
    check_tensor(model, plan, parts, sequence=sequence)
    ties = Ties.of(model)
    kept = plan.prepare(model) if plan.prepare is not None else {}
    tokens = Tokens(mesh.get_group()) if sequence else Whole(mesh.get_group())
    styles: dict[str, ParallelStyle] = {}
    summed: list[str] = []
    inside: list[tuple[str, nn.Linear, Columns | Rows]] = []
    layers = tuple(f"{name}." for name in find(model, plan.block or "")) if plan.tokens else ()
    for name, (module, split) in splits(model, plan).items():
        if isinstance(split, Columns) and split.groups > 1:
            kept |= _by_part(name, module, split.groups, parts, kept)
        if make is not None and (other := make(module, split)) is not None:
            model.set_submodule(name, other)
        elif isinstance(split, Shared):
            summed += [f"{name}.{leaf}" for leaf, _ in module.named_parameters(recurse=False)]
        elif name.startswith(layers) and isinstance(split, Columns | Rows) and isinstance(module, nn.Linear):
            inside.append((name, module, split))
        else:
            styles[name] = _style(split, loss=loss)
    summed += adapters.summed(model, plan, sequence=sequence)
    if inside:
        summed += divide_layers(model, plan, inside, mesh, tokens)
    parallelize_module(model, mesh, styles, src_data_rank=None)  # pyright: ignore[reportArgumentType]
    ties.renew(model)
    for pattern, attributes in plan.counted.items():
        for module in find(model, pattern).values():
            for attribute in attributes:
                setattr(module, attribute, getattr(module, attribute) // parts)
    return Divided(kept=kept, summed=tuple(dict.fromkeys(summed)), tokens=tokens)


def _style(split: Split, *, loss: bool) -> ParallelStyle:
    if isinstance(split, Rows):
        return RowwiseParallel(input_layouts=Shard(-1))
    if isinstance(split, Vocabulary):
        return RowwiseParallel(input_layouts=Replicate())
    assert isinstance(split, Columns)
    if split.gather and not loss:
        return ColwiseParallel(output_layouts=Replicate())
    return ColwiseParallel(use_local_output=not split.gather)


def _by_part(name: str, module: nn.Module, groups: int, parts: int, kept: Mapping[str, Kept]) -> dict[str, Kept]:
    """Put the rows of fused layers in the order of the processes: each gets its part of every one of them."""
    done: dict[str, Kept] = {}
    for leaf, parameter in module.named_parameters(recurse=False):
        how = replace(kept.get(f"{name}.{leaf}", Kept()), groups=groups, parts=parts)
        with torch.no_grad():
            parameter.data = reorder(parameter.data, groups, parts)
        done[f"{name}.{leaf}"] = how
    return done


def reorder(tensor: Tensor, groups: int, parts: int) -> Tensor:
    """Rows [groups × parts × n, …] → [parts × groups × n, …]; with the numbers exchanged, back again."""
    return tensor.unflatten(0, (groups, parts, -1)).transpose(0, 1).flatten(0, 2).contiguous()


def as_saved(tensor: Tensor, kept: Kept) -> Tensor:
    """A whole parameter (or a moment of it) in the form of the single-device model."""
    if kept.groups > 1:
        tensor = reorder(tensor, kept.parts, kept.groups)
    return tensor.t().contiguous() if kept.transposed and tensor.dim() == 2 else tensor

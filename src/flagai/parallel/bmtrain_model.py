"""A model in BMTrain's terms: its parameters cut between all processes, its layers in blocks. Knows no family, no step.

BMTrain's own wrapper cuts a tied table twice, makes a block of every list of modules, and its blocks drop keyword
arguments that a layer takes by `**`. Here the plan says what a layer is, and none of these happens.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from flagai.errors import ModelError
from flagai.models.plan import Plan
from flagai.models.plans import plan_of
from flagai.parallel.plan import blocks


def prepare(model: nn.Module, library: Any = None, *, plan: Plan | None = None, recompute: bool = False) -> nn.Module:
    """Hand a model over to BMTrain, in place; `bmtrain.init_distributed()` comes before.

    Every parameter becomes one `DistributedParameter`, of which this process keeps a part, under all the names it
    had; every layer of the plan a `Block`, which puts its parameters together when it computes. The model goes on to
    be called as it was.

    Args:
        library: the package `bmtrain`; None: imported.
        plan: what a layer is; None: that of the model's family, or `_no_split_modules` of a Hugging Face model.
        recompute: blocks compute their activations again in backward.

    Raises:
        ModelError: a parameter that lies both in a layer and outside of it.
    """
    if library is None:
        import bmtrain as library  # type: ignore[import-not-found]
    plan = plan if plan is not None else plan_of(model)
    layers = blocks(model, plan)
    _check(model, layers)
    _cut(model, library)
    for module in list(model.modules()):
        for name, child in list(module._modules.items()):
            if child is not None and any(child is layer for layer in layers):
                module._modules[name] = _block(child, library, recompute=recompute)
    return model


def _check(model: nn.Module, layers: list[nn.Module]) -> None:
    owner: dict[Tensor, int] = {}
    for number, layer in enumerate(layers):
        for parameter in layer.parameters():
            owner.setdefault(parameter, number)
    inside = {id(module) for layer in layers for module in layer.modules()}
    outside = {p for m in model.modules() if id(m) not in inside for p in m.parameters(recurse=False)}
    for number, layer in enumerate(layers):
        for name, parameter in layer.named_parameters():
            if parameter in outside or owner[parameter] != number:
                raise ModelError(
                    f"{name} of a layer is also a parameter of another one, or of what lies outside",
                    where="parallel.strategy",
                    expected="layers that share no parameters: BMTrain stores each of them in one piece",
                    fix="take strategy zero3 or fsdp",
                )


@torch.no_grad()
def _cut(model: nn.Module, library: Any) -> None:
    """Each parameter once, wherever it stands; its modules learn to put it together when they ask for it."""
    made: dict[Tensor, nn.Parameter] = {}
    kinds: dict[type, type] = {}
    for module in list(model.modules()):
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if parameter not in made:
                whole = parameter.detach().contiguous()
                made[parameter] = library.DistributedParameter(whole, requires_grad=parameter.requires_grad)
            module._parameters[name] = made[parameter]
        if any(parameter is not None for parameter in module._parameters.values()):
            kind = type(module)
            if kind not in kinds:
                kinds[kind] = type(f"Distributed{kind.__name__}", (kind, library.DistributedModule), {})
            module.__class__ = kinds[kind]


def _block(layer: nn.Module, library: Any, *, recompute: bool) -> nn.Module:
    """A layer as a block, which is told positional arguments only: the others wait beside it."""
    original, kept = layer.forward, dict[str, Any]()
    signature = inspect.signature(original)

    def forward(*args: Any) -> Any:
        return original(*args, **kept)

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kept.clear()  # a backward that computes again comes before the next forward
        kept.update(signature.bind(*args, **kwargs).kwargs)

    forward.__signature__ = signature  # type: ignore[attr-defined]  # the block puts arguments in order by it
    layer.forward = forward  # type: ignore[method-assign]
    block = library.Block(layer, use_checkpoint=recompute)
    block.register_forward_pre_hook(keep, with_kwargs=True)
    return block

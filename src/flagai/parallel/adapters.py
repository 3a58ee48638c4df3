"""LoRA around products that are divided: which of its two matrices is divided with them. Knows no family and no step.

y = W x + B A x. Where W's outputs are divided, B's are, and A works on the whole input; where W's inputs are divided,
A's are, and the few numbers A x are summed before B. Source: Hu et al. 2021, "LoRA" (arXiv:2106.09685), section 4.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from torch import nn

from flagai.errors import ModelError
from flagai.models.plan import Columns, Plan, Rows, Split, find

_BASE: Final = "base_layer"
_INSIDE: Final = re.compile(r"\.(base_layer|lora_\w+)(\..*)?$")


def is_wrapped(module: nn.Module) -> bool:
    """Whether an adapter stands around a layer."""
    return hasattr(module, _BASE)


def wrapped_name(name: str) -> str:
    """The name of the layer that a part of an adapter, or the layer inside one, stands for."""
    return _INSIDE.sub("", name)


def check_adapters(model: nn.Module, plan: Plan) -> None:
    """Whether the adapters of a model can be divided with its products. Raises ModelError."""
    divided = {name: module for pattern in plan.tensor for name, module in find(model, pattern).items()}
    for name, module in divided.items():
        if is_wrapped(module) and (why := _why_not(model, name, module, plan)):
            raise ModelError(
                f"the adapter around {name} cannot be divided: {why}",
                where="parallel.tensor",
                expected="LoRA around linear layers of GLM, BERT, RoBERTa, ModernBERT, GPT-2 or Llama-like models",
                fix="train these adapters with strategy ddp or fsdp",
            )


def _why_not(model: nn.Module, name: str, module: Any, plan: Plan) -> str:
    if not isinstance(getattr(module, "lora_A", None), nn.ModuleDict):
        return f"{type(module).__name__} is no LoRA"
    if getattr(module, "lora_embedding_A", None) or getattr(module, "lora_magnitude_vector", None):
        return "it is not plain B A x"
    layers = tuple(f"{layer}." for layer in find(model, plan.block or ""))
    if not plan.tokens or not name.startswith(layers):
        return "it is not in a layer whose products are divided in one place"
    return ""


def parts_of(name: str, module: Any, split: Split) -> Iterator[tuple[str, nn.Module, Split]]:
    """The layer inside an adapter and the matrix that is divided with it, each with its name and how."""
    yield f"{name}.{_BASE}", module.base_layer, split
    which = {Columns: "lora_B", Rows: "lora_A"}.get(type(split))
    for adapter, matrix in getattr(module, which, {}).items() if which else ():
        yield f"{name}.{which}.{adapter}", matrix, split


def summed(model: nn.Module, plan: Plan, *, sequence: bool) -> list[str]:
    """Parameters of adapters that every process keeps whole and applies to its share: their gradients are summed."""
    found: list[str] = []
    for pattern, split in plan.tensor.items():
        which = "lora_A" if isinstance(split, Columns) else "lora_B" if isinstance(split, Rows) and sequence else ""
        for name, module in find(model, pattern).items() if which else ():
            if is_wrapped(module):
                found += [f"{name}.{which}.{leaf}" for leaf, _ in module.get_submodule(which).named_parameters()]
    return found

"""What the folder of a model holds: the file and name of each of its tensors, and what stands beside them.

It reads no tensor, so that it can be asked about a model that lies on many processes; it knows no task and no trainer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch

from flagai.models.headed import HeadedModel
from flagai.models.lora import adapter_name, is_lora, saved_whole
from flagai.models.quiet import quiet_transformers

Kind = Literal["model", "head", "adapter_model"]
KINDS: Final[tuple[Kind, ...]] = ("model", "head", "adapter_model")
"""first part of the names of files that hold tensors"""
_HEAD, _BODY = "head.", "body."


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor is saved: the first part of the file's name, and its name in there."""

    kind: Kind
    name: str


def places(model: Any, names: Iterable[str]) -> dict[str, Place]:
    """Where each tensor of a model is saved; those that its folder does not hold (the base of adapters) are left out.

    Args:
        model: a stock, headed or adapted model, or any module, on one process or spread.
        names: of its parameters and saved buffers, ties named once.
    """
    headed, adapted = isinstance(model, HeadedModel), is_lora(model)
    body: Any = model.body if headed else model
    heads = {name: Place("head", name.removeprefix(_HEAD)) for name in names if headed and name.startswith(_HEAD)}
    inner = {name: name.removeprefix(_BODY) if headed else name for name in names if name not in heads}
    if adapted:
        whole = saved_whole(model)
        return heads | {
            name: Place("adapter_model", adapter_name(own))
            for name, own in inner.items()
            if ".lora_" in own or own in whole
        }
    renamed = _on_disk(body, list(inner.values()))
    return heads | {name: Place("model", renamed[own]) for name, own in inner.items()}


def describe_model(model: Any, folder: Path) -> None:
    """Write what a model's folder holds beside tensors: its configuration, or that of its adapters."""
    body: Any = model.body if isinstance(model, HeadedModel) else model
    if is_lora(model):
        lora: Any = model.lora
        lora.config.save_pretrained(str(folder))
        return
    config = getattr(body, "config", None)
    if config is None:
        return
    with quiet_transformers():
        # As save_pretrained does it; FSDP puts its own name before that of the class.
        config.dtype = str(body.dtype).removeprefix("torch.")
        config.architectures = [type(body).__name__.removeprefix("FSDP")]
        config.save_pretrained(folder)
        if body.can_generate():
            body.generation_config.save_pretrained(folder)


def _on_disk(body: Any, names: list[str]) -> Mapping[str, str]:
    """The names that transformers gives tensors in files, where its classes have others than its checkpoints."""
    from transformers import PreTrainedModel
    from transformers.core_model_loading import WeightConverter, revert_weight_conversion

    as_they_are = {name: name for name in names}
    conversions = getattr(body, "_weight_conversions", None) or ()
    if not isinstance(body, PreTrainedModel) or any(isinstance(one, WeightConverter) for one in conversions):
        return as_they_are  # names of the class load, too; what puts tensors together would need them whole
    # Tensors without numbers, each of a length of its own: they come back under their other names.
    marks = {name: torch.empty(i, device="meta") for i, name in enumerate(names)}
    found = revert_weight_conversion(body, dict(marks))
    renamed = {names[len(mark)]: name for name, mark in found.items()}
    return renamed if len(renamed) == len(found) == len(names) else as_they_are

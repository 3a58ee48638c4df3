"""Models without numbers: their parameters on meta, for processes that fill what they hold and no more.

It knows folders and heads; which strategy takes such a model, and who fills it, is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from flagai.auto import id2label
from flagai.errors import CheckpointError
from flagai.models.safetensors_file import safetensors_header
from flagai.models.saved_form import KINDS, places
from flagai.parallel.parts import saved_names
from flagai.tasks.base import Task

LARGE: Final = 1 << 30
"""bytes of weights from which on a new run builds its model so"""


def hollow_model(folder: Path, task: Task, tokenizer: Any) -> Any | None:
    """The model of a folder with its parameters on meta; None where the folder would not fill all of it.

    Args:
        folder: a Hugging Face folder with safetensors, as `save_folder` writes it; no adapters.
    """
    from flagai.models.build import build_from_config
    from flagai.models.lora import ADAPTER_CONFIG

    if (folder / ADAPTER_CONFIG).is_file() or not (folder / "config.json").is_file():
        return None
    with parameters_on_meta():
        model: Any = build_from_config(
            folder, task.head(), id2label=id2label(task), pad_token_id=tokenizer.pad_token_id
        )
    if any(buffer.is_meta for buffer in model.buffers()) or not _is_filled_by(model, folder):
        return None
    _generation(model, folder)
    model.fresh_parameters = ()
    return model.eval()


def is_large(folder: Path) -> bool:
    """Whether the weights of a folder are worth the trouble."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) >= LARGE


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """While entered, modules that are made keep no numbers of their parameters; buffers are real."""
    plain = nn.Module.register_parameter

    def register(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
        plain(module, name, parameter)

    nn.Module.register_parameter = register  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = plain  # type: ignore[method-assign]


def _is_filled_by(model: nn.Module, folder: Path) -> bool:
    """Whether every tensor of the model is in the folder, in its shape; ties are there once."""
    state: dict[str, torch.Tensor] = model.state_dict()
    try:
        there = {
            name: shape
            for kind in KINDS
            for file in folder.glob(f"{kind}*.safetensors")
            for name, shape in safetensors_header(file).items()
        }
    except CheckpointError:
        return False
    wanted = places(model, saved_names(model))
    return all(there.get(place.name) == tuple(state[name].shape) for name, place in wanted.items())


def _generation(model: Any, folder: Path) -> None:
    from transformers import GenerationConfig

    body = getattr(model, "body", model)
    if body.can_generate() and (folder / "generation_config.json").is_file():
        body.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)

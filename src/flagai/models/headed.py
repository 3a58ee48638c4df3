"""A Hugging Face body with a head of our own: one module that computes, saves and loads like a model.

It knows neither which body nor which head: `head(outputs, attention_mask) -> {"logits": …}` is all it asks for.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from flagai.errors import CheckpointError, ModelError, OutputError
from flagai.models.quiet import quiet_transformers
from flagai.models.safetensors_file import read_safetensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HEAD_FILE: Final = "head.safetensors"


class HeadedModel(nn.Module):
    """Body and head; the outputs are the head's, and those of the body that the head did not name itself.

    Saved, it is a clean Hugging Face folder of the body plus `head.safetensors`; what the head is stands in
    `task.json`, which the task owns.
    """

    fresh_parameters: tuple[str, ...]
    """names of the parameters that came from no checkpoint; set by whoever builds the model"""

    def __init__(self, body: PreTrainedModel, head: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.head = head
        self.to_head_device()

    def to_head_device(self) -> None:
        """Put the head where the body is."""
        self.head.to(self.body.device)

    @property
    def config(self) -> Any:
        """The body's Hugging Face configuration."""
        return self.body.config

    @property
    def base_model(self) -> Any:
        """The body without any head of its own."""
        return self.body.base_model

    @property
    def device(self) -> torch.device:
        """Where the body is."""
        return self.body.device

    @property
    def dtype(self) -> torch.dtype:
        """The body's dtype; a head of ours may compute in fp32 all the same."""
        return self.body.dtype

    def forward(self, attention_mask: Tensor | None = None, **inputs: Any) -> dict[str, Tensor]:
        """`input_ids` [B, L] or `inputs_embeds`, `attention_mask` [B, L] and whatever else the body takes."""
        inputs["return_dict"] = True
        outputs = self.body(attention_mask=attention_mask, **inputs)
        if attention_mask is None:
            attention_mask = self._all_attended(inputs)
        return {**outputs, **self.head(outputs, attention_mask)}

    @staticmethod
    def _all_attended(inputs: dict[str, Any]) -> Tensor:
        given = inputs.get("input_ids")
        given = inputs["inputs_embeds"] if given is None else given
        return torch.ones(given.shape[:2], dtype=torch.long, device=given.device)

    def get_input_embeddings(self) -> nn.Module:
        """The body's embedding of tokens."""
        return self.body.get_input_embeddings()

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """As in transformers, for the body."""
        self.body.gradient_checkpointing_enable(**options)

    def gradient_checkpointing_disable(self) -> None:
        """As in transformers, for the body."""
        self.body.gradient_checkpointing_disable()

    def save_pretrained(self, folder: str | Path, **options: Any) -> None:
        """Write the body as a Hugging Face folder and the head beside it."""
        with quiet_transformers():
            self.body.save_pretrained(folder, **options)
        save_head(self.head, folder)


def make_head(module: str, hidden_size: int, num_labels: int, options: dict[str, Any], seed: int) -> nn.Module:
    """A head from its dotted name ("package.module:Class"), its random start drawn from a seed of its own.

    Errors: `ModelError` where the name or the options are none of a head.
    """
    place, _, name = module.partition(":")
    try:
        kind = getattr(importlib.import_module(place), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ModelError(f"there is no head {module!r} ({error})", expected='"package.module:Class"') from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return kind(hidden_size, num_labels, **options)
        except TypeError as error:
            raise ModelError(f"the head {module!r} cannot be made with {options} ({error})") from error


def save_model(model: PreTrainedModel | HeadedModel, folder: str | Path) -> None:
    """Write a stock or a headed model as a Hugging Face folder, silently.

    Errors: `OutputError` where a file cannot be written (rights, a full disk).
    """
    from safetensors import SafetensorError

    try:
        with quiet_transformers():
            model.save_pretrained(str(folder))
    except (OSError, SafetensorError) as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(
            f"cannot write the model ({error})", fix="check free space and rights", where=str(folder)
        ) from error


def save_head(head: nn.Module, folder: str | Path) -> None:
    """Write `head.safetensors` (also for a head without parameters, so that its absence means something).

    Errors: `OutputError` where the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in head.state_dict().items()}
    file = Path(folder) / HEAD_FILE
    try:
        save_file(tensors, file, metadata={"format": "pt"})
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"cannot write the head ({error})", fix="check free space and rights", where=str(file)
        ) from error


def load_head(head: nn.Module, folder: str | Path) -> None:
    """Fill a head from `head.safetensors`, every tensor of it and nothing else.

    Errors: `CheckpointError` for a file that is absent, damaged or of another head.
    """
    file = Path(folder) / HEAD_FILE
    if not file.is_file():
        raise CheckpointError(
            f"the folder has no {HEAD_FILE}, and its task needs a head",
            expected="the whole folder as flagai saved it",
            fix="copy the missing file",
            where=str(folder),
        )
    fill_head(head, read_safetensors(file), where=str(file))


def fill_head(head: nn.Module, state: dict[str, Tensor], *, where: str) -> None:
    """Copy tensors into a head, all of them. Errors: `CheckpointError` naming what is missing, unknown or misshapen."""
    own = head.state_dict()
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    wrong = [
        f"{name} is {list(state[name].shape)}, not {list(own[name].shape)}"
        for name in sorted(own.keys() & state.keys())
        if own[name].shape != state[name].shape
    ]
    parts = {"missing": missing, "unknown": unknown, "of another shape": wrong}
    found = "; ".join(f"{what}: {', '.join(names)}" for what, names in parts.items() if names)
    if found:
        raise CheckpointError(
            f"the tensors do not fit the head {type(head).__name__} ({found})",
            fix="labels and options of the task must be those of the saved model",
            where=where,
        )
    head.load_state_dict(state)

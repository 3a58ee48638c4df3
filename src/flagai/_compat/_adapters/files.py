"""Files and state dicts of the original's classes: what all of them offer alike. Knows no family."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flagai.models.checkpoints import iteration_folder, read_pickle, read_state_dict
from flagai.models.safetensors_file import read_safetensors


class OriginalFiles(nn.Module):
    """A module whose weights and settings have the original's words."""

    @abstractmethod
    def _original(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """State dict and config.json in the original's words where it can express the model, else Hugging Face's."""

    @abstractmethod
    def _take(self, state: dict[str, Tensor], *, strict: bool, where: str) -> None:
        """Take weights under either names. Raises CheckpointError."""

    def save_config(self, config_path: str) -> None:
        """Write config.json in the original's words where it can express the model, else in Hugging Face's."""
        text = json.dumps(self._original()[1], indent=2, ensure_ascii=False, default=str)
        Path(config_path).write_text(text + "\n", encoding="utf-8")

    def save_weights(self, weight_path: str) -> None:
        """Write the state dict as the original's `pytorch_model.bin`."""
        torch.save(self.state_dict(), weight_path)

    def load_weights(self, checkpoint_path: str) -> None:
        """Take the weights of a file or a folder, of the original or of Hugging Face; a head may be missing there.

        Raises:
            CheckpointError: a weight of the body is missing or of another shape.
        """
        path = Path(checkpoint_path)
        if path.is_dir():
            state = read_state_dict(iteration_folder(path))
        else:
            state = read_safetensors(path) if path.suffix == ".safetensors" else read_pickle(path)
        self._take(state, strict=False, where=str(path))

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The weights under the original's names (inside another module: under torch's own)."""
        if args or kwargs.get("destination") is not None or kwargs.get("prefix"):
            return super().state_dict(*args, **kwargs)
        return self._original()[0]

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take weights under the original's names or Hugging Face's, also wrapped as `{"module": …}`."""
        inner = state_dict.get("module")
        state = inner if isinstance(inner, Mapping) else state_dict
        self._take(dict(state), strict=strict, where="load_state_dict")
        return nn.modules.module._IncompatibleKeys([], [])

"""The original's checkpoints: `latest_iteration.txt`, `<iteration>/{config.json, pytorch_model.bin}`. Knows no loop.

The format is a PyTorch pickle because the original reads no other; foreign ones are read without running anything.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from flagai.errors import CheckpointError
from flagai.models import legacy_bert, pickles
from flagai.models.checkpoints import inspect, iteration_folder
from flagai.models.quiet import quiet_transformers
from flagai.train.files import whole_folder

TRACKER = "latest_iteration.txt"


def write_folder(target: Path, model: Any, extra: Mapping[str, Any], *, tokenizer: Any = None) -> Path:
    """Write config.json and pytorch_model.bin (`{"module": weights, **extra}`), whole or not at all."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with whole_folder(target) as folder:
        _save_config(model, folder / "config.json")
        torch.save({"module": weights, **extra}, folder / "pytorch_model.bin")
        if tokenizer is not None:
            _save_tokenizer(getattr(tokenizer, "flagai_tokenizer", tokenizer), folder)
    return target


def write_tracker(save_dir: Path, iteration: int, best: int) -> None:
    """`latest_iteration.txt`: the newest and the best iteration."""
    temporary = save_dir / f".{TRACKER}"
    temporary.write_text(f"{iteration}\t{best}", encoding="utf-8")
    os.replace(temporary, save_dir / TRACKER)


def read(folder: str | Path, which: Literal["latest", "best"]) -> dict[str, Any]:
    """What a save folder (by its tracker) or an iteration's folder holds, `module` being the weights.

    Raises:
        CheckpointError: a damaged or unsafe file, or one without weights.
    """
    file = inspect(iteration_folder(Path(folder), which)).files[0]
    found = pickles.load(file)
    if not isinstance(found, Mapping) or not isinstance(found.get("module"), Mapping):
        raise CheckpointError(
            "the file holds no `module`", where=str(file), expected="a checkpoint of flagai.trainer.Trainer"
        )
    return dict(found)


def best_of(folder: str | Path) -> int | None:
    """The best iteration by the tracker, None where there is none."""
    tracker = Path(folder) / TRACKER
    parts = tracker.read_text(encoding="utf-8").split() if tracker.is_file() else []
    return int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else None


def iteration_of(found: Mapping[str, Any]) -> int:
    """Optimizer steps done; later versions of the original have it under another name."""
    value = found.get("iteration", found.get("iteration_in_epoch", 0))
    return value if isinstance(value, int) else 0


def random_state() -> dict[str, Any]:
    """Python's, NumPy's and torch's streams under the original's names."""
    state = {
        "random_rng_state": random.getstate(),
        "np_rng_state": np.random.get_state(),
        "torch_rng_state": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda_rng_state"] = torch.cuda.get_rng_state()
    return state


def restore_random(found: Mapping[str, Any]) -> None:
    """Set the streams that a checkpoint holds."""
    if (python := found.get("random_rng_state")) is not None:
        random.setstate((python[0], tuple(python[1]), python[2]))
    if (numpy_state := found.get("np_rng_state")) is not None:
        np.random.set_state(numpy_state)
    if (cpu := found.get("torch_rng_state")) is not None:
        torch.set_rng_state(cpu)
    if (cuda := found.get("cuda_rng_state")) is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(cuda)


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """The tokenizer as it is, and for WordPiece the vocab.txt that the original reads."""
    with quiet_transformers():
        tokenizer.save_pretrained(folder)
    if type(tokenizer.backend_tokenizer.model).__name__ == "WordPiece":
        legacy_bert.save_vocab(tokenizer, folder)


def _save_config(model: Any, path: Path) -> None:
    if callable(getattr(model, "save_config", None)):
        model.save_config(str(path))
    elif hasattr(getattr(model, "config", None), "to_json_file"):
        model.config.to_json_file(str(path), use_diff=False)

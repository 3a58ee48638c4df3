"""A run at step N on disk: a Hugging Face folder, `train_state/` and a manifest of hashes. Knows no loop.

No pickle: tensors are safetensors, everything else JSON. A folder without a manifest that fits is not a checkpoint.
This is the door to `checkpoints/`.
"""

from __future__ import annotations

from pathlib import Path

from flagai.parallel.company import company
from flagai.parallel.strategy import Strategy
from flagai.train.checkpoints import writing
from flagai.train.checkpoints.keeping import Score, keep
from flagai.train.checkpoints.manifest import MANIFEST, VERSION, Checkpoint, layout, restore_threads, verify
from flagai.train.checkpoints.reading import load, newest, refuse_damaged
from flagai.train.checkpoints.saver import Saver
from flagai.train.checkpoints.writing import Describe

__all__ = [
    "MANIFEST",
    "VERSION",
    "Checkpoint",
    "Describe",
    "Saver",
    "Score",
    "keep",
    "layout",
    "load",
    "newest",
    "refuse_damaged",
    "restore_threads",
    "verify",
    "write_model",
]


def write_model(strategy: Strategy, folder: Path, describe: Describe) -> None:
    """Write the weights of a placed model as a whole model folder (`best/`, `final/`); collective.

    Each process writes what it holds: none needs the whole model in memory.

    Args:
        describe: writes what the folder holds beside tensors; called by the first process.

    Raises:
        OutputError: the disk is full or cannot be written; an older folder of that name is left as it was.
    """
    writing.write_model(strategy, folder, describe, company=company("writing"))

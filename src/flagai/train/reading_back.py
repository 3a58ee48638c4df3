"""The weights of a model's folder back into the placed model, each process no more than it holds. Knows no state."""

from __future__ import annotations

from pathlib import Path

from flagai.models.saved_form import KINDS, places
from flagai.parallel.company import company
from flagai.parallel.strategy import Strategy
from flagai.train.checkpoints.arrangement import inventory
from flagai.train.checkpoints.reading import Tensors


def read_back(strategy: Strategy, folder: Path) -> None:
    """Fill the model with what `checkpoint.write_model` wrote of it; collective.

    What the folder does not hold (the base of adapters) stays. Errors: `CheckpointError` for a damaged file.
    """
    known = inventory(lambda: (part for part in strategy.parts() if not part.key), company("reading"))
    where = {name: place.name for name, place in places(strategy.model, [name for name, *_ in known]).items()}
    files = sorted(file for kind in KINDS for file in folder.glob(f"{kind}*.safetensors"))
    with Tensors(files) as weights:
        strategy.fill(lambda name, _, box: weights.read(where[name], box), where.keys())

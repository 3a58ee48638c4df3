"""A checkpoint as torch's distributed checkpoint (DCP), for programs that read that. Knows no model.

DCP keeps its index in a pickle; that is its form, and nothing of ours reads it back.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from torch import Tensor
from torch.distributed.checkpoint.state_dict_saver import save

from flagai.data.whole import whole_folder
from flagai.errors import OutputError
from flagai.models.checkpoints import inspect
from flagai.models.headed import HEAD_FILE
from flagai.models.safetensors_file import read_safetensors
from flagai.train.checkpoints.arrangement import OPTIMIZER, STATE


def to_dcp(source: Path, target: Path) -> int:
    """Write weights as "model.<name>" and moments as "optimizer.<name>.<key>"; gives the number of tensors.

    Those of a head are "model.head.<name>". The files are mapped, not read at once.

    Errors: `CheckpointError` for a damaged source, `OutputError` for a target that exists or cannot be written.
    """
    if target.exists():
        raise OutputError("it exists already", where=str(target), fix="choose another folder")
    tensors: dict[str, Tensor] = {}
    for file in inspect(source).files:
        tensors |= {f"model.{name}": tensor for name, tensor in read_safetensors(file).items()}
    if (head := source / HEAD_FILE).is_file():
        tensors |= {f"model.head.{name}": tensor for name, tensor in read_safetensors(head).items()}
    for file in sorted((source / STATE).glob(f"{OPTIMIZER}*.safetensors")):
        for entry, tensor in read_safetensors(file).items():
            name, _, key = entry.rpartition("/")
            tensors[f"optimizer.{name}.{key}"] = tensor
    with whole_folder(target) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process is what is meant
        save(dict(tensors), checkpoint_id=str(temporary), no_dist=True)
    return len(tensors)

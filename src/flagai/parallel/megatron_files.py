"""Megatron-Core's distributed checkpoints ("torch_dist"): weights, moments and random streams, written and read.

They are for going on with Megatron's own tools, or coming from them; a run's checkpoints are those of `train/`. It
knows the parts of a strategy and Megatron's format; no model and no file of a run.

The format keeps its index as a pickle: read only folders that you would run as a program.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from flagai.errors import CheckpointError, FlagaiError, OutputError
from flagai.parallel import world
from flagai.parallel.parts import Box, Part
from flagai.parallel.strategy import Strategy

with warnings.catch_warnings():
    warnings.simplefilter(
        "ignore", UserWarning
    )  # that Transformer Engine and Apex are missing: nothing here needs them
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing.mapping import ShardedTensor
    from megatron.core.dist_checkpointing.strategies.cached_metadata_filesystem_reader import (
        CachedMetadataFileSystemReader,
    )
    from megatron.core.dist_checkpointing.strategies.checkpointable import CheckpointableShardedTensor
    from megatron.core.dist_checkpointing.strategies.torch import (
        TorchDistSaveShardedStrategy,
        mcore_to_pyt_state_dict,
    )

_MOMENTS: Final = "optimizer.state."
_SMALL: Final = "flagai"
"""entry of the common part: random streams and the state of the loss scale"""


def save_distributed(strategy: Strategy, folder: Path) -> None:
    """Write what a strategy holds into a new folder, each number once; every process calls it.

    Keys are the names of the single-device model's parameters, and "optimizer.state.<moment>.<name>".

    Raises:
        OutputError: the folder is there already, or cannot be made.
    """
    small = strategy.state()
    _make(folder)
    parts: dict[str, Any] = {}
    for part in strategy.parts():
        tensor = part.tensor.detach().to("cpu").contiguous()
        parts.setdefault(_key(part), []).append(_sharded(_key(part), tensor, part.whole, part.box))
    dist_checkpointing.save({**parts, _SMALL: small}, str(folder), _InThisProcess())


def load_distributed(strategy: Strategy, folder: Path) -> None:
    """Read such a folder into a placed model and its optimizer, whatever processes wrote it; every process calls it.

    Each process reads no more than it holds. The optimizer must have been built. Random streams go on as they are
    where the checkpoint has none.

    Raises:
        CheckpointError: no such checkpoint, one of another model, or one that lacks parameters.
    """
    saved = _Saved(folder)
    _checked(strategy, saved)
    strategy.fill(saved.read)
    common = dist_checkpointing.load_common_state_dict(str(folder))
    strategy.load_state(common.get(_SMALL) or strategy.state(), saved.moments(), saved.read)


class _InThisProcess(TorchDistSaveShardedStrategy):
    """Megatron's own writer starts processes, which outlive a run that is killed, and asks for CUDA."""

    def __init__(self) -> None:
        super().__init__("torch_dist", 1)

    def save(self, sharded_state_dict: Any, checkpoint_dir: str | Path) -> None:
        """Called by Megatron: key → parts of this process."""
        save(mcore_to_pyt_state_dict(sharded_state_dict), storage_writer=FileSystemWriter(str(checkpoint_dir)))


class _Saved:
    """The tensors of a checkpoint, read box by box. Raises CheckpointError where there is none."""

    def __init__(self, folder: Path) -> None:
        if not dist_checkpointing.check_is_distributed_checkpoint(str(folder)):
            raise CheckpointError(
                f"{folder} is no distributed checkpoint of Megatron-Core",
                expected="a folder with metadata.json, common.pt and .metadata",
                fix="give the folder that save_distributed or Megatron wrote",
            )
        self._reader = CachedMetadataFileSystemReader(str(folder))
        described = self._reader.read_metadata().state_dict_metadata
        self.tensors = {key: value for key, value in described.items() if isinstance(value, TensorStorageMetadata)}

    def read(self, name: str, key: str, box: Box) -> Tensor:
        """The numbers of a box: what `fill` and `load_state` ask for."""
        entry = _entry(name, key)
        there = self.tensors[entry]
        tensor = torch.empty(box.shape, dtype=there.properties.dtype)
        asked = CheckpointableShardedTensor.from_sh_ten(_sharded(entry, tensor, tuple(there.size), box))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that other processes take no part: each asks for its own
            load({entry: asked}, storage_reader=self._reader, no_dist=True)
        return tensor

    def moments(self) -> Mapping[str, Mapping[str, tuple[int, ...]]]:
        """Parameter → moment → shape."""
        found: dict[str, dict[str, tuple[int, ...]]] = {}
        for entry, there in self.tensors.items():
            if entry.startswith(_MOMENTS):
                key, _, name = entry.removeprefix(_MOMENTS).partition(".")
                found.setdefault(name, {})[key] = tuple(there.size)
        return found


def _entry(name: str, key: str) -> str:
    return f"{_MOMENTS}{key}.{name}" if key else name


def _key(part: Part) -> str:
    return _entry(part.name, part.key)


def _sharded(entry: str, tensor: Tensor, whole: tuple[int, ...], box: Box) -> ShardedTensor:
    """A part as Megatron describes it; no grid, since parts may be of different sizes."""
    return ShardedTensor(entry, tensor, tensor.dtype, box.shape, whole, box.offset, axis_fragmentations=None)


def _make(folder: Path) -> None:
    """The first process makes the folder; if it cannot, all raise."""
    error: FlagaiError | None = None
    if world.is_first():
        try:
            folder.mkdir(parents=True)
        except OSError as cause:
            error = OutputError(
                f"the folder cannot be made: {cause.strerror}",
                where=str(folder),
                expected="a name that nothing has yet, in a folder that may be written",
                fix="give another folder",
            )
    world.raise_together(error)


def _checked(strategy: Strategy, saved: _Saved) -> None:
    """Before a number is changed: whether all that the model has is there, in its shape; else all raise."""
    wrong = []
    for part in strategy.parts():
        if part.key:
            continue
        there = saved.tensors.get(part.name)
        if there is None:
            wrong.append(f"{part.name} is missing")
        elif tuple(there.size) != part.whole:
            wrong.append(f"{part.name} is {list(there.size)}, not {list(part.whole)}")
    error = None
    if wrong:
        error = CheckpointError(
            f"the checkpoint is of another model: {'; '.join(wrong[:3])}",
            expected="the names and shapes of this model",
            fix="build the model by the configuration it was saved with",
        )
    world.raise_together(error)

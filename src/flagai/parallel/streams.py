"""The random streams of all processes: who draws what, and how they are saved. Knows no model and no step.

Copies of a model draw dropout of their own. The processes of one tensor group must draw the same, since each computes
the same activations between the products that they share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor

from flagai.parallel.axes import PIPELINE, Axes

# Any odd number far from small ones: seeds that users choose are small and lie side by side.
_APART: Final = 0x9E3779B97F4A7C15


def begin_own(axes: Axes) -> None:
    """From the seed that all processes share, the seed of this one's place."""
    place = axes.data_axis[0] * axes.sizes.pipeline + axes.index(PIPELINE)
    if place:
        torch.manual_seed((torch.initial_seed() + _APART * place) % 2**63)


def collect(device: torch.device) -> dict[str, Tensor]:
    """The streams of all processes, on each of them; those of the first are named as one process names its own."""
    there: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(there, _mine(device))
    return {_name(kind, rank): value for rank, streams in enumerate(there) for kind, value in streams.items()}


def restore(saved: Mapping[str, Tensor], axes: Axes) -> None:
    """This process's streams, where processes in places like these saved theirs; else new ones from the first one."""
    if not _fit(saved, axes):
        torch.set_rng_state(saved["cpu"])
        torch.manual_seed(int(torch.randint(2**62, ())))
        begin_own(axes)
        return
    torch.set_rng_state(saved[_name("cpu", dist.get_rank())])
    if axes.device.type == "cuda" and (state := saved.get(_name("cuda", dist.get_rank()))) is not None:
        torch.cuda.set_rng_state(state, axes.device)


def _fit(saved: Mapping[str, Tensor], axes: Axes) -> bool:
    """Whether the streams are of as many processes, and the same ones drew alike: two copies are no tensor group."""
    if sum(name.partition("/")[0] == "cpu" for name in saved) != dist.get_world_size():
        return False
    kind = "cuda" if "cuda" in saved else "cpu"
    ranks = axes.mesh.mesh.permute(1, 2, 0, 3, 4).flatten(0, 2).flatten(1).tolist()
    drawn = [{saved[_name(kind, rank)].numpy().tobytes() for rank in alike} for alike in ranks]
    return all(len(streams) == 1 for streams in drawn) and len(set.union(*drawn)) == len(drawn)


def _name(kind: str, rank: int) -> str:
    return kind if rank == 0 else f"{kind}/{rank}"


def _mine(device: torch.device) -> dict[str, Tensor]:
    streams = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        streams["cuda"] = torch.cuda.get_rng_state(device)
    return streams

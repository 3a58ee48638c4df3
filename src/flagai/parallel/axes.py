"""The processes of a run as a grid: stages × replicas × shards × tokens × tensor parts. Knows no model and no step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from flagai.errors import ConfigError
from flagai.parallel import world

PIPELINE, REPLICATE, SHARD, CONTEXT, TENSOR = AXES = ("pipeline", "replicate", "shard", "context", "tensor")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How many processes stand along each axis; the product is the number of all.

    Args:
        pipeline: stages that a model is cut into.
        replicate: copies of a model (or of its shards) that learn from different examples.
        shard: processes that share the parameters of one copy, and learn from different examples.
        context: processes that share the tokens of each example.
        tensor: processes that share each matrix product, and see the same examples.
    """

    pipeline: int = 1
    replicate: int = 1
    shard: int = 1
    context: int = 1
    tensor: int = 1

    @property
    def total(self) -> int:
        """All processes."""
        return math.prod(self.tuple)

    @property
    def tuple(self) -> tuple[int, int, int, int, int]:
        """In the order of `AXES`: neighbours in `tensor`, which talk most, are neighbours on a machine."""
        return self.pipeline, self.replicate, self.shard, self.context, self.tensor


class Axes:
    """The place of this process in the grid, and the groups it talks to.

    Raises:
        ConfigError: the sizes do not make up the processes there are.
    """

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        there = dist.get_world_size()
        if sizes.total != there:
            stated = " × ".join(f"{name} {n}" for name, n in zip(AXES, sizes.tuple, strict=True) if n > 1) or "one"
            raise ConfigError(
                f"{stated} makes {sizes.total} processes, but {there} were started",
                where="parallel",
                expected="a product equal to the number of processes",
                fix=f"start {sizes.total} processes, or change parallel.tensor, parallel.pipeline or parallel.context",
            )
        self.sizes, self.device = sizes, device
        self.mesh: DeviceMesh = init_device_mesh(device.type, sizes.tuple, mesh_dim_names=AXES)
        self._ways: dict[str, Any] = {}
        self._across: dict[tuple[int, ...], Any] = {}
        self.data: Any = self._copy(REPLICATE, SHARD) if sizes.replicate * sizes.shard > 1 else None

    def index(self, axis: str) -> int:
        """The coordinate of this process along an axis."""
        return self.mesh.get_local_rank(axis)

    def size(self, axis: str) -> int:
        """How many processes stand along an axis."""
        return self.sizes.tuple[AXES.index(axis)]

    def group(self, axis: str) -> Any:
        """The process group along an axis."""
        return self.mesh.get_group(axis)

    @property
    def data_axis(self) -> tuple[int, int]:
        """(index, count) of the examples: along replicas and shards."""
        return self.index(REPLICATE) * self.sizes.shard + self.index(SHARD), self.sizes.replicate * self.sizes.shard

    @property
    def speaks(self) -> bool:
        """Whether this process stands for those with the same examples when numbers are summed over all processes."""
        return self.index(TENSOR) == 0 and self.index(CONTEXT) == 0

    @property
    def is_last_stage(self) -> bool:
        """Whether the loss is computed here."""
        return self.index(PIPELINE) == self.sizes.pipeline - 1

    def rank_of(self, stage: int) -> int:
        """The global rank of the process at my place in another stage."""
        place = list(self.mesh.get_coordinate() or ())
        place[0] = stage
        return int(self.mesh.mesh[tuple(place)])

    def way(self, name: str) -> Any:
        """A group along the stages for messages of one kind; all processes ask for the same ones, in the same order.

        Pipelines send forward and backward at once: with one group a pair of processes could wait for one another.
        """
        if name not in self._ways:
            self._ways[name] = self._copy(PIPELINE)
        return self._ways[name]

    def across(self, stages: tuple[int, ...]) -> Any:
        """The group of some stages at my place in them; None outside. All processes call it, in the same order."""
        if stages not in self._across:
            self._across[stages] = _new_groups(self.mesh.mesh[list(stages)].flatten(1).T.tolist())
        return self._across[stages]

    def _copy(self, *axes: str) -> Any:
        """A new group along axes; all processes make all of them, in the same order."""
        kept = [AXES.index(axis) for axis in axes]
        others = [i for i in range(len(AXES)) if i not in kept]
        grid = self.mesh.mesh
        size = math.prod(grid.shape[i] for i in kept)
        return _new_groups(grid.permute(*others, *kept).reshape(-1, size).tolist())


def axes_of(sizes: Sizes, device: torch.device) -> Axes:
    """The grid of these sizes in the present world, made once; the first call is collective."""
    return world.once((sizes, device.type), lambda: Axes(sizes, device))


def _new_groups(rows: list[list[int]]) -> Any:
    """A group for each row of ranks; gives mine."""
    mine = None
    for ranks in rows:
        group = dist.new_group(ranks)
        mine = group if dist.get_rank() in ranks else mine
    return mine

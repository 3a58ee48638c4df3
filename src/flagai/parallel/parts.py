"""Which part of a saved tensor a process holds: boxes of numbers, in the layout of the single-device model.

It knows parameters and how they are kept; no optimizer, no file. What one layout saves by parts, any other can read by
its own parts: nobody ever needs a whole tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from flagai.models.plan import Kept
from flagai.parallel.axes import CONTEXT, REPLICATE, SHARD, TENSOR, Axes


@dataclass(frozen=True, slots=True)
class Box:
    """A part of a saved tensor: where it begins and how far it goes, along each dimension."""

    offset: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def slices(self) -> tuple[slice, ...]:
        """To cut it out of the whole."""
        return tuple(slice(a, a + n) for a, n in zip(self.offset, self.shape, strict=True))


@dataclass(frozen=True, slots=True)
class Part:
    """Numbers of one tensor, ready to be saved.

    Args:
        name: the parameter's, as the single-device model has it.
        key: "" for the parameter itself, else the name of a moment.
        whole: the shape of the whole saved tensor.
        box: which part this is.
        tensor: the numbers, on this process's device.
    """

    name: str
    key: str
    whole: tuple[int, ...]
    box: Box
    tensor: Tensor


Read = Callable[[str, str, Box], Tensor]
"""(name, key, box) → the numbers of a saved tensor there; key as in `Part`"""

Entries = Mapping[str, Mapping[str, tuple[int, ...]]]
"""parameter → key of a moment → shape of the whole saved tensor"""

MASTER: Final = "master"
"""the key of weights in fp32, where the model itself is kept in fewer bits"""


_AS_IS: Final = Kept()


def whole_box(shape: Sequence[int]) -> Box:
    """The box that is all of a tensor."""
    return Box((0,) * len(shape), tuple(shape))


def whole_part(name: str, key: str, tensor: Tensor) -> Part:
    """A tensor that lies here undivided, and as it is saved."""
    return Part(name, key, tuple(tensor.shape), whole_box(tensor.shape), tensor.detach())


def saved_names(model: nn.Module) -> list[str]:
    """Parameters and saved buffers of a single-device model, each once."""
    saved = model.state_dict().keys()
    return [n for n, _ in model.named_parameters()] + [n for n, _ in model.named_buffers() if n in saved]


def saved_shape(tensor: Tensor, kept: Kept) -> tuple[int, ...]:
    """The shape of a tensor in the single-device model."""
    return tuple(reversed(tensor.shape)) if kept.transposed else tuple(tensor.shape)


def here(tensor: Tensor, kept: Kept = _AS_IS) -> Iterator[tuple[Box, Box]]:
    """(box of the saved tensor, box of the local one that holds it): what lies on this process.

    A local part of fused layers comes from several places of the saved tensor, hence several pairs.
    """
    shape, offset = _local(tensor)
    if any(n == 0 for n in shape):
        return
    if not shape:
        yield Box((), ()), Box((), ())
        return
    for saved_row, row, rows in _runs(offset[0], shape[0], tensor.shape[0], kept):
        local = Box((row - offset[0], *(0 for _ in shape[1:])), (rows, *shape[1:]))
        there = Box((saved_row, *offset[1:]), local.shape)
        if kept.transposed:
            there = Box(there.offset[::-1], there.shape[::-1])
        yield there, local


def _local(tensor: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if not isinstance(tensor, DTensor):
        return tuple(tensor.shape), (0,) * tensor.dim()
    shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return tuple(shape), tuple(offset)


def _runs(first: int, count: int, total: int, kept: Kept) -> Iterator[tuple[int, int, int]]:
    """(first saved row, first row as kept, rows) of the pieces of [first, first + count) that stay together."""
    if kept.groups == 1:
        yield first, first, count
        return
    size = total // (kept.groups * kept.parts)
    row, end = first, first + count
    while row < end:
        part, group = divmod(row // size, kept.groups)
        stop = min(end, (row // size + 1) * size)
        yield (group * kept.parts + part) * size + row % size, row, stop - row
        row = stop


def is_owner(tensor: Tensor, axes: Axes) -> bool:
    """Whether, of all processes of its stage that hold the same numbers, this one speaks for them."""
    return all(axes.index(axis) == 0 for axis in _copied(tensor))


def copies(tensor: Tensor, axes: Axes) -> int:
    """How many processes of its stage hold the same numbers as this one."""
    return math.prod(axes.size(axis) for axis in _copied(tensor))


def _copied(tensor: Tensor) -> list[str]:
    """The axes along which processes hold the same numbers."""
    cut: set[str] = set()
    if isinstance(tensor, DTensor):
        names = tensor.device_mesh.mesh_dim_names or ()
        cut = {name for name, placement in zip(names, tensor.placements, strict=True) if not placement.is_replicate()}
    return [axis for axis in (REPLICATE, SHARD, CONTEXT, TENSOR) if axis not in cut]

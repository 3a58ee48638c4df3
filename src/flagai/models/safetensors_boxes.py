"""Parts of tensors, written and read in place in safetensors files that several processes share.

It knows boxes of numbers and byte ranges; nothing of models, folders or processes.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flagai.errors import CheckpointError
from flagai.models.safetensors_file import NAMES, safetensors_entries

if TYPE_CHECKING:
    import torch

_AT_ONCE: Final = 1 << 30
"""bytes of one system call: Linux writes less than 2 GiB at a time"""


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a tensor lies in its file: dtype as in "F32", whole shape, first byte in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int

    @property
    def width(self) -> int:
        """Bytes of one number."""
        return torch_dtype(self.dtype).itemsize

    @property
    def size(self) -> int:
        """Bytes of the whole tensor."""
        return prod(self.shape) * self.width


def torch_dtype(name: str) -> torch.dtype:
    """The dtype that a header calls "F32", "BF16", …. Errors: `CheckpointError` for one that nothing here writes."""
    import torch

    for ours, theirs in NAMES.items():
        if theirs == name:
            return getattr(torch, ours.removeprefix("torch."))
    raise CheckpointError(f"tensors of {name}", expected=f"one of: {', '.join(NAMES.values())}")


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype in a header."""
    return NAMES[str(dtype)]


def arrange(entries: Mapping[str, tuple[Sequence[int], str]]) -> tuple[bytes, dict[str, Slot], int]:
    """The beginning of a file that holds these tensors, where each will lie, and the size of the whole file.

    Args:
        entries: name → (shape, dtype as in "F32"), in the order of the file.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (shape, dtype) in entries.items():
        size = prod(shape) * torch_dtype(dtype).itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    first = 8 + len(text)
    slots = {
        name: Slot(dtype, tuple(shape), first + header[name]["data_offsets"][0])
        for name, (shape, dtype) in entries.items()
    }
    return len(text).to_bytes(8, "little") + text, slots, first + at


def reserve(file: Path, beginning: bytes, size: int) -> None:
    """Make a file of its final size with its header; the numbers are zeros until they are written."""
    with open(file, "wb") as handle:
        handle.write(beginning)
        handle.truncate(size)


def slots_in(file: Path) -> dict[str, Slot]:
    """Where the tensors of an existing file lie. Errors: those of `safetensors_entries`."""
    entries = safetensors_entries(file)
    with open(file, "rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        header = json.loads(handle.read(length))
    first = 8 + length
    return {
        name: Slot(dtype, shape, first + header[name]["data_offsets"][0]) for name, (shape, dtype) in entries.items()
    }


def write_box(handle: int, slot: Slot, offset: Sequence[int], tensor: torch.Tensor) -> None:
    """Put numbers into the part of a tensor that begins at `offset` and has the shape of `tensor`.

    Args:
        handle: a file descriptor open for writing.
    Errors: OSError as it comes (a full disk).
    """
    import torch

    if not tensor.numel():
        return
    dense = tensor.detach().to("cpu", torch_dtype(slot.dtype)).contiguous().flatten().view(torch.uint8)
    data: memoryview = dense.numpy().data
    done = 0
    for begin, size in _runs(slot, offset, tuple(tensor.shape)):
        _write(handle, data[done : done + size], begin)
        done += size


def read_box(handle: int, slot: Slot, offset: Sequence[int], shape: Sequence[int]) -> torch.Tensor:
    """The numbers of a part of a tensor, in the dtype of the file, on the CPU.

    Errors: `CheckpointError` where the file ends too early.
    """
    import torch

    found = torch.empty(tuple(shape), dtype=torch_dtype(slot.dtype))
    if not found.numel():
        return found
    data: memoryview = found.flatten().view(torch.uint8).numpy().data
    done = 0
    for begin, size in _runs(slot, offset, tuple(shape)):
        _read(handle, data[done : done + size], begin)
        done += size
    return found


def _runs(slot: Slot, offset: Sequence[int], shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """(first byte in the file, bytes) of the stretches that a box is made of, in the order of its numbers."""
    whole, dims = slot.shape, len(slot.shape)
    while dims > 1 and shape[dims - 1] == whole[dims - 1]:
        dims -= 1
    outer, size = max(dims - 1, 0), prod(shape[max(dims - 1, 0) :]) * slot.width
    strides = [prod(whole[dim + 1 :]) * slot.width for dim in range(len(whole))]
    first = slot.begin + sum(a * stride for a, stride in zip(offset, strides, strict=True))
    for place in product(*(range(n) for n in shape[:outer])):
        yield first + sum(i * stride for i, stride in zip(place, strides[:outer], strict=True)), size


def _write(handle: int, data: memoryview, begin: int) -> None:
    done = 0
    while done < len(data):
        written = os.pwrite(handle, data[done : done + _AT_ONCE], begin + done)
        if not written:
            raise OSError(errno.ENOSPC, "nothing more can be written")
        done += written


def _read(handle: int, data: memoryview, begin: int) -> None:
    done = 0
    while done < len(data):
        found = os.preadv(handle, [data[done : done + _AT_ONCE]], begin + done)
        if not found:
            raise CheckpointError("the file ends before its last tensor", fix="copy or download the file again")
        done += found

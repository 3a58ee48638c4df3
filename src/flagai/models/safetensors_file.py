"""One safetensors file: its header checked against itself and the file's size, then its tensors.

It knows nothing of models or folders.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flagai.errors import CheckpointError

if TYPE_CHECKING:
    import torch

_SIZES: Final = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "BOOL"), 1),
}
_MOST_HEADER: Final = 100 << 20


def safetensors_header(file: Path) -> dict[str, tuple[int, ...]]:
    """Name → shape of a safetensors file, after checking the header against itself and against the file's size.

    Layout: 8 bytes little-endian length, a JSON header, the data (the safetensors format description).
    """
    size = file.stat().st_size
    with open(file, "rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if size < 8 or length > min(size - 8, _MOST_HEADER):
            raise _cut_off(file, f"the file has {size:,} bytes, too few for its own header")
        try:
            header = json.loads(handle.read(length))
            header.pop("__metadata__", None)
            shapes = {name: _entry_shape(name, entry, file) for name, entry in header.items()}
            ends = [int(entry["data_offsets"][1]) for entry in header.values()]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise _cut_off(file, f"the header is no list of tensors ({error})") from error
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise _cut_off(file, f"the file has {size:,} bytes, its header promises {expected:,}")
    return shapes


def _entry_shape(name: str, entry: Mapping[str, Any], file: Path) -> tuple[int, ...]:
    shape = tuple(int(n) for n in entry["shape"])
    begin, end = entry["data_offsets"]
    width = _SIZES.get(entry["dtype"])
    if width is not None and prod(shape) * width != end - begin:
        raise CheckpointError(
            f"the tensor {name!r} has the shape {list(shape)} of {entry['dtype']} but {end - begin:,} bytes",
            fix="copy or download the file again",
            where=str(file),
        )
    return shape


def _cut_off(file: Path, found: str) -> CheckpointError:
    return CheckpointError(
        f"{found}: it is cut off or damaged",
        expected="a whole safetensors file",
        fix="copy or download the file again",
        where=str(file),
    )


def read_safetensors(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of one safetensors file, its size checked first. Errors: `CheckpointError`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    safetensors_header(file)
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise _cut_off(file, str(error)) from error

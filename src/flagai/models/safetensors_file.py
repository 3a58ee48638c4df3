"""One safetensors file: its header checked against itself and the file's size, its tensors; or written as they come.

It knows nothing of models or folders.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
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
NAMES: Final = {
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.float64": "F64",
    **{f"torch.int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
    "torch.uint8": "U8",
    "torch.bool": "BOOL",
}
"""the names of dtypes in a header"""
_MOST_HEADER: Final = 100 << 20


def safetensors_header(file: Path) -> dict[str, tuple[int, ...]]:
    """Name → shape of a safetensors file, after checking the header against itself and against the file's size."""
    return {name: shape for name, (shape, _) in safetensors_entries(file).items()}


def safetensors_entries(file: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name → (shape, dtype as in "F16"), checked as by `safetensors_header`.

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
            entries = {name: (_entry_shape(name, entry, file), entry["dtype"]) for name, entry in header.items()}
            ends = [int(entry["data_offsets"][1]) for entry in header.values()]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise _cut_off(file, f"the header is no list of tensors ({error})") from error
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise _cut_off(file, f"the file has {size:,} bytes, its header promises {expected:,}")
    return entries


def _entry_shape(name: str, entry: Mapping[str, Any], file: Path) -> tuple[int, ...]:
    shape = tuple(int(n) for n in entry["shape"])
    begin, end = entry["data_offsets"]
    if not (isinstance(begin, int) and isinstance(end, int) and 0 <= begin <= end) or min(shape, default=0) < 0:
        raise ValueError(f"{name!r} lies at {begin!r} to {end!r}, with the shape {list(shape)}")
    width = _SIZES.get(entry["dtype"])
    if width is not None and prod(shape) * width != end - begin:
        raise CheckpointError(
            f"the tensor {name!r} has the shape {list(shape)} of {entry['dtype']} but {end - begin:,} bytes",
            fix="copy or download the file again",
            where=str(file),
        )
    return shape


def read_tensor(file: Path, name: str) -> torch.Tensor:
    """One tensor of a file whose header was checked; nothing else of the file is read or kept mapped for longer."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            return opened.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise _cut_off(file, str(error)) from error


def write_safetensors(
    file: Path, entries: Mapping[str, tuple[tuple[int, ...], torch.dtype]], tensors: Iterable[torch.Tensor]
) -> None:
    """Write a file tensor by tensor, in the order of `entries`: no more than one is in memory.

    Errors: OSError as it comes; the file is unusable then.
    """
    import torch

    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (shape, dtype) in entries.items():
        size = prod(shape) * dtype.itemsize
        header[name] = {"dtype": NAMES[str(dtype)], "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with open(file, "wb") as handle:
        handle.write(len(text).to_bytes(8, "little") + text)
        for (shape, dtype), tensor in zip(entries.values(), tensors, strict=True):
            assert tuple(tensor.shape) == tuple(shape) and tensor.dtype == dtype, "the header promised something else"
            handle.write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


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

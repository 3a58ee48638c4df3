"""Boxes in safetensors files: what is written in pieces is what was meant, and other programs read it."""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from flagai.errors import CheckpointError
from flagai.models import safetensors_boxes as boxes

SHAPES: dict[str, tuple[tuple[int, ...], str]] = {
    "matrix": ((7, 5), "F32"),
    "half": ((4, 3, 6), "BF16"),
    "vector": ((9,), "F16"),
    "number": ((), "I64"),
    "nothing": ((0, 4), "F32"),
}


def cut(shape: tuple[int, ...], draw: np.random.Generator) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(offset, size) of boxes that make up a shape once."""
    found: list[tuple[tuple[int, ...], tuple[int, ...]]] = [((), ())]
    for n in shape:
        at = sorted({0, n, *draw.integers(0, n + 1, 2).tolist()})
        pieces = list(pairwise(at)) or [(0, n)]
        found = [((*o, a), (*s, b - a)) for o, s in found for a, b in pieces]
    return found


@pytest.mark.parametrize("seed", range(8))
def test_pieces_make_up_a_file(tmp_path: Path, seed: int) -> None:
    draw = np.random.default_rng(seed)
    torch.manual_seed(seed)
    whole = {n: (torch.randn(shape) * 50).to(boxes.torch_dtype(kind)) for n, (shape, kind) in SHAPES.items()}
    beginning, slots, size = boxes.arrange(SHAPES)
    file = tmp_path / "x.safetensors"
    boxes.reserve(file, beginning, size)
    assert file.stat().st_size == size
    handle = os.open(file, os.O_RDWR)
    try:
        for name, tensor in whole.items():
            for offset, shape in cut(tuple(tensor.shape), draw):
                place = tuple(slice(a, a + n) for a, n in zip(offset, shape, strict=True))
                boxes.write_box(handle, slots[name], offset, tensor[place])
        for name, tensor in whole.items():
            for offset, shape in cut(tuple(tensor.shape), draw):
                place = tuple(slice(a, a + n) for a, n in zip(offset, shape, strict=True))
                assert torch.equal(boxes.read_box(handle, slots[name], offset, shape), tensor[place])
    finally:
        os.close(handle)
    found = load_file(file)
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())
    assert boxes.slots_in(file) == slots


def test_files_of_others_are_read_by_parts(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(24.0).view(4, 6), "b": torch.arange(6).view(3, 2)}
    save_file(tensors, tmp_path / "x.safetensors")
    slots = boxes.slots_in(tmp_path / "x.safetensors")
    handle = os.open(tmp_path / "x.safetensors", os.O_RDONLY)
    try:
        assert torch.equal(boxes.read_box(handle, slots["a"], (1, 2), (2, 3)), tensors["a"][1:3, 2:5])
        assert torch.equal(boxes.read_box(handle, slots["b"], (0, 1), (3, 1)), tensors["b"][:, 1:])
    finally:
        os.close(handle)


def test_writing_takes_numbers_in_other_dtypes_and_orders(tmp_path: Path) -> None:
    beginning, slots, size = boxes.arrange({"x": ((3, 4), "BF16")})
    file = tmp_path / "x.safetensors"
    boxes.reserve(file, beginning, size)
    turned = torch.randn(4, 3).t()
    handle = os.open(file, os.O_WRONLY)
    boxes.write_box(handle, slots["x"], (0, 0), turned)
    os.close(handle)
    assert torch.equal(load_file(file)["x"], turned.bfloat16())


def test_many_small_system_calls_are_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may write less than it is given."""
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda handle, data, at: pwrite(handle, data[:5], at))
    beginning, slots, size = boxes.arrange({"x": ((10,), "F32")})
    boxes.reserve(tmp_path / "x.safetensors", beginning, size)
    handle = os.open(tmp_path / "x.safetensors", os.O_WRONLY)
    boxes.write_box(handle, slots["x"], (0,), torch.arange(10.0))
    os.close(handle)
    assert torch.equal(load_file(tmp_path / "x.safetensors")["x"], torch.arange(10.0))


def test_a_file_that_ends_too_early(tmp_path: Path) -> None:
    save_file({"x": torch.arange(100.0)}, tmp_path / "x.safetensors")
    slots = boxes.slots_in(tmp_path / "x.safetensors")
    with (tmp_path / "x.safetensors").open("r+b") as file:
        file.truncate(200)
    handle = os.open(tmp_path / "x.safetensors", os.O_RDONLY)
    with pytest.raises(CheckpointError, match="ends before"):
        boxes.read_box(handle, slots["x"], (0,), (100,))
    os.close(handle)
    with pytest.raises(CheckpointError, match="header promises"):
        boxes.slots_in(tmp_path / "x.safetensors")


def test_dtypes_that_nothing_writes() -> None:
    with pytest.raises(CheckpointError, match="F8_E4M3"):
        boxes.torch_dtype("F8_E4M3")
    assert boxes.dtype_name(torch.bfloat16) == "BF16"


@pytest.mark.parametrize(
    ("shape", "offsets"), [([2], [-8, 0]), ([-1, -2], [0, 8]), ([2], [0.0, 8.0]), ([0], [8, 8]), ([2], [8, 0])]
)
def test_a_header_that_points_elsewhere(tmp_path: Path, shape: list[int], offsets: list[float]) -> None:
    header = json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}).encode()
    data = len(header).to_bytes(8, "little") + header + bytes(8 if offsets != [-8, 0] else 0)
    (tmp_path / "x.safetensors").write_bytes(data)
    if offsets == [8, 8]:
        assert boxes.slots_in(tmp_path / "x.safetensors")["x"].size == 0
        return
    with pytest.raises(CheckpointError):
        boxes.slots_in(tmp_path / "x.safetensors")

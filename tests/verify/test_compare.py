"""What differs between two runs is found, and what may differ is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from flagai.verify.compare import by_place, compare_rows, compare_weights, missing_rows

ROW = {"kind": "train", "step": 3, "loss": 0.5, "grad_norm": 1.0, "tokens_per_second": 10.0}


def test_lines_that_are_equal_but_for_speed() -> None:
    expected = by_place([ROW, {**ROW, "step": 4}])
    found = by_place([{**ROW, "tokens_per_second": 99.0, "memory": 3}])
    assert compare_rows(expected, found) == []
    assert [d.where for d in missing_rows(expected, found)] == ["log.jsonl, train at step 4"]


@pytest.mark.parametrize("change", [{"loss": 0.5000000000000001}, {"grad_norm": None}, {"extra": 1}, {"step": 5}])
def test_lines_that_differ(change: dict[str, object]) -> None:
    [found] = compare_rows(by_place([ROW]), by_place([{**ROW, **change}]))
    assert next(iter(change)) in found.where or "step 5" in found.where


def files(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_weights_are_compared_bit_by_bit(tmp_path: Path) -> None:
    nan = torch.tensor([float("nan"), 1.0])
    one = files(tmp_path / "a", {"w": nan, "v": torch.ones(2, dtype=torch.bfloat16)})
    same = files(tmp_path / "b", {"w": nan.clone(), "v": torch.ones(2, dtype=torch.bfloat16)})
    assert compare_weights(one, same) == (2, [])
    minus = files(tmp_path / "c", {"w": nan.clone(), "v": torch.tensor([1.0, 1.0078125], dtype=torch.bfloat16)})
    number, [different] = compare_weights(one, minus)
    assert number == 2 and different.where == "model.safetensors: v" and "7.8e-03 apart" in different.found
    zero, other = files(tmp_path / "d", {"w": torch.zeros(1)}), files(tmp_path / "e", {"w": -torch.zeros(1)})
    assert len(compare_weights(zero, other)[1]) == 1, "minus zero is another number of bits"


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    one = files(tmp_path / "a", {"w": torch.ones(2), "v": torch.ones(1)})
    less = files(tmp_path / "b", {"w": torch.ones(2)})
    wide = files(tmp_path / "c", {"w": torch.ones(3), "v": torch.ones(1)})
    (tmp_path / "d").mkdir()
    assert [(d.where, d.expected, d.found) for d in compare_weights(one, less)[1]] == [
        ("model.safetensors: v", "a tensor", "none")
    ]
    assert "(3,)" in compare_weights(one, wide)[1][0].found
    assert compare_weights(one, tmp_path / "d")[1][0].found == "no such file"
    assert compare_weights(tmp_path / "d", one)[1][0].found == "a file"

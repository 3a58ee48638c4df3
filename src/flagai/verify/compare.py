"""Two runs on disk, held against one another: every line of the logs and every bit of the weights. Knows no loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from flagai.train.files import sha256

Row = Mapping[str, Any]
Place = tuple[str, int]
"""(kind, step) of a line of a log"""

MEASURED: Final = ("_per_second", "seconds", "memory")
"""how the keys end that hold times and speeds, which differ from run to run"""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Something that should be equal and is not.

    Args:
        where: a line of the log or a file, with the name of the value.
        expected: that of the undisturbed run.
        found: that of the other.
    """

    where: str
    expected: str
    found: str


def by_place(rows: Iterable[Row]) -> dict[Place, Row]:
    """The lines of a log by what they are about."""
    return {(row["kind"], row["step"]): row for row in rows}


def compare_rows(expected: Mapping[Place, Row], found: Mapping[Place, Row]) -> list[Difference]:
    """How lines that were found differ from those of the same place; lines that were not found say nothing."""
    told: list[Difference] = []
    for place, row in found.items():
        name = f"log.jsonl, {place[0]} at step {place[1]}"
        if place not in expected:
            told.append(Difference(where=name, expected="no such line", found="a line"))
            continue
        keys = [key for key in {**expected[place], **row} if not key.endswith(MEASURED)]
        pairs = ((key, expected[place].get(key), row.get(key)) for key in keys)
        told += [Difference(where=f"{name}: {key}", expected=repr(a), found=repr(b)) for key, a, b in pairs if a != b]
    return told


def missing_rows(expected: Mapping[Place, Row], found: Mapping[Place, Row]) -> list[Difference]:
    """Lines that the undisturbed run has, and the other one lost."""
    lost = [place for place in expected if place not in found]
    return [
        Difference(where=f"log.jsonl, {kind} at step {step}", expected="a line", found="none") for kind, step in lost
    ]


def compare_weights(expected: Path, found: Path) -> tuple[int, list[Difference]]:
    """(tensors compared, those that differ in any bit) of the safetensors below two folders."""
    names = {str(p.relative_to(root)) for root in (expected, found) for p in root.rglob("*.safetensors")}
    number, told = 0, []
    for name in sorted(names):
        count, different = _compare_file(name, expected / name, found / name)
        number += count
        told += different
    return number, told


def _compare_file(name: str, expected: Path, found: Path) -> tuple[int, list[Difference]]:
    from safetensors import safe_open

    for path, words in ((expected, ("no such file", "a file")), (found, ("a file", "no such file"))):
        if not path.is_file():
            return 0, [Difference(where=name, expected=words[0], found=words[1])]
    with safe_open(expected, framework="pt") as file:
        keys = set(file.keys())
    if sha256(expected) == sha256(found):
        return len(keys), []
    return len(keys), _different_tensors(name, expected, found)


def _different_tensors(name: str, expected: Path, found: Path) -> list[Difference]:
    import torch
    from safetensors import safe_open

    told = []
    with safe_open(expected, framework="pt") as one, safe_open(found, framework="pt") as other:
        for key in sorted({*one.keys(), *other.keys()}):
            if key not in one.keys() or key not in other.keys():  # noqa: SIM118 - a safe_open is no mapping
                words = ("a tensor", "none") if key in one.keys() else ("none", "a tensor")  # noqa: SIM118
                told.append(Difference(where=f"{name}: {key}", expected=words[0], found=words[1]))
                continue
            a, b = one.get_tensor(key), other.get_tensor(key)
            if a.shape != b.shape or a.dtype != b.dtype:
                told.append(Difference(where=f"{name}: {key}", expected=_kind(a), found=_kind(b)))
            elif not torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8)):
                told.append(Difference(where=f"{name}: {key}", expected="equal bits", found=_apart(a, b)))
    return told or [Difference(where=name, expected="the same bytes", found="the same tensors in other bytes")]


def _kind(tensor: Any) -> str:
    return f"{tuple(tensor.shape)} of {tensor.dtype}"


def _apart(a: Any, b: Any) -> str:
    return f"up to {(a.double() - b.double()).abs().max().item():.1e} apart"

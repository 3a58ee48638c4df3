"""Which tensor of a run goes into which file: known to all processes before any of them writes. Knows no number."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Final

from torch import nn

from flagai.models.headed import HeadedModel
from flagai.models.safetensors_boxes import Slot, arrange, dtype_name, reserve, torch_dtype
from flagai.models.saved_form import KINDS, places
from flagai.parallel.company import Company
from flagai.parallel.parts import Part

STATE: Final = "train_state"
OPTIMIZER: Final = "optimizer"
MOST_WEIGHTS = 5 << 30
MOST_MOMENTS = 2 << 30
"""bytes of one file; a larger tensor has a file of its own"""

Known = tuple[str, str, tuple[int, ...], str]
"""name, key, whole shape and dtype of a tensor that is saved"""
Tensors = dict[str, tuple[tuple[int, ...], str]]
"""name in a file → shape, dtype"""
Wanted = Mapping[tuple[str, str], tuple[str, tuple[int, ...], str]]
"""(name, key) → name in a file, shape, dtype"""


def inventory(parts: Callable[[], Iterable[Part]], company: Company) -> list[Known]:
    """The tensors that all processes hold together, in one order on all of them; no part is kept."""
    told = company.together(
        lambda: list(dict.fromkeys((p.name, p.key, tuple(p.whole), dtype_name(p.tensor.dtype)) for p in parts()))
    )
    return list(dict.fromkeys(known for mine in told for known in mine))


@dataclass(frozen=True)
class Arrangement:
    """The files of a checkpoint that hold tensors, and where each tensor lies."""

    files: dict[str, tuple[bytes, int]]
    """path below the folder → (its beginning, its size)"""
    slots: dict[tuple[str, str], tuple[str, Slot]]
    """(name, key) of a tensor → (file, place in it); what the folder does not hold is left out"""
    indices: dict[str, str]
    """path → content of the indices of weights that lie in several files"""

    @classmethod
    def of(cls, known: Sequence[Known], model: nn.Module) -> Arrangement:
        """The files for some tensors of a model and its optimizer."""
        weights = [(name, shape, dtype) for name, key, shape, dtype in known if not key]
        where = places(model, [name for name, _, _ in weights])
        made = cls({}, {}, {})
        for kind in KINDS:
            mine = {(n, ""): (where[n].name, s, d) for n, s, d in weights if n in where and where[n].kind == kind}
            # A head without parameters has a file, too: that it is there means something.
            if mine or (kind == "head" and isinstance(model, HeadedModel)):
                made._add(kind, mine, MOST_WEIGHTS if kind == "model" else None)
        if moments := {(n, k): (f"{n}/{k}", s, d) for n, k, s, d in known if k}:
            made._add(f"{STATE}/{OPTIMIZER}", moments, MOST_MOMENTS)
        return made

    def _add(self, stem: str, wanted: Wanted, most: int | None) -> None:
        entries = {name: entry for entry, (name, _, _) in wanted.items()}
        files = _divide(stem, wanted, most)
        for file, tensors in files.items():
            beginning, slots, size = arrange(tensors)
            self.files[file] = (beginning, size)
            self.slots.update({entries[name]: (file, slot) for name, slot in slots.items()})
        if len(files) > 1 and "/" not in stem:
            self.indices[f"{stem}.safetensors.index.json"] = _index(files)

    def reserve(self, folder: Path) -> None:
        """Make all files, of their final sizes."""
        for name, (beginning, size) in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            reserve(folder / name, beginning, size)
        for name, content in self.indices.items():
            (folder / name).write_text(content, encoding="utf-8")

    def shares(self, count: int) -> list[list[str]]:
        """The files, cut into so many shares of about equal size: who hashes what."""
        shares: list[list[str]] = [[] for _ in range(count)]
        loads = [0] * count
        for name in sorted(self.files, key=lambda name: -self.files[name][1]):
            least = loads.index(min(loads))
            shares[least].append(name)
            loads[least] += self.files[name][1]
        return shares


def _divide(stem: str, wanted: Wanted, most: int | None) -> dict[str, Tensors]:
    """File → tensors; one file, or several of at most so many bytes."""
    groups: list[Tensors] = [{}]
    filled = 0
    for name, shape, dtype in wanted.values():
        size = _bytes(shape, dtype)
        if most is not None and filled and filled + size > most:
            groups.append({})
            filled = 0
        groups[-1][name] = (shape, dtype)
        filled += size
    if len(groups) == 1:
        return {f"{stem}.safetensors": groups[0]}
    return {f"{stem}-{i:05d}-of-{len(groups):05d}.safetensors": group for i, group in enumerate(groups, 1)}


def _index(found: Mapping[str, Tensors]) -> str:
    """As transformers writes it."""
    sizes = sum(_bytes(*entry) for tensors in found.values() for entry in tensors.values())
    table = {name: Path(file).name for file, tensors in found.items() for name in tensors}
    content = {"metadata": {"total_size": sizes}, "weight_map": dict(sorted(table.items()))}
    return json.dumps(content, indent=2) + "\n"


def _bytes(shape: Sequence[int], dtype: str) -> int:
    return prod(shape) * torch_dtype(dtype).itemsize

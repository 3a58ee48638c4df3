"""The tensors of a GLM's folder one at a time, whole or as any part of any number of parts, from any layout.

It knows files and names, no model class: what has been read is a copy, and the files are let go of again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from flagai.errors import CheckpointError
from flagai.models import pickles
from flagai.models.checkpoints import state_in
from flagai.models.glm.folders import GLMFolder, iterations
from flagai.models.glm.layouts import (
    Shape,
    bare_name,
    check_shapes,
    cut_of,
    expected_shapes,
    fused_name,
    is_head,
    listed,
    our_names,
    take,
    take_thirds,
    thirds_of,
    whole_shape,
)
from flagai.models.safetensors_file import read_tensor, safetensors_entries

_MAPPED: Final = (32 << 20, 1 << 30)
"""bytes of memory-mapped files that are read, at least and at most, before they are let go of and mapped anew: what
was read of them counts as memory of this process until then"""
_SHARE: Final = 64
"""of the whole between two such times; to map a file is to read its index"""
_DRIFT: Final = 0.02
"""how far copies of one vector may differ between shards, as a share of its largest number: ranks round differently"""
_DTYPES: Final = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
_STEPS: Final = ("iteration", "global_steps", "mp_world_size")


class TensorFile:
    """One file of weights: names, shapes and dtypes at once, tensors when asked for.

    A tensor that `read` gives may be a view of the mapped file and is to be copied before the file is closed.
    Errors: `CheckpointError` for a file that is damaged, unsafe, or holds no tensors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.states: dict[str, int] = {}
        """what the file says of the run that wrote it"""
        self.mapped = 0
        """bytes read since the file was opened"""
        self._state: dict[str, Tensor] | None = None
        if path.suffix == ".safetensors":
            self.entries = {name: (shape, _dtype(kind, path)) for name, (shape, kind) in _entries(path)}
        else:
            state = self._load()
            self.entries = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in state.items()}
            self.close()

    def read(self, name: str) -> Tensor:
        """One tensor by its name in the file."""
        if self.path.suffix == ".safetensors":
            return read_tensor(self.path, name)
        tensor = (self._state or self._load())[name]
        self.mapped += tensor.nbytes
        return tensor

    def close(self) -> None:
        """Let go of the file; the next `read` opens it again."""
        self._state, self.mapped = None, 0

    def _load(self) -> dict[str, Tensor]:
        found = pickles.load(self.path)
        if isinstance(found, Mapping):
            self.states = {name: found[name] for name in _STEPS if isinstance(found.get(name), int)}
        self._state = state_in(found, self.path)
        return self._state


def _entries(path: Path) -> Iterable[tuple[str, tuple[Shape, str]]]:
    return safetensors_entries(path).items()


def _dtype(kind: str, path: Path) -> torch.dtype:
    if kind not in _DTYPES:
        raise CheckpointError(f"the tensors are {kind}", expected=f"one of {', '.join(_DTYPES)}", where=str(path))
    return _DTYPES[kind]


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a tensor lies: for each shard the file and the name of the whole, or of query, key and value."""

    shards: tuple[tuple[tuple[TensorFile, str], ...], ...]


class Source:
    """All tensors of a GLM's folder under published names, whatever its layout; fused ones are one tensor.

    Everything that headers can tell is checked here: that every shard and every tensor is there, that they fit one
    another, and that they are of one moment of training.

    Args:
        found: from `find_glm`.
        heads: whether tensors of classifiers are wanted; else they are listed in `left_out`.

    Errors: `CheckpointError` listing what is missing, left over, of another shape or of another step.
    """

    def __init__(self, found: GLMFolder, *, heads: bool = True) -> None:
        self.found = found
        self.left_out: tuple[str, ...] = ()
        where = str(found.folder)
        self._files = tuple(TensorFile(file) for file in found.files)
        if found.ranks > 1:
            _check_same_step(self._files, where)
        self._places = self._find(where)
        self.shapes = {name: self._whole_shape(name) for name in self._places}
        _check_number(self.shapes, self._files, found)
        self.sizes = check_shapes(self.shapes, where=where)
        self.dtypes = {name: self._dtype(name) for name in self._places}
        if not heads:
            self.left_out = tuple(name for name in self._places if is_head(name))
        if found.ranks > 1:
            self._check_copies(where)
        kept = [*expected_shapes(self.sizes), *(name for name in self._places if is_head(name) and heads)]
        self.names: tuple[str, ...] = tuple(self._by_file(kept))
        """published names, in an order that opens each file once"""
        self.num_bytes = sum(torch.Size(self.shapes[n]).numel() * self.dtypes[n].itemsize for n in self.names)
        """of all tensors, as they are stored"""

    @property
    def iteration(self) -> int:
        """The step of training the folder is of, 0 where it does not say."""
        states = self._files[0].states
        return states.get("iteration", states.get("global_steps", 0))

    def our_shapes(self) -> dict[str, Shape]:
        """The shapes of the whole tensors under the names of our model."""
        shapes: dict[str, Shape] = {}
        for name in self.names:
            ours = our_names(name)
            rows, *rest = self.shapes[name]
            shapes |= dict.fromkeys(ours, (rows // len(ours), *rest))
        return shapes

    def read(self, name: str, rank: int = 0, ranks: int = 1) -> Tensor:
        """Part `rank` of `ranks` of a tensor by its published name, a copy on the CPU; query, key and value as one."""
        parts = self.read_parts(name, rank, ranks)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def read_parts(self, name: str, rank: int = 0, ranks: int = 1) -> tuple[Tensor, ...]:
        """As `read`, but query, key and value apart, each with memory of its own."""
        shards = [[file.read(key) for file, key in shard] for shard in self._places[name].shards]
        self._let_go(name)
        if (cut := cut_of(name)) == "thirds":
            thirds = [shard if len(shard) == 3 else thirds_of(shard[0]) for shard in shards]
            return take_thirds(thirds, rank, ranks)
        return (take([shard[0] for shard in shards], cut, rank, ranks),)

    def close(self) -> None:
        """Let go of all files."""
        for file in self._files:
            file.close()

    def _let_go(self, name: str) -> None:
        """Close what the tensor just read does not come from, and everything once enough of it was read.

        Tensors that are in use keep their file mapped by themselves.
        """
        used = {id(file) for shard in self._places[name].shards for file, _ in shard}
        least, most = _MAPPED
        full = sum(file.mapped for file in self._files) > min(max(self.num_bytes // _SHARE, least), most)
        for file in self._files:
            if full or id(file) not in used:
                file.close()

    def _find(self, where: str) -> dict[str, _Place]:
        if self.found.ranks == 1:
            return {name: _Place(shards=(shard,)) for name, shard in _placed(self._files, where).items()}
        each = [_placed((file,), str(file.path)) for file in self._files]
        names = set().union(*each)
        for file, placed in zip(self._files, each, strict=True):
            if missing := sorted(names - placed.keys()):
                raise CheckpointError(
                    f"{len(missing)} tensors are missing that other shards have: {listed(missing)}",
                    expected="shards of one model",
                    fix="copy or download all shards again",
                    where=str(file.path),
                )
        return {name: _Place(shards=tuple(placed[name] for placed in each)) for name in each[0]}

    def _check_copies(self, where: str) -> None:
        """What every shard holds whole must be the same thing in all of them, up to rounding."""
        for name in (name for name in self.shapes if cut_of(name) == "whole"):
            first, *others = [file.read(key).float() for ((file, key),) in self._places[name].shards]
            bound = _DRIFT * float(first.abs().max()) + 1e-6
            if any(float((first - other).abs().max()) > bound for other in others):
                raise CheckpointError(
                    f"{name} differs between the shards",
                    expected="shards of one model",
                    fix="copy or download all shards of one checkpoint",
                    where=where,
                )
        self.close()

    def _by_file(self, names: list[str]) -> list[str]:
        order = {id(file): number for number, file in enumerate(self._files)}
        return sorted(names, key=lambda name: order[id(self._places[name].shards[0][0][0])])

    def _whole_shape(self, name: str) -> Shape:
        shards = self._places[name].shards
        shapes = [_shape(shard) for shard in shards]
        if len(set(shapes)) > 1:
            told = ", ".join(
                f"{shard[0][0].path.name} {list(shape)}" for shard, shape in zip(shards, shapes, strict=True)
            )
            raise CheckpointError(
                f"{name} differs in size between shards: {told}",
                expected="equal parts of one model",
                fix="copy or download all shards of one checkpoint",
                where=str(self.found.folder),
            )
        return whole_shape(shapes[0], cut_of(name), len(shards))

    def _dtype(self, name: str) -> torch.dtype:
        kinds = {file.entries[key][1] for shard in self._places[name].shards for file, key in shard}
        if len(kinds) > 1 or not next(iter(kinds)).is_floating_point:
            raise CheckpointError(
                f"{name} is stored as {', '.join(sorted(map(str, kinds)))}",
                expected="one floating-point type",
                fix="copy or download all shards of one checkpoint",
                where=str(self.found.folder),
            )
        return kinds.pop()


def _placed(files: Iterable[TensorFile], where: str) -> dict[str, tuple[tuple[TensorFile, str], ...]]:
    """Published name → (file, name there) of the tensor, or of its three thirds."""
    found: dict[str, dict[int, tuple[TensorFile, str]]] = {}
    for file in files:
        for key in file.entries:
            if (bare := bare_name(key)) is None:
                continue
            name, third = fused_name(bare)
            slot = found.setdefault(name, {})
            if (third or 0) in slot:
                raise CheckpointError(f"two tensors are {bare}: {slot[third or 0][1]} and {key}", where=where)
            slot[third or 0] = (file, key)
            if third is None and len(slot) > 1:
                raise CheckpointError(f"{bare} is there both fused and in three", where=where)
    if lost := [name for name, slot in found.items() if len(slot) == 2 or min(slot) > 0]:
        raise CheckpointError(
            f"query, key and value are not all there for {listed(lost)}", fix="copy the whole model", where=where
        )
    return {name: tuple(slot[i] for i in sorted(slot)) for name, slot in found.items()}


def _shape(shard: tuple[tuple[TensorFile, str], ...]) -> Shape:
    first, *rest = (file.entries[key][0] for file, key in shard)
    if any(shape != first for shape in rest):
        raise CheckpointError(f"query, key and value differ in shape at {shard[0][1]}", where=str(shard[0][0].path))
    return (first[0] * len(shard), *first[1:]) if first else first


def _check_same_step(files: tuple[TensorFile, ...], where: str) -> None:
    for what in ("iteration", "global_steps"):
        told = {file.path.name: file.states[what] for file in files if what in file.states}
        if len(set(told.values())) > 1:
            raise CheckpointError(
                f"the shards are of different steps: {', '.join(f'{name} {step}' for name, step in told.items())}",
                expected="all shards of one step",
                fix="copy or download all shards of one checkpoint",
                where=where,
            )


def _check_number(shapes: Mapping[str, Shape], files: tuple[TensorFile, ...], found: GLMFolder) -> None:
    """Whether all parts are there: the fused tensor has 3 · hidden rows, and vectors that no one cuts tell hidden."""
    told = files[0].states.get("mp_world_size") if found.layout == "thudm" else None
    fused = next((shape for name, shape in shapes.items() if cut_of(name) == "thirds"), (0,))
    hidden = shapes.get("transformer.final_layernorm.weight", (0,))
    if fused[0] and hidden[0] and fused[0] != 3 * hidden[0]:
        told = 3 * hidden[0] * found.ranks // fused[0]
    if told and told != found.ranks:
        raise CheckpointError(
            f"{found.ranks} of {told} model-parallel shards are here: {listed(file.path.name for file in files)}",
            expected=f"{told} shards, numbered from 00",
            fix="copy or download the missing files" if told > found.ranks else "remove the shards of another model",
            where=str(found.folder),
        )


def open_glm(folder: str | Path, *, heads: bool = True) -> Source:
    """The tensors of a folder that holds a GLM.

    Errors: those of `find_glm` and `Source`; `CheckpointError` for a folder that holds something else.
    """
    from flagai.models.glm.folders import find_glm

    found = find_glm(folder)
    if found is None:
        raise _no_glm(Path(folder))
    return Source(found, heads=heads)


def _no_glm(folder: Path) -> Any:
    from flagai.errors import MissingFileError

    if not folder.is_dir():
        if folder.exists():
            return CheckpointError(
                "a file, not a folder",
                expected="a folder with the weights of a GLM",
                fix=f"name the folder it lies in: {folder.parent}",
                where=str(folder),
            )
        return MissingFileError(f"no folder {str(folder)!r}", expected="a folder with the weights of a GLM")
    places = " or ".join(map(str, iterations(folder)))
    return CheckpointError(
        "the folder holds no GLM of 2022",
        expected="a folder of THUDM, of the original FlagAI, of the Hugging Face remote code, or one of flagai's own",
        fix=f"name an iteration's folder itself: {places}"
        if places
        else "`flagai ckpt inspect` reads GLM alone; other models go through AutoLoader",
        where=str(folder),
    )

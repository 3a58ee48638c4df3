"""A model folder of ours written anew, tensor by tensor: in another dtype, in other files, or as the mean of several.

It knows files and names; it builds no model, and never holds more than one tensor of each source.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flagai.data.whole import whole_folder
from flagai.errors import CheckpointError, ConfigError, OutputError, unknown_name
from flagai.models.checkpoints import inspect, read_json
from flagai.models.headed import HEAD_FILE
from flagai.models.safetensors_boxes import torch_dtype
from flagai.models.safetensors_file import read_tensor, safetensors_entries, write_safetensors

if TYPE_CHECKING:
    import torch

    Group = dict[str, tuple[tuple[int, ...], torch.dtype]]

DTYPES: Final = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
_FLOATING: Final = frozenset({"F64", *DTYPES.values()})
_OF_A_RUN: Final = frozenset({"MANIFEST.json", "train_state", "best.json"})
"""what belongs to the run that a folder comes from, and not to the model"""
_INDEX: Final = "model.safetensors.index.json"


@dataclass(frozen=True, kw_only=True)
class Rewritten:
    """What was written: files relative to the folder, tensors and numbers in them."""

    files: tuple[str, ...]
    num_tensors: int
    num_parameters: int
    dtypes: tuple[str, ...]


@dataclass(frozen=True)
class _Source:
    """The weights of one folder: name → file, shape, dtype."""

    folder: Path
    stem: str
    entries: Mapping[str, tuple[Path, tuple[int, ...], str]] = field(repr=False)

    @classmethod
    def of(cls, folder: Path) -> _Source:
        """Errors: those of `inspect`; `CheckpointError` for weights in a pickle."""
        info = inspect(folder)
        if info.format != "safetensors":
            raise CheckpointError("the weights are a pickle", expected="safetensors", where=str(info.folder))
        entries = {
            name: (file, shape, dtype)
            for file in info.files
            for name, (shape, dtype) in safetensors_entries(file).items()
        }
        stem = "adapter_model" if info.files[0].name.startswith("adapter_model") else "model"
        return cls(info.folder, stem, entries)


def is_ours(folder: Path) -> bool:
    """Whether a folder is one that flagai wrote: a checkpoint, or a trained model with its task."""
    return any((folder / name).is_file() for name in ("MANIFEST.json", "task.json")) and not _pickled(folder)


def _pickled(folder: Path) -> bool:
    return not any(folder.glob("*.safetensors"))


def rewrite(sources: Sequence[Path], target: Path, *, dtype: str = "keep", shards: int | None = None) -> Rewritten:
    """Write a model folder from one, or from the mean of several of the same model; never over an older one.

    Args:
        sources: folders as `final/` or a checkpoint; what stands beside the weights is taken from the first.
        dtype: "keep", "fp32", "fp16" or "bf16"; of floating tensors of the body, a head stays as it is.
        shards: files of weights; None: as many as the first source has.

    Raises:
        CheckpointError: a source is damaged, or they are of different models.
        OutputError: the target exists, or cannot be written.
    """
    if dtype not in ("keep", *DTYPES):
        raise unknown_name("dtype", dtype, ("keep", *DTYPES), where="--dtype")
    if target.exists():
        raise OutputError("it exists already", where=str(target), fix="choose another folder")
    opened = [_Source.of(source) for source in sources]
    _check_same(opened)
    heads = [source.folder / HEAD_FILE for source in opened]
    _check_same_heads(heads)
    first = opened[0]
    wanted = {name: (shape, _become(kind, dtype)) for name, (_, shape, kind) in first.entries.items()}
    groups = _groups(wanted, _files_wanted(first, shards))
    with whole_folder(target) as temporary:
        _copy_beside(first.folder, temporary, dtype)
        names = _write_weights(temporary, first.stem, groups, opened)
        if heads[0].is_file():
            _write_head(temporary / HEAD_FILE, heads)
    return Rewritten(
        files=tuple(names),
        num_tensors=len(wanted),
        num_parameters=sum(prod(shape) for shape, _ in wanted.values()),
        dtypes=tuple(sorted({str(torch_dtype(kind)).removeprefix("torch.") for _, kind in wanted.values()})),
    )


def _become(kind: str, dtype: str) -> str:
    return kind if dtype == "keep" or kind not in _FLOATING else DTYPES[dtype]


def _check_same(sources: Sequence[_Source]) -> None:
    shapes = {name: shape for name, (_, shape, _) in sources[0].entries.items()}
    for other in sources[1:]:
        theirs = {name: shape for name, (_, shape, _) in other.entries.items()}
        if theirs != shapes or other.stem != sources[0].stem:
            odd = sorted(name for name in shapes.keys() | theirs.keys() if shapes.get(name) != theirs.get(name))
            raise CheckpointError(
                f"it is of another model than {sources[0].folder}: {', '.join(odd[:4])}",
                where=str(other.folder),
                expected="checkpoints of one run, or of one kind of model",
            )


def _check_same_heads(heads: Sequence[Path]) -> None:
    """Heads of other labels cannot be averaged, though the bodies can."""
    found = [safetensors_entries(head) if head.is_file() else {} for head in heads]
    shapes = [{name: shape for name, (shape, _) in entries.items()} for entries in found]
    for head, theirs in zip(heads[1:], shapes[1:], strict=True):
        if theirs != shapes[0]:
            raise CheckpointError(
                f"its head is another one than that of {heads[0].parent}",
                where=str(head.parent),
                expected="checkpoints of one run, or of one task with the same labels",
            )


def _files_wanted(source: _Source, shards: int | None) -> int:
    if shards is None:
        return len({file for file, _, _ in source.entries.values()})
    if shards > 1 and source.stem != "model":
        raise ConfigError("adapters lie in one file", where="--shards", fix="leave it out")
    if not 1 <= shards <= len(source.entries):
        raise ConfigError(
            f"{shards} files for {len(source.entries)} tensors",
            where="--shards",
            expected=f"1 to {len(source.entries)}",
        )
    return shards


def _groups(wanted: Mapping[str, tuple[tuple[int, ...], str]], count: int) -> list[Group]:
    """The tensors in their order, cut into `count` groups of about equal bytes."""
    sizes = {name: prod(shape) * torch_dtype(kind).itemsize for name, (shape, kind) in wanted.items()}
    total, done = sum(sizes.values()), 0
    groups: list[Group] = [{}]
    for left, (name, (shape, kind)) in zip(range(len(wanted), 0, -1), wanted.items(), strict=True):
        missing = count - len(groups)
        if groups[-1] and missing and (done * count >= total * len(groups) or left <= missing):
            groups.append({})
        groups[-1][name] = (shape, torch_dtype(kind))
        done += sizes[name]
    return groups


def _write_weights(
    folder: Path,
    stem: str,
    groups: Sequence[Group],
    sources: Sequence[_Source],
) -> list[str]:
    count = len(groups)
    names = (
        [f"{stem}.safetensors"]
        if count == 1
        else [f"{stem}-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    )
    for file, group in zip(names, groups, strict=True):
        write_safetensors(folder / file, group, _means(group, sources))
    if count > 1:
        table = {name: file for file, group in zip(names, groups, strict=True) for name in group}
        size = sum(prod(shape) * dtype.itemsize for group in groups for shape, dtype in group.values())
        content = {"metadata": {"total_size": size}, "weight_map": dict(sorted(table.items()))}
        (folder / _INDEX).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return names


def _means(group: Group, sources: Sequence[_Source]) -> Iterator[torch.Tensor]:
    for name, (_, dtype) in group.items():
        yield _mean([read_tensor(source.entries[name][0], name) for source in sources], dtype)


def _mean(tensors: Sequence[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    """Of several in double precision; what counts (position ids and the like) must be the same in all."""
    first = tensors[0]
    if len(tensors) == 1 or not first.is_floating_point():
        return first.to(dtype)
    return (sum((tensor.double() for tensor in tensors[1:]), first.double()) / len(tensors)).to(dtype)


def _write_head(file: Path, heads: Sequence[Path]) -> None:
    entries = {name: (shape, torch_dtype(kind)) for name, (shape, kind) in safetensors_entries(heads[0]).items()}
    tensors = (_mean([read_tensor(head, name) for head in heads], dtype) for name, (_, dtype) in entries.items())
    write_safetensors(file, entries, tensors)


def _copy_beside(source: Path, target: Path, dtype: str) -> None:
    for path in sorted(source.iterdir()):
        if path.name in _OF_A_RUN or path.suffix == ".safetensors" or path.name == _INDEX:
            continue
        if path.is_dir():
            shutil.copytree(path, target / path.name)
        else:
            shutil.copyfile(path, target / path.name)
    config = target / "config.json"
    if dtype != "keep" and config.is_file():
        values: dict[str, Any] = read_json(config)
        values["dtype"] = str(torch_dtype(DTYPES[dtype])).removeprefix("torch.")
        config.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

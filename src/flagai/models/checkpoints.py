"""What lies in a model folder, checked before anything is built: which weights, in which layout, and whole or not.

It knows nothing of heads and builds no model; it reads safetensors and, without executing them, the pickles of others.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from flagai.errors import CheckpointError, MissingFileError
from flagai.hub import file_sha256
from flagai.models.fits import fingerprint as fingerprint
from flagai.models.fits import tokenizer_fits as tokenizer_fits
from flagai.models.safetensors_file import read_safetensors, safetensors_header

if TYPE_CHECKING:
    import torch

Layout = Literal["huggingface", "flagai", "glm", "adapter", "unknown"]
Form = Literal["safetensors", "pickle"]

_SAFE_NAMES: Final = ("model.safetensors", "adapter_model.safetensors")
_PICKLE_NAMES: Final = (
    "pytorch_model.bin",
    "mp_rank_00_model_states.pt",
    "pytorch_model_00.bin",
    "model.pt",
    "adapter_model.bin",
)
_TRACKERS: Final = ("latest_iteration.txt", "latest_checkpointed_iteration.txt", "latest")
_SLICES: Final = ("mp_rank_*_model_states.pt", "pytorch_model_[0-9][0-9].bin")
_WRAPPERS: Final = ("module", "state_dict", "model_state_dict", "model")
_SHOWN: Final = 8


@dataclass(frozen=True, kw_only=True)
class WeightsInfo:
    """The weights of one folder. `shapes` is None where the file would have to be opened to know (a pickle)."""

    folder: Path
    """where the weights are: the folder asked for, or the iteration folder inside it"""
    files: tuple[Path, ...]
    format: Form
    layout: Layout
    shapes: Mapping[str, tuple[int, ...]] | None = None

    @property
    def num_parameters(self) -> int | None:
        """Numbers in all tensors (buffers included), None where unknown."""
        return None if self.shapes is None else sum(map(prod, self.shapes.values()))


def inspect(folder: str | Path, *, which: Literal["latest", "best"] = "latest") -> WeightsInfo:
    """Find the weights of a folder and read their headers; pickles are not opened.

    A save folder of the original (`latest_iteration.txt`) is followed to its latest or best iteration.
    Errors: `MissingFileError` without a folder, `CheckpointError` without weights or with damaged ones.
    """
    folder = iteration_folder(Path(folder), which)
    files, form = weight_files(folder)
    for file in files:
        _refuse_pointer(file)
    if len(slices := [file for file in files if is_slice(file)]) > 1:
        _refuse_slices(folder, slices)
    if form == "pickle":
        return WeightsInfo(folder=folder, files=files, format="pickle", layout="unknown")
    shapes = {name: shape for file in files for name, shape in safetensors_header(file).items()}
    return WeightsInfo(
        folder=folder, files=files, format="safetensors", layout=_layout(folder, files, shapes), shapes=shapes
    )


def verify_weights(folder: str | Path, expected: Mapping[str, tuple[int, ...]] | None = None) -> WeightsInfo:
    """As `inspect`, but pickles are opened (safely, memory-mapped) too, and shapes are compared with `expected`.

    A GLM of 2022 in any layout is accounted for whole: its shapes are those of the merged tensors, by our names.
    Errors: `CheckpointError` for anything that is missing, cut off, of another shape or unsafe.
    """
    from flagai.models.glm.folders import config_of, find_glm

    if (glm := find_glm(folder)) is not None:
        from flagai.models.glm.sources import Source

        source = Source(glm)
        config_of(glm, source.sizes)
        form = "safetensors" if glm.files[0].suffix == ".safetensors" else "pickle"
        info = WeightsInfo(folder=glm.folder, files=glm.files, format=form, layout="glm", shapes=source.our_shapes())
    elif (info := inspect(folder)).format == "pickle":
        state = read_state_dict(info.folder)
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        info = replace(info, shapes=shapes, layout=_layout(info.folder, info.files, shapes))
    if expected is not None:
        _compare(info, expected)
    return info


def read_state_dict(folder: str | Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder under the names they have there (an outer `{"module": …}` is taken off), on the CPU.

    The model-parallel slices of a GLM come merged, under our names.
    """
    info = inspect(folder)
    if len(info.files) > 1 and is_slice(info.files[0]):
        from flagai.models.glm.reading import read_weights

        return dict(read_weights(folder))
    state: dict[str, torch.Tensor] = {}
    for file in info.files:
        part = read_safetensors(file) if info.format == "safetensors" else read_pickle(file)
        state.update(part)
    return state


def read_pickle(file: str | Path) -> dict[str, torch.Tensor]:
    """The state dict in one PyTorch file, its wrapping taken off. Errors: see `flagai.models.pickles.load`."""
    from flagai.models import pickles

    return state_in(pickles.load(file), file)


def state_in(found: object, file: Path | str) -> dict[str, torch.Tensor]:
    """The state dict in what a file holds, its wrapping taken off. Errors: `CheckpointError` where there is none."""
    import torch

    for name in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
            break
    if not isinstance(found, Mapping):
        raise CheckpointError(f"the file holds a {type(found).__name__}", expected="a state dict", where=str(file))
    tensors = {str(name): value for name, value in found.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise CheckpointError("the file holds no tensors", expected="a state dict", where=str(file))
    return tensors


def layout_of(keys: Iterable[str]) -> Layout:
    """Whose names these are: the original's BERT has fused `query_key_value` rows, Hugging Face's has none."""
    names = list(keys)
    if any(re.search(r"encoder\.layer\.\d+\.attention\.self\.query_key_value\.", name) for name in names):
        return "flagai"
    return "huggingface" if names else "unknown"


def _layout(folder: Path, files: tuple[Path, ...], shapes: Mapping[str, tuple[int, ...]]) -> Layout:
    """Whose form the weights of a folder have; its config.json tells where names alone do not."""
    from flagai.models.legacy import family_of

    if files[0].name.startswith("adapter_"):
        return "adapter"
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    return "flagai" if family_of(shapes, config) is not None else layout_of(shapes)


def weights_sha256(folder: str | Path) -> str:
    """One hash for a folder's weights: that of the file, or of the list of names and hashes of the shards."""
    files = inspect(folder).files
    if len(files) == 1:
        return file_sha256(files[0])
    listed = "".join(f"{file.name}\0{file_sha256(file)}\n" for file in files)
    return hashlib.sha256(listed.encode()).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a file. Errors: `MissingFileError`, or `CheckpointError` where it is something else."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise MissingFileError(
            f"no {path.name} in {path.parent}", fix="copy or download the whole folder", where=str(path)
        ) from error
    except ValueError as error:
        fix = "copy or download the file again"
        raise CheckpointError(f"no JSON: {error}", expected="a JSON object", fix=fix, where=str(path)) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"a JSON {type(value).__name__}", expected="an object", where=str(path))
    return value


# files


def iteration_folder(folder: Path, which: str = "latest") -> Path:
    """The folder itself, or the iteration that the original's `latest_iteration.txt` ("latest<TAB>best") names.

    THUDM and DeepSpeed name it in `latest_checkpointed_iteration.txt` and `latest`.
    """
    if not folder.is_dir():
        raise MissingFileError(f"no folder {str(folder)!r}", expected="a folder with config.json and weights")
    for name in _TRACKERS:
        tracker = folder / name
        if not tracker.is_file():
            continue
        parts = tracker.read_text("utf-8", errors="replace").split()
        number = parts[1 if which == "best" and len(parts) > 1 else 0] if parts else ""
        inner = folder / number
        if not re.fullmatch(r"\w[\w.-]*", number) or not inner.is_dir():
            raise CheckpointError(
                f"it names the iteration {number!r}, and there is no such folder",
                expected=f"one of {_list(p.name for p in folder.iterdir() if p.is_dir())}",
                fix="name the iteration's folder itself",
                where=str(tracker),
            )
        return inner
    return folder


def weight_files(folder: Path) -> tuple[tuple[Path, ...], Form]:
    """The files with the weights of a folder, all shards or all model-parallel slices of them; none is opened.

    Errors: `CheckpointError` where there are none, or where some of them are missing.
    """
    groups: tuple[tuple[tuple[str, ...], str, Form], ...] = (
        (_SAFE_NAMES[:1], "model.safetensors.index.json", "safetensors"),
        (_PICKLE_NAMES[:-1], "pytorch_model.bin.index.json", "pickle"),
        (_SAFE_NAMES[1:], "", "safetensors"),
        (_PICKLE_NAMES[-1:], "", "pickle"),
    )
    for names, index, form in groups:
        if index and (folder / index).is_file():
            return _shards(folder / index), form
        for name in names:
            if (folder / name).is_file():
                return _all_slices(folder / name), form
    if slices := _slices_in(folder):
        return _all_slices(slices[0]), "pickle"
    raise _no_weights(folder)


def is_slice(file: Path) -> bool:
    """Whether a file's name is that of one of several model-parallel slices."""
    return any(file.match(pattern) for pattern in _SLICES)


def _slices_in(folder: Path) -> list[Path]:
    return next((found for pattern in _SLICES if (found := sorted(folder.glob(pattern)))), [])


def _all_slices(file: Path) -> tuple[Path, ...]:
    if not is_slice(file):
        return (file,)
    pattern = next(one for one in _SLICES if file.match(one))
    files = tuple(sorted(file.parent.glob(pattern)))
    wanted = [re.sub(r"\d\d+", f"{rank:02d}", file.name, count=1) for rank in range(len(files))]
    if missing := sorted(set(wanted) - {one.name for one in files}):
        raise CheckpointError(
            f"a shard is missing: {missing[0]} is not there, {files[-1].name} is",
            expected="all model-parallel shards, numbered from 00",
            fix="copy or download the missing file",
            where=str(file.parent),
        )
    return files


def _no_weights(folder: Path) -> CheckpointError:
    names = sorted(entry.name for entry in folder.iterdir())
    foreign = [name for name in names if name.endswith((".h5", ".msgpack", ".ckpt", ".index", ".onnx", ".gguf"))]
    shards = [name for name in names if re.search(r"-\d{5}-of-\d{5}\.", name)]
    fix = "copy or download the whole model"
    if shards:
        fix = "the shards are there but the index (model.safetensors.index.json) is not; copy it too"
    elif foreign:
        fix = f"{', '.join(foreign)} is of another framework; get the PyTorch weights"
    return CheckpointError(
        f"the folder holds no weights (only {_list(names) if names else 'nothing at all'})",
        expected="model.safetensors or pytorch_model.bin",
        fix=fix,
        where=str(folder),
    )


def _shards(index: Path) -> tuple[Path, ...]:
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table or not all(isinstance(name, str) for name in table.values()):
        raise CheckpointError("the index has no weight_map", fix="copy or download it again", where=str(index))
    names = sorted(set(table.values()))
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise CheckpointError(f"the index points out of its folder: {outside[0]!r}", where=str(index))
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise CheckpointError(
            f"{len(missing)} of {len(names)} files are missing: {_list(missing)}",
            fix="copy or download the missing files",
            where=str(index),
        )
    files = tuple(index.parent / name for name in names)
    if names[0].endswith(".safetensors"):
        _check_index(index, table, files)
    return files


def _check_index(index: Path, table: Mapping[str, str], files: Iterable[Path]) -> None:
    have = {file.name: safetensors_header(file) for file in files}
    if lost := sorted(key for key, name in table.items() if key not in have[name]):
        raise CheckpointError(
            f"{len(lost)} tensors are not in the files the index names: {_list(lost)}",
            fix="index and files are of different models; download both again",
            where=str(index),
        )


def _refuse_slices(folder: Path, files: list[Path]) -> None:
    from flagai.models.glm.folders import find_glm

    if find_glm(folder) is None:
        raise CheckpointError(
            f"the weights are cut into {len(files)} model-parallel slices: {_list(file.name for file in files)}",
            expected="one file with all weights; slices are merged for GLM alone",
            fix="save them unsliced with the program that made them",
            where=str(folder),
        )


def _refuse_pointer(file: Path) -> None:
    with open(file, "rb") as handle:
        start = handle.read(40)
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError("a Git LFS pointer, not the file itself", fix="run `git lfs pull`", where=str(file))


def _compare(info: WeightsInfo, expected: Mapping[str, tuple[int, ...]]) -> None:
    shapes = info.shapes or {}
    missing = [name for name in expected if name not in shapes]
    wrong = [
        f"{name} is {list(shapes[name])}, not {list(shape)}"
        for name, shape in expected.items()
        if name in shapes and shapes[name] != tuple(shape)
    ]
    if missing or wrong:
        found = "; ".join(
            part
            for part in (
                f"{len(missing)} tensors are missing: {_list(missing)}" if missing else "",
                f"{len(wrong)} have another shape: {_list(wrong)}" if wrong else "",
            )
            if part
        )
        raise CheckpointError(found, fix="config.json and weights must be of one model", where=str(info.folder))


def _list(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:_SHOWN]) + (f", … ({len(names)} in all)" if len(names) > _SHOWN else "")

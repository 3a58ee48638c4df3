"""A GLM's folder in one layout → a folder in another, with what belongs to it. It knows no model class, no task.

The target is written under another name and renamed when it is whole: a crash leaves nothing that looks finished.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from flagai.data.whole import whole_folder
from flagai.errors import ModelError, OutputError, unknown_name
from flagai.models.checkpoints import read_json
from flagai.models.converted import BESIDE, DTYPES, Converted, check_dtype, check_target, dtype_names, files_in
from flagai.models.glm.folders import GLMFolder, config_of
from flagai.models.glm.layouts import LAYOUTS, Layout, is_head, lacks_gmask
from flagai.models.glm.reading import brings_classifier
from flagai.models.glm.sources import Source, open_glm
from flagai.models.glm.writing import Writer, write_json

if TYPE_CHECKING:
    from flagai.models.glm.configuration import GLMConfig

_OURS: Final = ("task.json", "head.safetensors", "generation_config.json")
"""what lies beside the weights of a trained model of ours and has no place in the layouts of others"""


def convert(
    source: str | Path,
    target: str | Path,
    *,
    layout: str,
    shards: int | None = None,
    dtype: str = "keep",
    start: Callable[[int], None] = lambda total: None,
    progress: Callable[[int], None] = lambda done: None,
) -> Converted:
    """Write the GLM in `source` (any layout) as `layout` into the new folder `target`, tokenizer files with it.

    The weights are all of a checkpoint that is written: optimizers and random states are not carried over.

    Args:
        layout: "flagai", "huggingface", "thudm" or "flagai-original".
        shards: files of weights; model-parallel parts for the last two. Default: one, or files of 5 GB.
        dtype: "keep", "fp32", "fp16" or "bf16".
        start: called with the bytes that will be written, before the first is.
        progress: called with the bytes written since the last call.
    Errors: `CheckpointError` (source), `ConfigError` (what cannot be done), `OutputError` (target).
    """
    if layout not in LAYOUTS:
        raise unknown_name("layout", layout, LAYOUTS, where="--layout")
    kind = LAYOUTS[LAYOUTS.index(layout)]
    check_dtype(dtype)
    target = Path(target)
    opened = _open(source)
    writer = Writer(source=opened, config=_config(opened, kind), layout=kind, shards=shards, dtype=DTYPES.get(dtype))
    writer.check()
    _check_target(target, Path(source), writer.num_bytes)
    start(writer.num_bytes)
    with whole_folder(target) as folder:
        writer.write(folder, progress)
        left = _copy_rest(opened.found, folder, kind)
    opened.close()
    return _told(writer, target, left)


def describe(folder: str | Path) -> dict[str, Any]:
    """What `flagai ckpt inspect` shows of a folder: plain values, after every check that headers allow.

    Errors: `CheckpointError` for a folder that holds no GLM or a broken one.
    """
    source = open_glm(folder)
    found, sizes = source.found, source.sizes
    heads = [name for name in source.names if is_head(name)]
    told = {
        "layout": found.layout,
        "folder": str(found.folder),
        "files": [file.name for file in found.files],
        "model-parallel parts": found.ranks,
        "step": source.iteration,
        "tensors": len(source.names),
        "parameters": sum(torch.Size(source.shapes[name]).numel() for name in source.names),
        "bytes": source.num_bytes,
        "dtype": list(dtype_names(set(source.dtypes.values()))),
        "layers": sizes.num_layers,
        "hidden size": sizes.hidden_size,
        "vocabulary": sizes.vocab_size,
        "longest input": sizes.max_sequence_length,
    }
    config = _config(source, "thudm")
    heads_of_attention: Any = config.num_attention_heads if config is not None else "not known: no config.json"
    return told | {"attention heads": heads_of_attention, "tensors of heads": heads}


def _open(folder: str | Path) -> Source:
    source = open_glm(folder)
    return source if brings_classifier(source) else open_glm(folder, heads=False)


def _config(source: Source, layout: Layout) -> GLMConfig | None:
    """The configuration; THUDM's layout does without where the source has none."""
    try:
        return config_of(source.found, source.sizes)
    except ModelError:
        if source.found.config is None and layout == "thudm":
            return None
        raise


def _check_target(target: Path, source: Path, size: int) -> None:
    check_target(target, source)
    place = next(parent for parent in target.resolve().parents if parent.exists())
    if (free := shutil.disk_usage(place).free) < size:
        raise OutputError(
            f"{size / 1e9:,.1f} GB are to be written and {free / 1e9:,.1f} GB are free",
            where=str(target),
            fix="free some space, or choose another disk",
        )


def _copy_rest(found: GLMFolder, folder: Path, layout: Layout) -> list[str]:
    """Tokenizer files and the like; what has no place in the layout is named."""
    beside = () if found.config_file is None else (found.config_file.parent,)
    places = dict.fromkeys((*beside, found.given, found.folder))
    for pattern in (*BESIDE, *(_OURS if layout == "flagai" else ())):
        for file in (one for place in places for one in sorted(place.glob(pattern)) if one.is_file()):
            shutil.copyfile(file, folder / file.name)
    _drop_auto_map(folder / "tokenizer_config.json")
    if layout == "flagai":
        return []
    return [name for name in _OURS[:2] if any((place / name).is_file() for place in places)]


def _drop_auto_map(file: Path) -> None:
    """What would ask a reader to run code from a folder that has none."""
    values = read_json(file) if file.is_file() else {}
    if values.pop("auto_map", None) is not None:
        write_json(file, values)


def _told(writer: Writer, target: Path, left_files: list[str]) -> Converted:
    source, names = writer.source, writer.names
    notes = []
    if lacks_gmask(source.sizes, source.found.layout, writer.layout):
        notes.append("row 50009 of the word embedding is a copy of row 50007, as in the hub's glm-10b-chinese")
    if writer.layout == "huggingface":
        notes.append("the remote code is not written; copy it from the hub for programs that run it")
    if any(map(is_head, names)) and writer.layout != "flagai":
        notes.append("a classifier's labels stand in config.json only where the layout has them")
    return Converted(
        source=source.found.layout,
        target=writer.layout,
        folder=target,
        files=files_in(target),
        num_tensors=len(names),
        num_parameters=sum(torch.Size(source.shapes[name]).numel() for name in names),
        dtypes=dtype_names({writer.dtype or source.dtypes[name] for name in names}),
        left_out=(*writer.left_out, *left_files),
        notes=tuple(notes),
    )

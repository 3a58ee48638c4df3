"""`flagai ckpt`: look at a checkpoint, and write it in another layout. Knows no model."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer

DCP = "torch-dcp"
_HUGGING_FACE = ("flagai", "huggingface")
"""the same folders by two names"""


def inspect(folder: Path, *, as_json: bool) -> None:
    """Layout, files, sizes, parameters; everything is checked as it is before loading."""
    if _is_glm(folder):
        from flagai.models.glm.convert import describe
    else:
        from flagai.models.convert import describe

    told = describe(folder)
    if as_json:
        typer.echo(json.dumps(told, ensure_ascii=False, indent=2))
        return
    width = max(map(len, told))
    for name, value in told.items():
        text = f"{value:,}" if isinstance(value, int) else ", ".join(value) if isinstance(value, list) else value
        typer.echo(f"{name:{width}}  {text if text != '' else '-'}")


def ls(folder: Path) -> None:
    """Every tensor: name, shape, dtype."""
    rows = _tensors(folder)
    width = max(len(name) for name, _, _ in rows)
    for name, shape, dtype in rows:
        typer.echo(f"{name:{width}}  {' × '.join(map(str, shape)):>14}  {str(dtype).removeprefix('torch.')}")


def _tensors(folder: Path) -> list[tuple[str, Iterable[int], Any]]:
    if _is_glm(folder):
        from flagai.models.glm.sources import open_glm

        source = open_glm(folder)
        return [(name, source.shapes[name], source.dtypes[name]) for name in source.names]
    from flagai.models.checkpoints import read_state_dict

    return [(name, tensor.shape, tensor.dtype) for name, tensor in read_state_dict(folder).items()]


def _is_glm(folder: Path) -> bool:
    """Whether a folder holds a GLM, or nothing that has a configuration: what a GLM's folder may lack is known best."""
    from flagai.models.checkpoints import iteration_folder
    from flagai.models.glm.folders import find_glm

    if find_glm(folder) is not None or not folder.is_dir():
        return True
    return not (iteration_folder(folder) / "config.json").is_file()


def convert(source: Path, target: Path, *, layout: str, shards: int | None, dtype: str) -> None:
    """Write a checkpoint in another layout, with a bar where somebody watches."""
    from flagai.models.rewrite import is_ours

    if layout == DCP:
        _convert_to_dcp(source, target)
        return
    if layout in _HUGGING_FACE and is_ours(source):
        _rewrite(source, target, shards=shards, dtype=dtype)
        return
    if not _is_glm(source):
        from flagai.models.convert import convert as run_other

        _tell(run_other(source, target, layout=layout, shards=shards, dtype=dtype), target)
        return
    from flagai.models.glm.convert import convert as run

    bars: list[Any] = []
    with contextlib.ExitStack() as stack:

        def start(total: int) -> None:
            """Everything has been checked: from here on something is written."""
            bar = typer.progressbar(length=total, label=f"writing {target.name}", file=typer.get_text_stream("stderr"))
            bars.append(stack.enter_context(bar))

        def progress(written: int) -> None:
            bars[0].update(written)

        done = run(source, target, layout=layout, shards=shards, dtype=dtype, start=start, progress=progress)
    _tell(done, target)


def _rewrite(source: Path, target: Path, *, shards: int | None, dtype: str) -> None:
    """A checkpoint or a trained model of ours: task and head come along, the state of the run does not."""
    from flagai.models.rewrite import rewrite

    done = rewrite([source], target, dtype=dtype, shards=shards)
    typer.echo(f"flagai -> flagai: {target}")
    typer.echo(f"  {done.num_tensors:,} tensors, {done.num_parameters:,} parameters, {', '.join(done.dtypes)}")
    typer.echo(f"  files: {', '.join(done.files)}")


def _convert_to_dcp(source: Path, target: Path) -> None:
    from flagai.train.checkpoints.dcp import to_dcp

    count = to_dcp(source, target)
    typer.echo(f"flagai -> {DCP}: {target}")
    typer.echo(f"  {count:,} tensors")


def _tell(done: Any, target: Path) -> None:
    typer.echo(f"{done.source} -> {done.target}: {target}")
    typer.echo(f"  {done.num_tensors:,} tensors, {done.num_parameters:,} parameters, {', '.join(done.dtypes)}")
    typer.echo(f"  files: {', '.join(done.files)}")
    if done.left_out:
        typer.echo(f"  left out, the layout has no place for it: {', '.join(done.left_out)}")
    for note in done.notes:
        typer.echo(f"  note: {note}")

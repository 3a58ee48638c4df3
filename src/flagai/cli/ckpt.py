"""`flagai ckpt`: look at the checkpoint of a GLM, and write it in another layout. Knows no model."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import typer


def inspect(folder: Path, *, as_json: bool) -> None:
    """Layout, files, sizes, parameters; everything is checked as it is before loading."""
    from flagai.models.glm.convert import describe

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
    from flagai.models.glm.sources import open_glm

    source = open_glm(folder)
    width = max(map(len, source.names))
    for name in source.names:
        shape = " × ".join(map(str, source.shapes[name]))
        typer.echo(f"{name:{width}}  {shape:>14}  {str(source.dtypes[name]).removeprefix('torch.')}")


def convert(source: Path, target: Path, *, layout: str, shards: int | None, dtype: str) -> None:
    """Write a checkpoint in another layout, with a bar where somebody watches."""
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
    typer.echo(f"{done.source} -> {done.target}: {target}")
    typer.echo(f"  {done.num_tensors:,} tensors, {done.num_parameters:,} parameters, {', '.join(done.dtypes)}")
    typer.echo(f"  files: {', '.join(done.files)}")
    if done.left_out:
        typer.echo(f"  left out, the layout has no place for it: {', '.join(done.left_out)}")
    for note in done.notes:
        typer.echo(f"  note: {note}")

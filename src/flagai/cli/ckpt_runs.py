"""`flagai ckpt verify | ls | merge` on the checkpoints of a run. Knows no model."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import typer

from flagai.errors import MissingFileError, OutputError

_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def verify(folders: Sequence[Path], *, as_json: bool) -> None:
    """Every byte of checkpoints and models against their manifests; leaves with 1 where one is damaged."""
    from flagai.train.checkpoints.listing import all_of

    found = []
    for folder in folders:
        _check_there(folder)
        for item in all_of(folder, thorough=True):
            found.append(item)
            if not as_json:
                what = "every byte as written" if item.checked else "sizes fit; no hashes were kept"
                state = f"DAMAGED  {item.wrong}" if item.wrong else f"whole    {what}"
                typer.echo(f"{item.name:14}  {state}  ({item.files} files, {size(item.size)})")
    if as_json:
        typer.echo(json.dumps([item.to_json() for item in found], ensure_ascii=False, indent=2))
    if any(item.wrong for item in found):
        raise typer.Exit(1)


def is_run(folder: Path) -> bool:
    """Whether a folder holds checkpoints."""
    from flagai.train.checkpoints.listing import checkpoints_of

    return folder.is_dir() and bool(checkpoints_of(folder))


def ls(folder: Path, *, as_json: bool) -> None:
    """One line a checkpoint; sizes are checked, bytes are not."""
    from flagai.train.checkpoints.keeping import score_of
    from flagai.train.checkpoints.listing import all_of

    found = list(all_of(folder, thorough=False))
    if as_json:
        typer.echo(json.dumps([item.to_json() for item in found], ensure_ascii=False, indent=2))
        return
    rows = [("name", "size", "written (UTC)", "strategy", "precision", "score", "")]
    for item in found:
        there, score = item.manifest, score_of(item.manifest)
        strategy = f"{there.get('strategy', '-')} × {there.get('processes', 1)}" if there else "-"
        told = "-" if score is None else f"{score.metric} {score.value:.4g}"
        written = f"{item.written:%Y-%m-%d %H:%M:%S}"
        wrong = f"damaged: {item.wrong}" if item.wrong else ""
        rows.append((item.name, size(item.size), written, strategy, str(there.get("precision", "-")), told, wrong))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def merge(sources: Sequence[Path], output: Path, *, offline: bool) -> None:
    """One plain model folder from a checkpoint, or the mean of several; adapters are added to their base first."""
    from flagai.models.rewrite import rewrite

    if output.exists():
        raise OutputError("it exists already", where=str(output), fix="choose another folder")
    with tempfile.TemporaryDirectory(dir=_beside(output)) as scratch:
        plain = [_plain(_newest(source), Path(scratch) / str(i), offline) for i, source in enumerate(sources)]
        done = rewrite(plain, output)
    what = "one" if len(sources) == 1 else f"the mean of {len(sources)}"
    typer.echo(f"{what}: {output} ({done.num_tensors:,} tensors, {done.num_parameters:,} parameters)")


def _newest(folder: Path) -> Path:
    """The folder itself, or the newest whole checkpoint of a run."""
    from flagai.train.checkpoint import newest
    from flagai.train.checkpoints.listing import checkpoints_of

    _check_there(folder)
    if not (several := checkpoints_of(folder)):
        return folder
    found = newest(several[0].parent, lambda text: typer.echo(text, err=True))
    if found is None:
        raise MissingFileError("no whole checkpoint is here", where=str(folder), fix="flagai ckpt verify says why")
    typer.echo(f"the newest checkpoint: {found.folder}", err=True)
    return found.folder


def _plain(folder: Path, scratch: Path, offline: bool) -> Path:
    """The folder, or a whole model in place of one of adapters."""
    from flagai.models.lora import ADAPTER_CONFIG, merge_lora

    if not (folder / ADAPTER_CONFIG).is_file():
        return folder
    from flagai.auto import Loaded, load_saved, save_folder

    loaded = load_saved(folder, offline=offline)
    scratch.mkdir()
    save_folder(scratch, Loaded(merge_lora(loaded.model), loaded.tokenizer, loaded.task))
    return scratch


def _beside(output: Path) -> Path:
    """A folder on the disk of the output that is there already."""
    return next(folder for folder in output.absolute().parents if folder.is_dir())


def _check_there(folder: Path) -> None:
    if not folder.is_dir():
        raise MissingFileError(
            "there is no such folder", where=str(folder), expected="the folder of a run, a checkpoint or a model"
        )


def size(number: float) -> str:
    """Bytes in a unit that reads well."""
    for unit in _UNITS:
        if number < 1000 or unit == _UNITS[-1]:
            break
        number /= 1000
    return f"{number:.0f} {unit}" if unit == _UNITS[0] else f"{number:.1f} {unit}"

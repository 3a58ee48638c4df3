"""`flagai merge`."""

from __future__ import annotations

from pathlib import Path

import typer

from flagai.errors import ModelError, OutputError


def merge(folder: Path, output: Path, *, offline: bool) -> None:
    from flagai.auto import Loaded, load_saved, save_folder, trained_folder
    from flagai.data.whole import whole_folder
    from flagai.models.lora import is_lora, merge_lora

    if output.exists():
        raise OutputError("it exists already", where=str(output), fix="choose another folder")
    loaded = load_saved(trained_folder(folder), offline=offline)
    if not is_lora(loaded.model):
        raise ModelError("the model has no adapters", where=str(folder), expected="a model trained with model.lora")
    with whole_folder(output) as temporary:
        save_folder(temporary, Loaded(merge_lora(loaded.model), loaded.tokenizer, loaded.task))
    typer.echo(f"merged into {output}")

"""Which folder a user means. Knows no model."""

from __future__ import annotations

from pathlib import Path

from flagai.errors import MissingFileError


def columns_of(folder: Path) -> dict[str, str]:
    """Which column was which in the data of a trained folder's run, where its run.yaml is still there."""
    from flagai.config import load_config

    for candidate in (folder / "run.yaml", folder.parent / "run.yaml"):
        if candidate.is_file():
            columns = load_config(candidate).data.columns.model_dump()
            return {name: column for name, column in columns.items() if column is not None}
    return {}


def trained(folder: Path) -> Path:
    """A trained folder: the one given, or `final` in the folder of a run."""
    for candidate in (folder, folder / "final"):
        if (candidate / "task.json").is_file():
            return candidate
    raise MissingFileError(
        "no trained model is here" if folder.is_dir() else "there is no such folder",
        where=str(folder),
        expected="<output>/final of a finished run, with its task.json",
        fix="train one: flagai train run.yaml",
    )

"""Which folder a user means. Knows no model."""

from __future__ import annotations

from pathlib import Path

from flagai.errors import MissingFileError


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

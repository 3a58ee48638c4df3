"""What a folder of a run holds of checkpoints and models, whole or not. Knows no model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flagai.errors import FlagaiError
from flagai.train.checkpoints.keeping import numbered, score_of
from flagai.train.checkpoints.manifest import MANIFEST, verify

_MODELS = ("best", "final")
_TOLD = ("step", "strategy", "processes", "precision", "device", "torch")


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One checkpoint or model folder.

    Args:
        wrong: what is the matter with it; "" where nothing was found.
        checked: whether every byte was looked at.
    """

    name: str
    folder: Path
    files: int
    size: int
    written: datetime
    wrong: str = ""
    checked: bool = False
    manifest: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain values: name, bytes, files, time of writing (UTC), strategy, processes, precision, score, wrong."""
        score = score_of(self.manifest)
        kept = {key: self.manifest.get(key) for key in _TOLD}
        return {
            "name": self.name,
            "wrong": self.wrong,
            "checked": self.checked,
            "files": self.files,
            "bytes": self.size,
            "written": self.written.isoformat(timespec="seconds"),
            **{key: value for key, value in kept.items() if value is not None},
            **({} if score is None else {"score": score.to_json()}),
        }


def checkpoints_of(folder: Path) -> list[Path]:
    """The checkpoints under the folder of a run, or in its `checkpoints`, oldest first; [] for anything else."""
    root = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
    return [path for _, path in sorted(numbered(root))]


def models_of(folder: Path) -> list[Path]:
    """`best` and `final` of a run, where they are there."""
    return [folder / name for name in _MODELS if (folder / name).is_dir()]


def listed(folder: Path, *, thorough: bool) -> Listed:
    """What a checkpoint or model folder is, and what is wrong with it.

    Args:
        thorough: read every byte and compare hashes; else only names and sizes.
    """
    files = [path for path in folder.rglob("*") if path.is_file()]
    manifest: dict[str, Any] = {}
    wrong = ""
    try:
        manifest = _look(folder, thorough)
    except FlagaiError as error:
        wrong = error.found
    newest = max((path.stat().st_mtime for path in files), default=folder.stat().st_mtime)
    return Listed(
        name=folder.name,
        folder=folder,
        files=len(files),
        size=sum(path.stat().st_size for path in files),
        written=datetime.fromtimestamp(newest, UTC),
        wrong=wrong,
        checked=thorough and bool(manifest),
        manifest=manifest,
    )


def _look(folder: Path, thorough: bool) -> dict[str, Any]:
    if (folder / MANIFEST).is_file() or folder.name.startswith("step-"):
        return verify(folder, hashes=thorough)
    from flagai.models.checkpoints import verify_weights

    verify_weights(folder)  # a model has no hashes of its own: its headers must fit its files
    return {}


def all_of(folder: Path, *, thorough: bool) -> Iterator[Listed]:
    """The checkpoints and models of a run one after the other, or the one folder that was named."""
    found = [*checkpoints_of(folder), *models_of(folder)]
    for path in found or [folder]:
        yield listed(path, thorough=thorough)

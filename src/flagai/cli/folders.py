"""From the folder a user names to a predictor. Knows no model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flagai.predict.predictor import Predictor


def columns_of(folder: Path) -> dict[str, str]:
    """Which column was which in the data of a trained folder's run, where its run.yaml is still there."""
    from flagai.config import load_config

    for candidate in (folder / "run.yaml", folder.parent / "run.yaml"):
        if candidate.is_file():
            columns = load_config(candidate).data.columns.model_dump()
            return {name: column for name, column in columns.items() if column is not None}
    return {}


def predictor_of(folder: Path, *, device: str, precision: str, offline: bool) -> Predictor:
    """The predictor of a trained folder or of a finished run's, where the options of the command line allow it."""
    from flagai.auto import trained_folder
    from flagai.parallel.precision import choose_device, resolve_precision
    from flagai.predict.predictor import Predictor

    folder = trained_folder(folder)
    chosen = choose_device(device, where="--device")
    precision = resolve_precision(precision, chosen, where="--precision")
    return Predictor.from_folder(folder, device=str(chosen), precision=precision, offline=offline)

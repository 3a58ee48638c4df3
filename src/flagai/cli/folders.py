"""From the folder a user names to a predictor. Knows no model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flagai.errors import ConfigError

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


def predictor_of_model(name: str, task: str | None, *, device: str, precision: str, offline: bool) -> Predictor:
    """The predictor of a name of `flagai models`, a folder or a hub id, for a task of `flagai tasks`.

    Raises:
        ConfigError: no task is named, and the model carries none.
    """
    from flagai.auto import AutoLoader, load_saved, locate
    from flagai.parallel.precision import choose_device, resolve_precision
    from flagai.predict.predictor import Predictor
    from flagai.tasks.saved import FILE

    chosen = choose_device(device, where="--device")
    precision = resolve_precision(precision, chosen, where="--precision")
    if task is None:
        folder = locate(name, offline=offline)
        if not (folder / FILE).is_file():
            raise ConfigError(
                f"{name} carries no task", where="--model", expected="--task too", fix="`flagai tasks` lists them"
            )
        loaded = load_saved(folder, offline=offline)
        return Predictor(loaded.model, loaded.tokenizer, loaded.task, device=str(chosen), precision=precision)
    loader = AutoLoader(task, name, offline=offline)
    return Predictor(loader.get_model(), loader.get_tokenizer(), device=str(chosen), precision=precision)


def predictor_of(folder: Path, *, device: str, precision: str, offline: bool) -> Predictor:
    """The predictor of a trained folder or of a finished run's, where the options of the command line allow it."""
    from flagai.auto import trained_folder
    from flagai.parallel.precision import choose_device, resolve_precision
    from flagai.predict.predictor import Predictor

    folder = trained_folder(folder)
    chosen = choose_device(device, where="--device")
    precision = resolve_precision(precision, chosen, where="--precision")
    return Predictor.from_folder(folder, device=str(chosen), precision=precision, offline=offline)

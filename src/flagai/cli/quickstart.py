"""`flagai quickstart`: the main job on packaged data with the packaged model, offline."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final

import typer

from flagai.cli.overrides import load
from flagai.cli.train import run_training

_POET: Final = "glm-tiny-poetry-ch"
_TITLE: Final = "静夜"


def quickstart(output: Path, fresh: bool, overrides: Sequence[str]) -> None:
    """Fine-tune all-MiniLM-L6-v2 on the Banking77 split, measure it, and say what to type next."""
    with as_file(files("flagai").joinpath("assets", "banking77")) as data:
        config = load(data / "run.yaml", [f"output={output}", *overrides], fresh=fresh)
        typer.echo("Banking77: 3,804 customer questions, 77 intents; model: all-MiniLM-L6-v2 (22.7 M parameters)")
        metrics = run_training(config, offline=True)
    accuracy = metrics.get("test", {}).get("accuracy")
    if accuracy is not None:  # data.test=null leaves the test out
        typer.echo(f"\ntest accuracy {accuracy:.2%}")
    typer.echo(f"\nand the small GLM in the package, for the title {_TITLE}:\n  {_poem(_TITLE)}")
    typer.echo("\ntype next:")
    command = "flagai" if shutil.which("flagai") else ".venv/bin/flagai"
    typer.echo(f'  {command} predict {config.output}/final "my card has not arrived yet"')
    typer.echo(f"  {_opener()} {config.output}/report.html")
    typer.echo(f"  {command} init YOUR_FILE.csv    # then: {command} train run.yaml")
    typer.echo(f"  {command} predict --task poetry --model {_POET} 秋江：七言律诗")


def _poem(title: str) -> str:
    from flagai import AutoLoader, Predictor

    loader = AutoLoader("poetry", _POET, offline=True)
    return Predictor(loader.get_model(), loader.get_tokenizer()).predict(title).text


def _opener() -> str:
    if sys.platform == "darwin":
        return "open"
    return "xdg-open" if shutil.which("xdg-open") else "python3 -m webbrowser"

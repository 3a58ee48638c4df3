"""`flagai quickstart`: the main job on packaged data with the packaged model, offline."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path

import typer

from flagai.cli.overrides import load
from flagai.cli.train import run_training


def quickstart(output: Path, fresh: bool, overrides: Sequence[str]) -> None:
    """Fine-tune all-MiniLM-L6-v2 on the Banking77 split, measure it, and say what to type next."""
    with as_file(files("flagai").joinpath("assets", "banking77")) as data:
        config = load(data / "run.yaml", [f"output={output}", *overrides], fresh=fresh)
        typer.echo("Banking77: 3,804 customer questions, 77 intents; model: all-MiniLM-L6-v2 (22.7 M parameters)")
        metrics = run_training(config, offline=True)
    accuracy = metrics.get("test", {}).get("accuracy")
    if accuracy is not None:  # data.test=null leaves the test out
        typer.echo(f"\ntest accuracy {accuracy:.2%}")
    typer.echo("\ntype next:")
    command = "flagai" if shutil.which("flagai") else ".venv/bin/flagai"
    typer.echo(f'  {command} predict {config.output}/final "my card has not arrived yet"')
    typer.echo(f"  {_opener()} {config.output}/report.html")
    typer.echo(f"  {command} init YOUR_FILE.csv    # then: {command} train run.yaml")


def _opener() -> str:
    if sys.platform == "darwin":
        return "open"
    return "xdg-open" if shutil.which("xdg-open") else "python3 -m webbrowser"

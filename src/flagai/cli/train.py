"""`flagai train`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from flagai.cli.overrides import load
from flagai.config import RunConfig


def train(path: Path, overrides: Sequence[str], *, resume: bool, fresh: bool, offline: bool) -> None:
    config = load(path, overrides, resume=resume, fresh=fresh)
    run_training(config, offline=offline)
    final = f"{config.output}/final"
    typer.echo(f'report: {config.output}/report.html\nnext:   flagai predict {final} "…"')


def run_training(config: RunConfig, *, offline: bool) -> dict[str, dict[str, float]]:
    """Train with a progress line; prints the metrics of each split and returns them."""
    from flagai.parallel.precision import choose_device
    from flagai.train.interrupt import Interrupted
    from flagai.train.progress import Progress
    from flagai.train.trainer import Trainer

    progress = Progress(device=str(choose_device(config.train.device)))
    try:
        result = Trainer(config, callbacks=[progress], offline=offline).train()
    except (Interrupted, KeyboardInterrupt):
        typer.echo(f"interrupted; the same command continues {config.output}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"trained {result.steps} steps in {result.seconds:.0f} s → {result.folder}")
    for split, metrics in result.metrics.items():
        typer.echo(f"{split:5} " + "  ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    return result.metrics

"""`flagai train`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from flagai.cli.ending import Stopped
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
        raise Stopped(_how_to_continue(config)) from None
    typer.echo(f"trained {result.steps} steps in {result.seconds:.0f} s → {result.folder}")
    for split, metrics in result.metrics.items():
        typer.echo(f"{split:5} " + "  ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    return result.metrics


def _how_to_continue(config: RunConfig) -> str:
    """What continues an interrupted run, "" where nothing of it was kept."""
    from flagai.train.checkpoint import MANIFEST
    from flagai.train.run_folder import STATUS

    root = Path(config.output)
    kept = any(root.glob(f"checkpoints/step-*/{MANIFEST}"))
    if not kept or not (root / STATUS).is_file() or (root / "final").exists():
        return ""
    command = "the same command without --fresh" if config.train.resume is False else "the same command"
    return f"{command} continues {config.output}"

"""`flagai train`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from flagai.cli.ending import Stopped
from flagai.cli.launching import Machines, launch, needs_launch
from flagai.cli.overrides import load
from flagai.config import RunConfig
from flagai.parallel import surroundings
from flagai.parallel.worker import attempt


def train(
    path: Path, overrides: Sequence[str], *, resume: bool, fresh: bool, offline: bool, machines: Machines
) -> None:
    config = load(path, overrides, resume=resume, fresh=fresh)
    if needs_launch(config, machines):
        flags = (("--resume", resume), ("--fresh", fresh), ("--offline", offline))
        launch(config, ["train", str(path), *overrides, *(flag for flag, given in flags if given)], machines)
        return
    run_training(_again(config), offline=offline)
    if _speaks():
        final = f"{config.output}/final"
        typer.echo(f'report: {config.output}/report.html\nnext:   flagai predict {final} "…"')


def _again(config: RunConfig) -> RunConfig:
    """Processes that a launcher started again continue what they began, also where that began anew."""
    if not attempt() or config.train.resume is not False:
        return config
    return config.model_copy(update={"train": config.train.model_copy(update={"resume": "auto"})})


def _speaks() -> bool:
    """Whether this process is alone or the first of several."""
    place = surroundings.find()
    return place is None or place.rank == 0


def run_training(config: RunConfig, *, offline: bool) -> dict[str, dict[str, float]]:
    """Train with a progress line; prints the metrics of each split and returns them; one process speaks."""
    from flagai.parallel import world
    from flagai.parallel.precision import choose_device
    from flagai.train.interrupt import Interrupted
    from flagai.train.progress import Progress
    from flagai.train.trainer import Trainer

    callbacks = [Progress(device=str(choose_device(config.train.device)))] if _speaks() else []
    try:
        result = Trainer(config, callbacks=callbacks, offline=offline).train()
    except (Interrupted, KeyboardInterrupt):
        raise Stopped(_how_to_continue(config)) from None
    world.close()
    if not _speaks():
        return result.metrics
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

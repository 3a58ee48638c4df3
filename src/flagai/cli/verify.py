"""`flagai verify`: proofs on the user's own configuration. Knows no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import typer

from flagai.cli.overrides import load
from flagai.config import RunConfig
from flagai.errors import unknown_name


def resume(path: Path, overrides: Sequence[str], *, output: Path | None, **options: Any) -> None:
    """Kill and continue; exit code 1 where anything differs."""
    from flagai.verify.runs import table, verify_resume
    from flagai.verify.watch import During

    if (during := options["during"]) not in get_args(During):
        raise unknown_name("moment", during, get_args(During), where="--during")
    config = load(path, overrides)
    folder = output or _folder(config)
    proof = verify_resume(config, folder, tell=_tell, **options)
    _show(folder, "resume", table(proof, f"Killed and continued: {path.name}"), proof.to_json())


def parallel(path: Path, overrides: Sequence[str], *, output: Path | None, **options: Any) -> None:
    """Train under every strategy; exit code 1 where one differs from one process."""
    from flagai.verify.parallel import table, verify_parallel

    config = load(path, overrides)
    folder = output or _folder(config)
    proof = verify_parallel(config, folder, tell=_tell, **options)
    _show(folder, "parallel", table(proof, f"Every strategy against one process: {path.name}"), proof.to_json())


def _folder(config: RunConfig) -> Path:
    """Beside the run, not in it: a run's folder is refused to others."""
    return Path(f"{config.output}-verify")


def _tell(text: str) -> None:
    typer.echo(text, err=True)


def _show(folder: Path, name: str, result: Any, values: Mapping[str, Any]) -> None:
    from flagai.verify.page import save

    typer.echo(result.text())
    typer.echo(f"page: {save(folder, name, result, values)}")
    if not result.fine:
        raise typer.Exit(1)

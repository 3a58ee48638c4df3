"""`flagai data check`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import typer

from flagai.cli.overrides import load


def check(path: Path, overrides: Sequence[str], *, offline: bool, as_json: bool) -> None:
    from flagai.train.assemble import ingredients
    from flagai.train.prepare import prepare, read_sources, training_file

    config = load(path, overrides)
    training_file(config)

    def tell(line: str) -> None:
        typer.echo(line, err=as_json)

    task = ingredients(config, offline=offline).task
    data = prepare(config, task, read_sources(config, task, tell), tell)
    if as_json:
        typer.echo(json.dumps(data.audit.to_json(), ensure_ascii=False, indent=2))

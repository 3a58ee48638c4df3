"""What `flagai` can list: models, tasks, and the settings as a JSON schema."""

from __future__ import annotations

import json

import typer


def tasks() -> None:
    from flagai.tasks.table import TASKS

    width = max(map(len, TASKS))
    for name, row in TASKS.items():
        typer.echo(f"{name:{width}}  {row.summary}")


def models() -> None:
    from flagai.models.zoo import find, names

    for name in names():
        if (entry := find(name)) is not None:
            runs = "yes" if entry.runs else "no"
            typer.echo(f"{entry.name:34}  {runs:3}  {entry.family:10}  {entry.huggingface or '-':44}  {entry.note}")


def schema() -> None:
    from flagai.config import json_schema

    typer.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))

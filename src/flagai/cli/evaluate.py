"""`flagai eval`."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from flagai.cli.folders import columns_of, predictor_of


def evaluate(
    folder: Path,
    file: Path,
    *,
    split: str,
    encoding: str | None,
    device: str,
    precision: str,
    batch_tokens: int | None,
    offline: bool,
    as_json: bool,
) -> None:
    from flagai.predict.evaluate import evaluate_records

    predictor = predictor_of(folder, device=device, precision=precision, offline=offline)
    measured = evaluate_records(
        predictor, file, split=split, hints=columns_of(folder), encoding=encoding, batch_tokens=batch_tokens
    )
    if as_json:
        typer.echo(json.dumps(measured, ensure_ascii=False, indent=2))
        return
    for name, row in measured["metrics"].items():
        interval = f"   [{row['low']:.4f}, {row['high']:.4f}]" if "low" in row else ""
        typer.echo(f"{name:18} {row['value']:.4f}{interval}")
    typer.echo(f"{measured['records']} records, 95 % bootstrap intervals", err=True)

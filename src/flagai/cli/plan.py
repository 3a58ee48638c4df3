"""`flagai plan`: what a run will need, as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from flagai.cli.overrides import load

if TYPE_CHECKING:
    from flagai.planning import Planned, Row

_COLUMNS = ("parameters", "gradients", "optimizer", "buffers", "activations", "batch", "peak")


def plan(
    path: Path,
    overrides: Sequence[str],
    *,
    memory: str | None,
    processes: int | None,
    device: str | None,
    measure: bool,
    offline: bool,
    as_json: bool,
) -> None:
    """Count, measure, and say what fits."""
    from flagai.planning import plan as run
    from flagai.planning.machine import read_size

    def tell(line: str) -> None:
        typer.echo(line, err=True)

    planned = run(
        load(path, overrides),
        memory=None if memory is None else read_size(memory),
        processes=processes,
        device=device,
        measure=measure,
        offline=offline,
        tell=tell,
    )
    if as_json:
        typer.echo(json.dumps(planned.to_json(), ensure_ascii=False, indent=2))
        return
    for line in (*_head(planned), "", *table(planned.rows), "", *_tail(planned)):
        typer.echo(line)


def size(count: int) -> str:
    """Bytes in words."""
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >= 1 << power:
            return f"{count / (1 << power):.1f} {unit}"
    return f"{count} B"


def table(rows: Sequence[Row]) -> list[str]:
    """A line for each layout; a star where it fits."""
    cells = [["", "layout", *_COLUMNS]]
    for row in rows:
        mark = "*" if row.fits else ""
        name = f"{row.name} (yours)" if row.own else row.name
        numbers = [f"cannot be: {row.problem}"] if row.problem else [size(getattr(row, key)) for key in _COLUMNS]
        cells.append([mark, name, *numbers])
    full = [line for line in cells if len(line) == len(cells[0])]
    widths = [max(len(line[i]) for line in full) for i in range(len(cells[0]))]
    widths[1] = max(len(line[1]) for line in cells)
    return [_aligned(line, widths) for line in cells]


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    if len(line) < len(widths):
        return "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)).rstrip()
    left = [cell.ljust(width) for cell, width in zip(line[:2], widths[:2], strict=True)]
    right = [cell.rjust(width) for cell, width in zip(line[2:], widths[2:], strict=True)]
    return "  ".join([*left, *right])


def _head(planned: Planned) -> list[str]:
    trained = "" if planned.trained == planned.parameters else f", {planned.trained:,} of them trained"
    return [
        f"{planned.parameters:,} parameters{trained}; {planned.steps:,} steps",
        f"heaviest part of a batch: {planned.examples} × {planned.length} tokens, {planned.parts} a step and process",
        f"on {planned.device}: {size(planned.memory)} for each process, {size(planned.program)} of it for the program",
    ]


def _tail(planned: Planned) -> list[str]:
    lines = []
    if (seen := planned.measured) is not None:
        lines.append(
            f"not measured: {seen.problem}"
            if seen.problem
            else f"measured: peak {size(seen.peak)}, predicted {size(seen.predicted)} "
            f"({seen.predicted / seen.peak - 1:+.1%}); {seen.heaviest:.2f} s for the heaviest step, "
            f"{seen.typical:.2f} s for a typical one"
        )
    if planned.seconds is not None:
        lines.append(f"time: about {_time(planned.seconds)} for all steps, evaluations not counted")
    disk = planned.disk
    lines.append(
        f"disk: {size(disk.total)} at most, {size(disk.checkpoint)} a checkpoint; {size(disk.free)} are free"
        + ("" if disk.free > disk.total else ": NOT ENOUGH")
    )
    if planned.copy:
        lines.append(f"saving in the background: {size(planned.copy)} of the CPU's memory for each process")
    return [*lines, *_advice(planned)]


def _advice(planned: Planned) -> list[str]:
    change = planned.change
    if change is None:
        return []
    if not change.needed and change.found:
        return ["fits as it is"]
    words = " ".join(change.settings)
    several = f" on {change.processes} processes" if change.processes > 1 else ""
    if change.found:
        return [f"the smallest change that fits{several}: {words}  (peak {size(change.peak)})"]
    return [f"nothing here fits; nearest{several}: {words or 'as it is'}  (peak {size(change.peak)})"]


def _time(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"

"""A checkpoint of any layout is continued under any other: the matrix save × load, through the real checkpoint code.

The whole of it is a proof (`make proofs`), which writes the tables in docs/*/verify.md; every run of the tests does the
diagonal and one row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import matrix_jobs as jobs
import numpy as np
import pytest

from flagai.verify.layouts import LAYOUTS, ONE, Layout
from flagai.verify.world import World, world

LOSS, NORM = 5e-6, 5e-5
"""absolute and relative: fp32, other orders of adding, ten steps of AdamW"""
BEFORE, AFTER = 4, 10
PATIENCE = 1500.0
"""seconds that ten checkpoints may take on four processes of a busy machine"""
DOCS = Path(__file__).parents[2] / "docs"
PRELOAD = ("transformers", "flagai.parallel.spread", "flagai.models.glm.modeling", "flagai.train.checkpoint")


@dataclass(frozen=True)
class Apart:
    """How far the steps of a continued run are from those of the uninterrupted one."""

    loss: float
    norm: float

    @property
    def fine(self) -> bool:
        return self.loss < LOSS and self.norm < NORM


def apart(found: Sequence[Any], expected: Sequence[Any]) -> Apart:
    one, other = np.array(found), np.array(expected)
    assert one.shape == other.shape
    return Apart(float(np.abs(one - other)[:, 0].max()), float(np.abs(one / other - 1)[:, 1].max()))


@pytest.fixture(scope="module")
def four() -> Iterator[World]:
    with world(4, PRELOAD) as made:
        yield made


@cache
def uninterrupted(family: str, steps: int) -> list[tuple[float, float]]:
    """One process, which never saved or stopped."""
    strategy = jobs._placed(family, ONE.section(), seed=0)
    return jobs.jobs.steps(strategy, family, jobs.jobs.ROWS[:steps], 1)


def save(four: World, family: str, layout: Layout, root: Path, before: int, after: int) -> Apart:
    """A checkpoint by a layout, and whether it itself trains as one process does."""
    options: dict[str, Any] = {"family": family, "parallel": layout.section(), "before": before, "after": after}
    ranks = four.run("matrix_jobs:save", layout.processes, PATIENCE, root=str(root / layout.name), **options)
    first, then = ranks[0]
    return apart(first + then, uninterrupted(family, before + after))


def load(four: World, family: str, layout: Layout, roots: Sequence[Path], before: int, after: int) -> list[Apart]:
    """Continued from each of several checkpoints by a layout."""
    options: dict[str, Any] = {"family": family, "parallel": layout.section(), "after": after}
    ranks = four.run("matrix_jobs:load", layout.processes, PATIENCE, roots=[str(root) for root in roots], **options)
    return [apart(found, uninterrupted(family, before + after)[before:]) for found in ranks[0]]


def test_the_diagonal_and_one_row(four: World, tmp_path: Path) -> None:
    """Every layout continues what it saved itself, and what shards saved."""
    before, after = 2, 3
    row = next(layout for layout in LAYOUTS if layout.name == "FSDP2 2")
    for layout in LAYOUTS:
        found = save(four, "glm", layout, tmp_path, before, after)
        assert found.fine, f"{layout.name} trains otherwise: {found}"
    for layout in LAYOUTS:
        roots = [tmp_path / layout.name, tmp_path / row.name]
        for root, found in zip(roots, load(four, "glm", layout, roots, before, after), strict=True):
            assert found.fine, f"{root.name} → {layout.name}: {found}"


@pytest.mark.parametrize("plant", jobs.PLANTS)
def test_a_mistake_in_what_is_loaded_is_noticed(tmp_path: Path, plant: str) -> None:
    jobs.save("bert", ONE.section(), str(tmp_path), 4, 0)
    [right] = jobs.load("bert", ONE.section(), [str(tmp_path)], 3)
    [wrong] = jobs.load("bert", ONE.section(), [str(tmp_path)], 3, plant)
    assert apart(right, uninterrupted("bert", 7)[4:]) == Apart(0.0, 0.0)
    assert not apart(wrong, uninterrupted("bert", 7)[4:]).fine


@pytest.mark.proof
def test_the_matrix(four: World, tmp_path: Path) -> None:
    """Every pair, both families, ten steps; the tables of the documents are written from it."""
    tables = {family: _matrix(four, family, tmp_path / family) for family in ("glm", "bert")}
    for language in ("en", "zh"):
        _publish(DOCS / language / "verify.md", tables)
    wrong = [
        f"{family}: {saved} → {loaded}: {found}"
        for family, cells in tables.items()
        for (saved, loaded), found in cells.items()
        if not found.fine
    ]
    assert not wrong


def _matrix(four: World, family: str, root: Path) -> dict[tuple[str, str], Apart]:
    for layout in LAYOUTS:
        assert save(four, family, layout, root, BEFORE, AFTER).fine
    roots = [root / layout.name for layout in LAYOUTS]
    return {
        (path.name, layout.name): found
        for layout in LAYOUTS
        for path, found in zip(roots, load(four, family, layout, roots, BEFORE, AFTER), strict=True)
    }


def _publish(page: Path, tables: Mapping[str, Mapping[tuple[str, str], Apart]]) -> None:
    """Replace what stands between the marks of each family."""
    text = page.read_text(encoding="utf-8")
    for family, cells in tables.items():
        begin, end = f"<!-- matrix {family} -->\n", "<!-- end -->"
        head, _, rest = text.partition(begin)
        _, mark, tail = rest.partition(end)
        assert rest and mark, f"{page} has no place for the table of {family}"
        text = f"{head}{begin}\n{_table(cells)}\n{end}{tail}"
    page.write_text(text, encoding="utf-8")


def _table(cells: Mapping[tuple[str, str], Apart]) -> str:
    import torch

    names = [layout.name for layout in LAYOUTS]
    corner = f"{date.today()}, torch {torch.__version__.partition('+')[0]}"
    head = [f"| {corner} | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}"]
    body = [f"| {saved} | {' | '.join(_cell(cells[saved, name]) for name in names)} |" for saved in names]
    return "\n".join([*head, *body]) + "\n"


def _cell(found: Apart) -> str:
    return "0" if found.loss == 0 else f"{found.loss:.0e}"

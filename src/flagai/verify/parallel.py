"""A user's run, small, under every strategy: does each one train as one process does? Knows no strategy by itself.

All trainings are those of `Trainer`; their logs and final weights are held against those of one process.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from flagai.config import ParallelConfig, RunConfig
from flagai.train.logs import read_log
from flagai.verify.layouts import LAYOUTS, MORE, ONE, Layout
from flagai.verify.page import Table
from flagai.verify.shrink import small_model
from flagai.verify.world import JobError, World, world

PRELOAD: Final = ("transformers", "flagai.train.trainer", "flagai.parallel.spread")
LOSS: Final = 1e-5
"""relative; other orders of adding in fp32 made 1e-6 of it over twenty steps, and twice that of the norm"""
NORM: Final = 1e-4
WEIGHT: Final = 0.02
"""of the root of the mean square by which training moved the weights: Adam makes steps of noise where a gradient is
zero in exact arithmetic (the bias of keys), so that single weights may differ by whole steps"""
_RATE: Final = 1e-3
MODEL: Final = "model"
JOB: Final = "flagai.verify.parallel:train_here"


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One layout against one process.

    Args:
        loss: largest relative difference of a step's loss.
        norm: that of a gradient norm.
        weights: difference of the final weights, as a share of what training changed in them (root mean squares).
        seconds: of its training, start included.
        impossible: why this model cannot be trained so, by a check of ours; "" where it can.
        broken: what went wrong otherwise; "" for nothing.
    """

    name: str
    processes: int
    loss: float = 0.0
    norm: float = 0.0
    weights: float = 0.0
    seconds: float = 0.0
    impossible: str = ""
    broken: str = ""

    @property
    def fine(self) -> bool:
        """Whether the differences are those of rounding."""
        return not self.broken and self.loss <= LOSS and self.norm <= NORM and self.weights <= WEIGHT


@dataclass(frozen=True, kw_only=True)
class ParallelProof:
    """What came of it: a row for each layout; `steps` lines of log were compared in each."""

    steps: int
    rows: tuple[Compared, ...]

    @property
    def equal(self) -> bool:
        """Whether every layout that is possible trains as one process, and there is one."""
        tried = [row for row in self.rows if not row.impossible]
        return bool(tried) and all(row.fine for row in tried)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"equal": self.equal, "bounds": {"loss": LOSS, "norm": NORM, "weights": WEIGHT}, **asdict(self)}


def verify_parallel(
    config: RunConfig,
    folder: Path,
    *,
    steps: int = 20,
    layers: int = 4,
    width: int = 64,
    layouts: Sequence[Layout] = (*LAYOUTS, *MORE),
    offline: bool = False,
    keep: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> ParallelProof:
    """Train a small model of the run's family on the run's data under each layout, on CPU processes of this machine.

    Args:
        folder: scratch; what the trainings leave there is deleted afterwards, unless `keep`.
        steps: optimizer steps of each.
        layers, width: of the small model.

    Raises:
        FlagaiError: the run is wrong in itself, or fails on one process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _discard(folder, layouts)
    start = small_model(_calm(config, steps), folder / MODEL, layers=layers, width=width, offline=offline)
    others = [layout for layout in layouts if layout != ONE]
    with world(max((layout.processes for layout in layouts), default=1), PRELOAD) as made:
        _train(made, start, folder, ONE)
        rows = []
        for layout in others:
            rows.append(_compared(made, start, folder, layout))
            tell(_line(rows[-1]))
    if not keep:
        _discard(folder, layouts)
    return ParallelProof(steps=steps, rows=tuple(rows))


def train_here(settings: Mapping[str, Any]) -> None:
    """The work of each process: one training, by the settings of a run."""
    from flagai.config import load_config
    from flagai.train.trainer import Trainer

    Trainer(load_config(settings), offline=True).train()


def _calm(config: RunConfig, steps: int) -> RunConfig:
    """The run in fp32 on the CPU, nothing dropped, a line of log a step, with a rate at which a random model learns."""
    train: dict[str, Any] = {"max_steps": steps, "logging_steps": 1, "save_steps": steps, "eval_steps": steps}
    train |= {"precision": "fp32", "device": "cpu", "learning_rate": _RATE, "warmup_ratio": 0.0, "resume": False}
    train |= {"early_stopping": None, "best_metric": None, "head_learning_rate": None, "tensorboard": False}
    # Not every task has the option; where it is not set, it is that of the small model: none.
    task = config.task.model_copy(update={"dropout": config.task.dropout and 0.0})
    changes = {"train": config.train.model_copy(update=train), "task": task}
    return config.model_copy(update={**changes, "parallel": ParallelConfig.model_construct()})


def _train(made: World, start: RunConfig, folder: Path, layout: Layout) -> None:
    root = folder / _slug(layout)
    settings = {**start.to_dict(), "output": str(root), "parallel": layout.section()}
    made.run(JOB, layout.processes, settings=settings)


def _compared(made: World, start: RunConfig, folder: Path, layout: Layout) -> Compared:
    began = time.perf_counter()
    facts: dict[str, Any] = {"name": layout.name, "processes": layout.processes}
    try:
        _train(made, start, folder, layout)
    except JobError as error:
        facts["impossible" if error.explained else "broken"] = error.found
        return Compared(**facts)
    seconds = time.perf_counter() - began
    one, other = (_log(folder / _slug(each)) for each in (ONE, layout))
    loss, norm = (_furthest(one, other, key) for key in ("loss", "grad_norm"))
    weights = _apart(folder / MODEL, folder / _slug(ONE) / "final", folder / _slug(layout) / "final")
    return Compared(**facts, loss=loss, norm=norm, weights=weights, seconds=seconds)


def _log(root: Path) -> list[dict[str, Any]]:
    return [row for row in read_log(root / "log.jsonl") if row["kind"] == "train"]


def _furthest(one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]], key: str) -> float:
    if [row["step"] for row in one] != [row["step"] for row in other]:
        return float("inf")
    return max(abs(a[key] - b[key]) / max(abs(a[key]), 1e-12) for a, b in zip(one, other, strict=True))


def _apart(start: Path, one: Path, other: Path) -> float:
    """Root mean square of the difference between two models, as a share of that between the first and the start."""
    before, a, b = (_tensors(folder) for folder in (start, one, other))
    if a.keys() != b.keys():
        return float("inf")
    moved = sum(((a[name] - before[name]) ** 2).sum().item() for name in a if name in before)
    apart = sum(((a[name] - b[name]) ** 2).sum().item() for name in a)
    return (apart / max(moved, 1e-30)) ** 0.5


def _tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {name: t.double() for path in folder.glob("*.safetensors") for name, t in load_file(path).items()}


def table(proof: ParallelProof, title: str) -> Table:
    """The layouts one by one, and what came of them."""
    heads = ("layout", "processes", "loss", "gradient norm", "weights", "seconds", "")
    rows = [(row.name, str(row.processes), *_numbers(row)) for row in proof.rows]
    tried = sum(not row.impossible for row in proof.rows)
    wrong = [row.name for row in proof.rows if not row.impossible and not row.fine]
    verdict = f"{tried} layouts train as one process does over {proof.steps} steps"
    if wrong:
        verdict = f"NOT as one process: {', '.join(wrong)}"
    bounds = f"largest differences; bounds: loss {LOSS:g} and norm {NORM:g} (relative), weights {WEIGHT:g} of their way"
    notes = [bounds, *(f"{row.name}: {why}" for row in proof.rows if (why := row.impossible or row.broken))]
    return Table(title=title, verdict=verdict, fine=proof.equal, heads=heads, rows=rows, notes=notes)


def _numbers(row: Compared) -> tuple[str, ...]:
    if row.impossible or row.broken:
        return "-", "-", "-", "-", "not possible" if row.impossible else "BROKEN"
    shown = (f"{value:.1e}" for value in (row.loss, row.norm, row.weights))
    return (*shown, f"{row.seconds:.0f}", "fine" if row.fine else "DIFFERENT")


def _line(row: Compared) -> str:
    why = row.impossible or row.broken
    return f"{row.name}: {_numbers(row)[-1]}" + (f": {why.splitlines()[0]}" if why else "")


def _slug(layout: Layout) -> str:
    return "".join(c if c.isalnum() else "-" for c in layout.name.lower())


def _discard(folder: Path, layouts: Sequence[Layout]) -> None:
    for name in (MODEL, *(_slug(layout) for layout in (ONE, *layouts))):
        shutil.rmtree(folder / name, ignore_errors=True)

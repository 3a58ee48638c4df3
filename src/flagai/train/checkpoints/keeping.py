"""Which checkpoints of a run stay: the last ones, and those of its best evaluations. Knows no tensor."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flagai.errors import CheckpointError
from flagai.train.checkpoints.manifest import MANIFEST, read_manifest


@dataclass(frozen=True, kw_only=True)
class Score:
    """What an evaluation right before a checkpoint found.

    Args:
        metric: its name.
        lower_is_better: as for a loss.
    """

    metric: str
    value: float
    lower_is_better: bool = False

    @property
    def height(self) -> float:
        """The value, turned so that more is better."""
        return -self.value if self.lower_is_better else self.value

    def to_json(self) -> dict[str, Any]:
        """For the manifest."""
        return {"metric": self.metric, "value": self.value, "lower_is_better": self.lower_is_better}


def score_of(manifest: Any) -> Score | None:
    """The score that a manifest keeps, if any."""
    found = manifest.get("score")
    if not isinstance(found, dict):
        return None
    metric, value, lower = found.get("metric"), found.get("value"), found.get("lower_is_better", False)
    if not isinstance(metric, str) or not isinstance(value, float | int) or not isinstance(lower, bool):
        return None
    return Score(metric=metric, value=value, lower_is_better=lower)


def numbered(root: Path) -> list[tuple[int, Path]]:
    """(step, folder) of all that is called like a checkpoint, in no order."""
    if not root.is_dir():
        return []
    folders = [(p.name.removeprefix("step-"), p) for p in root.iterdir() if p.name.startswith("step-")]
    return [(int(number), path) for number, path in folders if number.isdecimal()]


def best(root: Path, count: int, *, metric: str | None = None) -> list[tuple[Score, int]]:
    """The best evaluations that still have a checkpoint, the best one first; of equal ones the earlier."""
    found: list[tuple[Score, int]] = []
    for step, folder in numbered(root):
        with contextlib.suppress(CheckpointError):  # what is no checkpoint has no score; `newest` says so aloud
            score = score_of(read_manifest(folder))
            if score is not None and score.value == score.value and metric in (None, score.metric):
                found.append((score, step))
    return sorted(found, key=lambda item: (-item[0].height, item[1]))[:count]


def keep(root: Path, count: int, *, last: int, best_count: int = 0, metric: str | None = None) -> None:
    """Delete all but `count` checkpoints up to step `last`, which was just written, and the best ones among them.

    The best ones are so by `metric`; values of different ones cannot be compared.

    Later ones belong to a course that the run has left: it was continued from before them.
    """
    present = sorted(numbered(root), reverse=True)
    left, ours = [item for item in present if item[0] > last], [item for item in present if item[0] <= last]
    _delete(folder for _, folder in left)
    good = {step for _, step in best(root, best_count, metric=metric)} if best_count else set()
    _delete(folder for step, folder in ours[count:] if step not in good)


def _delete(folders: Iterable[Path]) -> None:
    for folder in folders:
        # Without its manifest a folder is no checkpoint: a crash half-way leaves nothing that looks complete.
        (folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder)

"""A run seen from outside, by what it leaves in its folder; and random moments of it. Knows no loop and no process."""

from __future__ import annotations

import contextlib
import json
import random
import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from flagai.data.whole import TEMPORARY
from flagai.train.files import read_json
from flagai.train.run_folder import STATUS

During = Literal["anywhere", "saves"]
LOG: Final = "log.jsonl"
_POLL: Final = 0.005
"""seconds between two looks: a step of a tiny model takes about ten milliseconds"""
_SAVED: Final = ("checkpoints", ".")
"""where folders are written: best/ and final/ stand in the run's own"""
_TAIL: Final = 1 << 14


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A point of a run that does not depend on how long its start takes.

    Args:
        step: the step whose line in the log comes before it; 0: the beginning of the run.
        delay: seconds after that line, or after the beginning of the next save.
        saving: whether the run must be saving.
    """

    step: int
    delay: float
    saving: bool = False


@dataclass(kw_only=True)
class Course:
    """What was seen of an undisturbed run, in seconds since it had read its data and built its model."""

    seconds: float = 0.0
    steps: list[tuple[float, int]] = field(default_factory=list)
    """when the line of a step was there"""
    saves: list[tuple[int, float]] = field(default_factory=list)
    """after the line of which step a save began, and how long it took"""

    def moments(self, count: int, chance: random.Random, during: During) -> list[Moment]:
        """So many moments in their order, drawn evenly from the time of the run, or from that of its saves."""
        if during == "saves":
            drawn = [chance.choice(self.saves) for _ in range(count)] if self.saves else []
            made = [Moment(step=step, delay=chance.uniform(0, seconds), saving=True) for step, seconds in drawn]
            return sorted(made, key=lambda moment: moment.step)
        return [self._moment(at) for at in sorted(chance.uniform(0, self.seconds) for _ in range(count))]

    def _moment(self, at: float) -> Moment:
        before = bisect_right([when for when, _ in self.steps], at)
        when, step = self.steps[before - 1] if before else (0.0, 0)
        return Moment(step=step, delay=at - when)


class Watch:
    """The folder of a run while it lives. To be made before the life begins.

    What an earlier life left is not taken for news: a life has begun when the status is written anew, and its log
    counts when it was written anew, cut back to the checkpoint that it continues from.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._old = {name: _changed(root / name) for name in (STATUS, LOG)}

    def begun(self) -> bool:
        """Whether the data is read, the model built, and the folder taken over."""
        return _changed(self._root / STATUS) != self._old[STATUS]

    def over(self) -> bool:
        """Whether this life has finished the run, though its process may still be about to end."""
        return self.begun() and finished(self._root)

    def step(self) -> int:
        """The last step in the log of this life, those before its checkpoint counted; 0 where there is none."""
        path = self._root / LOG
        if _changed(path) == self._old[LOG]:
            return 0
        return last_step(path)

    def saving(self) -> list[str]:
        """The folders that are being written, by the names they will have."""
        places = [self._root / name for name in _SAVED]
        found = [path for place in places for path in place.glob(f"{TEMPORARY}*") if path.is_dir()]
        return sorted({path.name.removeprefix(TEMPORARY) for path in found})

    def wait_for(self, moment: Moment, living: Callable[[], bool]) -> bool:
        """Return at a moment: whether the run still lived then."""
        while living() and not self.over():
            if self.begun() and self.step() >= moment.step and (not moment.saving or self.saving()):
                time.sleep(moment.delay)
                return living() and not self.over()
            time.sleep(_POLL)
        return False

    def follow(self, living: Callable[[], bool]) -> Course:
        """The course of a whole life."""
        while living() and not self.begun():
            time.sleep(_POLL)
        course, began, saving_since = Course(), time.perf_counter(), 0.0
        while living() and not self.over():
            now, step = time.perf_counter() - began, self.step()
            if step > (course.steps[-1][1] if course.steps else 0):
                course.steps.append((now, step))
            if (saving := bool(self.saving())) and not saving_since:
                saving_since = now
            elif saving_since and not saving:
                course.saves.append((_before(course.steps, saving_since), now - saving_since))
                saving_since = 0.0
            time.sleep(_POLL)
        course.seconds = time.perf_counter() - began
        while living():
            time.sleep(_POLL)
        return course


def finished(root: Path) -> bool:
    """Whether the run in a folder is said to be finished."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return read_json(root / STATUS)["status"] == "finished"
    return False


def last_step(path: Path) -> int:
    """The step of the last whole line of a log; 0 where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return 0
    for line in reversed(lines):
        if (row := _row(line)) is not None:
            return row["step"]
    return 0


def _row(line: bytes) -> Any:
    try:
        row = json.loads(line)
    except ValueError:  # cut off, by the writer or by us
        return None
    return row if isinstance(row, dict) and "step" in row else None


def _before(steps: list[tuple[float, int]], at: float) -> int:
    return max((step for when, step in steps if when <= at), default=0)


def _changed(path: Path) -> int:
    """When a file was last written, in nanoseconds; 0 where there is none."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0

"""A run that is killed again and again, against the same run left alone: equal to the bit? Knows no loop.

It sees runs from outside only: what starts one is handed over, and what it did is read from its folder.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from flagai.errors import FlagaiError
from flagai.train.checkpoint import MANIFEST
from flagai.train.logs import read_log
from flagai.verify.compare import Difference, Place, Row, by_place, compare_rows, compare_weights, missing_rows
from flagai.verify.processes import Life
from flagai.verify.watch import LOG, Course, During, Moment, Watch, finished

Start = Callable[[Path], Life]
"""root → one life of the run in that folder: begun, or continued"""

FINAL: Final = "final"
_PATIENCE: Final = 120.0
"""seconds that a life may take besides twenty times those of the undisturbed one"""


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One death of the run.

    Args:
        step: the last step in the log by then.
        during: what was being written, "" for nothing.
        checkpoint: step of the newest checkpoint with a manifest, from which the next life continues; None: of none.
        lines: lines in the log by then, each compared with that of the undisturbed run.
    """

    step: int
    during: str
    checkpoint: int | None
    lines: int


@dataclass(frozen=True, kw_only=True)
class ResumeProof:
    """What came of it.

    Args:
        asked: kills that were wanted; the run may be over before the last one.
        lines: lines of the final log, all of them compared.
        tensors: tensors of the final weights (and of the best ones), compared bit for bit.
        differences: what is not equal; empty: the proof holds.
        seconds: of the undisturbed run, and of all lives of the other one.
    """

    asked: int
    kills: tuple[Kill, ...]
    lines: int
    tensors: int
    differences: tuple[Difference, ...]
    seconds: tuple[float, float]

    @property
    def equal(self) -> bool:
        """Whether everything was equal, and something was killed."""
        return bool(self.kills) and not self.differences

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"equal": self.equal, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class Undisturbed:
    """A run that nobody killed: where it is, how it went, and the lines of its log."""

    root: Path
    course: Course
    rows: Mapping[Place, Row]
    seconds: float


def undisturbed(start: Start, root: Path) -> Undisturbed:
    """Run once and look on.

    Raises:
        FlagaiError: the run fails by itself.
    """
    watch, began = Watch(root), time.perf_counter()
    life = start(root)
    try:
        course = watch.follow(lambda: life.code() is None)
        if life.code():
            raise FlagaiError(
                f"the run fails undisturbed, with exit code {life.code()}:\n{life.output()}",
                where=str(root),
                fix="make it run first: flagai train",
            )
    finally:
        life.kill()
    rows = by_place(read_log(root / LOG))
    return Undisturbed(root=root, course=course, rows=rows, seconds=time.perf_counter() - began)


def random_moments(expected: Undisturbed, kills: int, seed: int, during: During = "anywhere") -> list[Moment]:
    """Moments to kill at, drawn evenly from the time of the undisturbed run.

    Args:
        seed: of the draw.
        during: "saves" draws only from the times when a folder was being written.

    Raises:
        FlagaiError: there are no such moments.
    """
    moments = expected.course.moments(kills, random.Random(seed), during)
    if not moments:
        raise FlagaiError(
            "the run was never seen saving",
            where=str(expected.root),
            expected="a checkpoint or a best model while it runs",
            fix="lower train.save_steps, or kill anywhere",
        )
    return moments


def prove(
    start: Start,
    expected: Undisturbed,
    root: Path,
    moments: Sequence[Moment],
    tell: Callable[[str], None] = lambda text: None,
) -> ResumeProof:
    """Kill a run at certain moments, continue it each time in the same way, and compare.

    Args:
        start: begins or continues the run.
        root: an empty folder, or none yet, for the run that is killed.
        tell: hears of each kill.
    """
    return _Disturbed(start, expected, root, tell).run(moments)


class _Disturbed:
    """The run that is killed, and what is learned of it."""

    def __init__(self, start: Start, expected: Undisturbed, root: Path, tell: Callable[[str], None]) -> None:
        self._start, self._expected, self._root, self._tell = start, expected, root, tell
        self._limit = 20 * expected.seconds + _PATIENCE
        self._differences: dict[str, Difference] = {}
        self._kills: list[Kill] = []

    def run(self, moments: Sequence[Moment]) -> ResumeProof:
        began = time.perf_counter()
        over = False
        for moment in moments:
            if over := not self._kill_at(moment):
                break
        if not over:
            self._live(None)
        rows = by_place(read_log(self._root / LOG))
        self._note(compare_rows(self._expected.rows, rows) + missing_rows(self._expected.rows, rows))
        tensors = 0
        for name in (FINAL, "best"):
            number, different = compare_weights(self._expected.root / name, self._root / name)
            tensors += number
            self._note(different)
        return ResumeProof(
            asked=len(moments),
            kills=tuple(self._kills),
            lines=len(rows),
            tensors=tensors,
            differences=tuple(self._differences.values()),
            seconds=(self._expected.seconds, time.perf_counter() - began),
        )

    def _kill_at(self, moment: Moment) -> bool:
        """Let it live until a moment: whether it was killed there, and not over before."""
        if not self._live(moment) or finished(self._root):
            return False
        rows = by_place(read_log(self._root / LOG))
        self._note(compare_rows(self._expected.rows, rows))
        last = max((step for _, step in rows), default=0)
        during = ", ".join(Watch(self._root).saving())
        kill = Kill(step=last, during=during, checkpoint=newest_complete(self._root), lines=len(rows))
        self._kills.append(kill)
        where = f" while {during} was written" if during else ""
        self._tell(f"kill {len(self._kills)}: after step {last}{where}; {self._verdict()}")
        return True

    def _live(self, moment: Moment | None) -> bool:
        """One life, to its end or to a moment: whether it was killed."""
        watch, end = Watch(self._root), time.monotonic() + self._limit
        life = self._start(self._root)

        def living() -> bool:
            return life.code() is None and time.monotonic() < end

        try:
            if moment is not None and watch.wait_for(moment, living):
                return True
            while living():
                time.sleep(0.02)
            self._check_end(life)
            return False
        finally:
            life.kill()

    def _check_end(self, life: Life) -> None:
        code = life.code()
        if code == 0:
            return
        found = f"no end after {self._limit:.0f} s" if code is None else f"exit code {code}"
        self._note([Difference(where="a continued run", expected="exit code 0", found=f"{found}:\n{life.output()}")])

    def _note(self, differences: list[Difference]) -> None:
        # What differs at one death differs at the next, too: it is told once.
        for difference in differences:
            self._differences.setdefault(difference.where, difference)

    def _verdict(self) -> str:
        return f"{len(self._differences)} differences" if self._differences else "all equal so far"


def newest_complete(root: Path) -> int | None:
    """The step of the newest checkpoint that has a manifest."""
    folders = [path.parent.name for path in root.glob(f"checkpoints/step-*/{MANIFEST}")]
    return max((int(name.removeprefix("step-")) for name in folders), default=None)

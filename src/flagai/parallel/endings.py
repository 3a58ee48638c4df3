"""What a launch has to tell at its end, from what its processes and their agent left. Starts and ends nothing."""

from __future__ import annotations

import json
import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from flagai.parallel import worker
from flagai.parallel.agent import FAILURES, LOG, TROUBLE

_LAST_LINES: Final = 20
_EXITED: Final = re.compile(r"failed \(exitcode: (-?\d+)\) local_rank: \d+ \(pid: (\d+)\)")
_SAME_MOMENT: Final = 1.5
"""seconds; the agent notices the end of a process later, and counts whole seconds"""
_ENDED_BY_AGENT: Final = -int(signal.SIGTERM)


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a launch ended.

    Args:
        kind: "stopped": on request; "follower": by an error whose cause is on another machine.
        text: what to show.
        code: the exit code that fits it.
        time: seconds since the epoch.
    """

    kind: Literal["done", "stopped", "failed", "follower"]
    text: str = ""
    code: int = 0
    time: float = 0.0


def ended(shared: Path, code: int, *, asked: bool) -> Ended:
    """The end of a launch whose agent left with an exit code.

    Args:
        shared: the folder of its processes.
        asked: whether they were asked to stop.
    """
    found = worker.reports(shared)
    stopped = [report for report in found if report.kind == "stopped"]
    if (stopped or asked) and not any(report.kind == "error" for report in found):
        return Ended(kind="stopped", text=stopped[0].text if stopped else "", code=1)
    if code == 0:
        return Ended(kind="done")
    last = max((report.attempt for report in found), default=0)
    return _failed(shared, [report for report in found if report.attempt == last])


def cause_of_restart(shared: Path, attempt: int) -> str:
    """Why the processes of an attempt are started again."""
    found = [report for report in worker.reports(shared) if report.attempt == attempt]
    if errors := [report for report in found if report.kind == "error"]:
        return worker.told(errors[0], found)
    rows = [row for row in worker.processes(shared) if row["attempt"] == attempt]
    if (lost := _in_the_log(shared, attempt)) and lost[0] < 0:
        return next((f"rank {row['rank']} {_how(lost[0])}" for row in rows if row["pid"] == lost[1]), _how(lost[0]))
    silent = sorted({row["rank"] for row in rows} - {report.rank for report in found})
    return f"rank {', '.join(map(str, silent))} ended without a word" if silent else "a process ended elsewhere"


def _in_the_log(shared: Path, attempt: int) -> tuple[int, int] | None:
    """Exit code and number of the process that the agent saw end first in an attempt."""
    exits = _EXITED.findall((shared / LOG).read_text("utf-8", "replace")) if (shared / LOG).is_file() else []
    return (int(exits[attempt][0]), int(exits[attempt][1])) if attempt < len(exits) else None


def _failed(shared: Path, found: list[worker.Report]) -> Ended:
    errors = [report for report in found if report.kind == "error"]
    lost = _lost(shared, found)
    if lost is not None and (not errors or lost["time"] <= errors[0].time + _SAME_MOMENT):
        return Ended(kind="failed", text=_of_process(shared, lost), code=1, time=lost["time"])
    if errors:
        return Ended(kind="failed", text=worker.told(errors[0], found), code=errors[0].code, time=errors[0].time)
    if found:
        return Ended(kind="follower", text=worker.told(found[0], found), code=1, time=found[0].time)
    return Ended(kind="failed", text=_trouble(shared), code=1)


def _lost(shared: Path, found: list[worker.Report]) -> dict[str, Any] | None:
    """The first process that ended without a word of its own, those that the agent ended left out."""
    if not (shared / FAILURES).is_file():
        return None
    spoke = {report.rank for report in found}
    rows = json.loads((shared / FAILURES).read_text("utf-8"))
    silent = [row for row in rows if row["rank"] not in spoke and row["code"] != _ENDED_BY_AGENT]
    return min(silent, key=lambda row: row["time"], default=None)


def _of_process(shared: Path, row: dict[str, Any]) -> str:
    lines = [f"rank {row['rank']} {_how(row['code'])}"]
    logs = sorted(shared.glob(f"log/*/attempt_*/{row['local_rank']}/stderr.log"))
    said = logs[-1].read_text("utf-8", "replace").splitlines()[-_LAST_LINES:] if logs else []
    return "\n".join([*lines, *(["  it said last:"] if said else []), *(f"  {line}" for line in said)])


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else "unknown"
    hint = ": so a system ends processes when it runs out of memory" if -code == signal.SIGKILL else ""
    return f"was ended by signal {-code} ({name}){hint}"


def _trouble(shared: Path) -> str:
    """What kept the machines from meeting, or else what the agent said."""
    if (shared / TROUBLE).is_file():
        return json.loads((shared / TROUBLE).read_text("utf-8"))
    log = (shared / LOG).read_text("utf-8", "replace") if (shared / LOG).is_file() else ""
    return f"the launcher ended with an error\n{log}".rstrip()

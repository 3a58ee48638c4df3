"""What a process says to the launcher that started it: its number, its end, its error. Knows no torch and no run.

They share a folder: each process leaves small JSON files in it, and finds there that it is to stop. A command is
started as `python -m flagai.parallel.worker <command>`, so that any program, ours or not, ends with its launcher.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from flagai.errors import ConfigError, FlagaiError, OtherRankError

FOLDER: Final = "FLAGAI_LAUNCH"
"""variable: the folder shared with the launcher"""
AGENT: Final = "FLAGAI_AGENT"
"""variable: the number of the process that started this one"""
STOP: Final = "stop"
_DIE_WITH_PARENT: Final = 1  # PR_SET_PDEATHSIG of Linux' prctl(2)
_BROKEN: Final = re.compile(
    r"gloo/|Gloo |NCCL|nccl|Connection (?:closed|reset|refused|was likely closed)|Broken pipe|Socket Timeout"
    r"|recvValue|sendBytes|Timed out waiting"
)


@dataclass(frozen=True, kw_only=True)
class Report:
    """How one process ended.

    Args:
        rank: its number among all.
        attempt: 0, or the number of the restart.
        kind: "stopped" on request; "error"; "follower": an error that another process was the cause of.
        text: what to show.
        code: exit code for the command line.
        time: seconds since the epoch.
        host: name of its machine.
    """

    rank: int
    attempt: int
    kind: str
    text: str
    code: int
    time: float
    host: str


def folder() -> Path | None:
    """The folder shared with the launcher; None where no launcher of ours started this process."""
    return Path(os.environ[FOLDER]) if FOLDER in os.environ else None


def attempt() -> int:
    """0, or how often the processes of this run were started again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def die_with_parent(parent: int) -> None:
    """End this process as soon as its parent is gone, however that happened: nobody would wait for it any more.

    Args:
        parent: number of the process that started this one.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def begin() -> None:
    """Say that this process is there, and end it where the run is to stop or to fail already.

    Does nothing in a process that no launcher of ours started.
    """
    shared = folder()
    if shared is None:
        return
    if AGENT in os.environ:
        die_with_parent(int(os.environ[AGENT]))
    _write(shared / f"process-{attempt()}-{_rank()}.json", {"rank": _rank(), "pid": os.getpid(), "attempt": attempt()})
    if (shared / STOP).exists():
        sys.exit(0)
    # What the user has to mend is not mended by another start.
    hopeless = [r for r in reports(shared) if r.attempt < attempt() and r.kind == "error" and r.code == _USAGE]
    if hopeless:
        _leave(hopeless[0].kind, hopeless[0].text, hopeless[0].code)
        sys.exit(_USAGE)


_USAGE: Final = 2


def report(error: BaseException, *, places: str = "") -> None:
    """Leave the error of this process for the launcher.

    Args:
        places: where the processes were last seen, for an error of the connection.
    """
    if isinstance(error, OtherRankError) or is_broken(error):
        return _leave("follower", plain(error, places), 1)
    if isinstance(error, FlagaiError):
        return _leave("error", str(error), _USAGE if isinstance(error, ConfigError) else 1)
    _leave("error", "".join(traceback.format_exception(error)).rstrip(), 1)


def stopped(text: str) -> None:
    """Leave word that this process stopped on request; `text` says how to go on."""
    _leave("stopped", text, 0)


def is_broken(error: BaseException) -> bool:
    """Whether the error is one of the connection to other processes, which may have ended for a reason of their own."""
    if isinstance(error, FlagaiError):
        return False
    distributed = type(error).__name__ in ("DistBackendError", "DistNetworkError", "DistStoreError")
    return distributed or (isinstance(error, RuntimeError) and bool(_BROKEN.search(str(error))))


def reports(shared: Path) -> list[Report]:
    """What the processes left, in the order of time."""
    found = [Report(**json.loads(path.read_text("utf-8"))) for path in shared.glob("report-*.json")]
    return sorted(found, key=lambda r: r.time)


def processes(shared: Path) -> list[dict[str, int]]:
    """rank, pid and attempt of all that have begun."""
    return [json.loads(path.read_text("utf-8")) for path in shared.glob("process-*.json")]


def told(first: Report, found: Sequence[Report]) -> str:
    """An error, with its rank unless all processes of its attempt say the same."""
    texts = [r.text for r in found if r.attempt == first.attempt]
    return first.text if len(texts) > 1 and set(texts) == {first.text} else f"rank {first.rank}: {first.text}"


def plain(error: BaseException, places: str = "") -> str:
    """An error of the connection in a line or two: the pages below it are torch's own stack."""
    if isinstance(error, FlagaiError):
        return str(error)
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return "\n  ".join(filter(None, (f"the connection to the other processes broke: {line}", places)))


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _leave(kind: str, text: str, code: int) -> None:
    shared = folder()
    if shared is None:
        return
    made = Report(
        rank=_rank(), attempt=attempt(), kind=kind, text=text, code=code, time=time.time(), host=socket.gethostname()
    )
    _write(shared / f"report-{made.attempt}-{made.rank}.json", asdict(made))


def _write(path: Path, value: object) -> None:
    """Whole or not at all: the launcher may look at any moment."""
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(value), encoding="utf-8")
    unfinished.replace(path)


def main(command: Sequence[str]) -> None:
    """Become a command, after `begin`: what Linux does when the parent ends survives that."""
    begin()
    os.execvp(command[0], list(command))


if __name__ == "__main__":
    main(sys.argv[1:])

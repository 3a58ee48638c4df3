"""A command with all that it starts, which can be killed at once, as a power cut or a scheduler does. Knows no run."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Final, Protocol

_MARK: Final = "FLAGAI_VERIFY"
_PROC: Final = Path("/proc")


class Life(Protocol):
    """One life of a run: from a start to its end or its death."""

    def code(self) -> int | None:
        """The exit code; None while it lives."""
        ...

    def kill(self) -> None:
        """SIGKILL to all of its processes; returns when none is left."""
        ...

    def output(self) -> str:
        """The last lines that it wrote."""
        ...


class Command:
    """A command that has begun to run, in a session of its own.

    Launchers give their workers sessions of their own, too, and those outlive a kill of the first one. So everything
    that the command starts carries a mark in its environment, by which it is found (on Linux).

    Args:
        command: an argument list.
        log: file that takes what it writes.
        environment: variables besides those of this process.
    """

    def __init__(self, command: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None) -> None:
        self._mark = f"{_MARK}={uuid.uuid4().hex}"
        self._log = log
        name, _, value = self._mark.partition("=")
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **(environment or {}), name: value},
            )

    def code(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """SIGKILL to the command and to all that carries its mark; returns when none is left."""
        if self._process.poll() is None:  # else its number may be another's by now
            os.killpg(self._process.pid, signal.SIGKILL)
        while left := _marked(self._mark):
            for number in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            time.sleep(0.01)
        self._process.wait()

    def output(self) -> str:
        """The last lines that it wrote."""
        return "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-30:])


@contextlib.contextmanager
def ended_together() -> Iterator[None]:
    """While entered, SIGTERM ends this process as Ctrl-C does, so that what it started is killed first."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    old = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)


def _marked(mark: str) -> list[int]:
    """The living processes that were started with a mark in their environment; none where there is no /proc."""
    if not _PROC.is_dir():
        return []
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit() and _carries(entry, mark.encode())]


def _carries(entry: Path, mark: bytes) -> bool:
    # Processes end while one looks at them, and those of others may not be read; a dead one's environment is empty.
    with contextlib.suppress(OSError):
        return mark in (entry / "environ").read_bytes().split(b"\0")
    return False

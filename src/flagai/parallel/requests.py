"""Ctrl-C and SIGTERM as requests to a launcher. Knows no process: only what was asked for, and how often."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Final, Self

_ONE_REQUEST: Final = 3.0
"""seconds in which several signals are one request: a terminal and a wrapper may both send one"""


class Requests:
    """While entered, the first SIGINT or SIGTERM sets `asked`, one more than three seconds later `insisted`."""

    def __init__(self) -> None:
        self.asked = self.insisted = False
        self._since = 0.0
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # Only the main thread may set handlers; elsewhere nobody presses Ctrl-C for this launch alone.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def ask(self) -> None:
        """The first request, from wherever it comes."""
        if not self.asked:
            self.asked, self._since = True, time.monotonic()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.insisted = self.insisted or (self.asked and time.monotonic() - self._since > _ONE_REQUEST)
        self.ask()

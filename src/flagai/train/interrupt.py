"""Ctrl-C and SIGTERM as a request to stop at the next safe point, agreed between processes. Knows no loop."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Final, Self

from flagai.parallel import world

_ONE_REQUEST: Final = 3.0
"""seconds in which the signals of a terminal and of a launcher, which passes them on, are one request"""


class Interrupt:
    """While entered, the first SIGINT or SIGTERM sets `requested`; a second one stops at once (KeyboardInterrupt).

    With several processes, a launcher passes on what the terminal has sent already: what comes within three seconds is
    the same request.
    """

    def __init__(self) -> None:
        self.requested = False
        self._since = 0.0
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # Only the main thread may set handlers; elsewhere (a notebook's worker) the default stays.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def agreed(self) -> bool:
        """Whether any process was asked to stop; all processes call it at the same point, and all get the same."""
        if world.any_of(self.requested) and not self.requested:
            self.requested, self._since = True, time.monotonic()
        return self.requested

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.requested and (world.size() == 1 or now - self._since > _ONE_REQUEST):
            raise KeyboardInterrupt
        if not self.requested:
            self.requested, self._since = True, now


class Interrupted(Exception):
    """The run stopped on request; its folder continues with the same command."""

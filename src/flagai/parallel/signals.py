"""SIGINT and SIGTERM as calls of a function, and which of them are one request. Knows no run and no process."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

ONE_REQUEST: Final = 3.0
"""seconds in which several signals are one request: a terminal and a launcher or a wrapper may both send one"""


class Request:
    """Something that was asked for, and since when."""

    def __init__(self) -> None:
        self.made = False
        self._since = 0.0

    def make(self) -> None:
        """The first time counts, from wherever it comes."""
        if not self.made:
            self._since = time.monotonic()  # before `made`: a signal may come in between
            self.made = True

    def is_past(self) -> bool:
        """Whether it was made so long ago that a signal of now is another one."""
        return self.made and time.monotonic() - self._since > ONE_REQUEST


@contextmanager
def signals(handle: Callable[[], None]) -> Iterator[None]:
    """Within it SIGINT and SIGTERM call `handle`; after it they do what they did before.

    Only the main thread may set handlers: in another one (a notebook's worker) the signals stay as they are.
    """
    old: dict[int, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                old[number] = signal.signal(number, lambda number, frame: handle())
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)

"""Ctrl-C and SIGTERM as a request to stop at the next safe point, agreed between processes. Knows no loop."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Self

from flagai.parallel import world
from flagai.parallel.signals import Request, signals


class Interrupt:
    """While entered, the first SIGINT or SIGTERM sets `requested`; a second one stops at once (KeyboardInterrupt).

    With several processes, a launcher passes on what the terminal has sent already: what comes within three seconds is
    the same request.
    """

    def __init__(self) -> None:
        self._request, self._signals = Request(), ExitStack()

    @property
    def requested(self) -> bool:
        return self._request.made

    def __enter__(self) -> Self:
        self._signals.enter_context(signals(self._handle))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._signals.close()

    def agreed(self) -> bool:
        """Whether any process was asked to stop; all processes call it at the same point, and all get the same."""
        if world.any_of(self.requested):
            self._request.make()
        return self.requested

    def _handle(self) -> None:
        if self._request.is_past() or (self.requested and world.size() == 1):
            raise KeyboardInterrupt
        self._request.make()


class Interrupted(Exception):
    """The run stopped on request; its folder continues with the same command."""

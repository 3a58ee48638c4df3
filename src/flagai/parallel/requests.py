"""Ctrl-C and SIGTERM as requests to a launcher. Knows no process: only what was asked for, and how often."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Self

from flagai.parallel.signals import Request, signals


class Requests:
    """While entered, the first SIGINT or SIGTERM sets `asked`, one more than three seconds later `insisted`."""

    def __init__(self) -> None:
        self.insisted = False
        self._request, self._signals = Request(), ExitStack()

    @property
    def asked(self) -> bool:
        return self._request.made

    def __enter__(self) -> Self:
        self._signals.enter_context(signals(self._handle))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._signals.close()

    def ask(self) -> None:
        """The first request, from wherever it comes."""
        self._request.make()

    def _handle(self) -> None:
        self.insisted = self.insisted or self._request.is_past()
        self.ask()

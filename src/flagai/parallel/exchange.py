"""What is asked of those who sum gradients over processes with different examples. Knows no way of doing it."""

from __future__ import annotations

from typing import Protocol


class Exchange(Protocol):
    """How the gradients of processes with different examples become one sum."""

    def arm(self) -> None:
        """The next backward is the last of this step."""

    def finish(self) -> None:
        """All backwards are done."""

    def close(self) -> None:
        """The model is given up."""


class Alone:
    """No other process has other examples."""

    def arm(self) -> None:
        """Nobody waits."""

    def finish(self) -> None:
        """Nothing to send."""

    def close(self) -> None:
        """Nothing to take off."""

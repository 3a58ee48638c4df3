"""Work that all processes do together, in a group of its own: a thread may meet there beside the training.

It knows neither what the work is nor what the values mean.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from flagai.errors import OtherRankError
from flagai.parallel import world

T = TypeVar("T")


class Company:
    """All processes; with one alone, every meeting is over at once. Making one is collective.

    One thread of each process may use it at a time, all in the same order.
    """

    def __init__(self) -> None:
        self.size, self.rank = world.size(), world.rank()
        self._group: Any = None
        if self.size > 1:
            self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=world.patience()))

    @property
    def is_first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def everyone(self, value: T) -> list[T]:
        """The values of all processes, on each of them."""
        if self._group is None:
            return [value]
        told: list[Any] = [None] * self.size
        dist.all_gather_object(told, value, group=self._group)
        return told

    def together(self, work: Callable[[], T]) -> list[T]:
        """What `work` gives on each process; all of them wait for all.

        Raises:
            the error: where the work of this process failed.
            OtherRankError: where that of another one did.
        """
        value: Any = None
        error: Exception | None = None
        try:
            value = work()
        except Exception as caught:
            error = caught
        told = self.everyone((value, None if error is None else world.describe(error)))
        if error is not None:
            raise error
        for rank, (_, text) in enumerate(told):
            if text is not None:
                raise OtherRankError(f"rank {rank} stopped: {text}")
        return [found for found, _ in told]

    def first(self, work: Callable[[], T]) -> T:
        """What `work` gives on the first process, on all; the others only wait. Errors: as for `together`."""
        found: list[Any] = self.together(lambda: work() if self.is_first else None)
        return found[0]


def company(name: str) -> Company:
    """The company of this name in the present world; the first call is collective."""
    return world.once(("company", name), Company)

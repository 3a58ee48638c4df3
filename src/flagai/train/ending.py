"""A run of several processes that ends by an error: whose error it was. Knows neither loop nor folder."""

from __future__ import annotations

import time
from typing import Final

from flagai.errors import OtherRankError
from flagai.parallel import world
from flagai.parallel.worker import is_broken

_A_MOMENT: Final = 2.0
"""seconds in which the process that failed first has left word of it"""


def broken(error: BaseException) -> BaseException:
    """What is to be raised for an error: itself, or that of another process, which broke the connection to this one.

    An error of this process is left for the others, who will wait for it in vain.
    """
    if world.size() == 1 or not isinstance(error, Exception):
        return error
    if isinstance(error, OtherRankError):
        return error
    if not is_broken(error):
        world.leave(error)
        return error
    end = time.monotonic() + _A_MOMENT
    while (left := world.left()) is None and time.monotonic() < end:
        time.sleep(0.05)
    if left is None:
        found = f"the connection to another process broke: {_line(error)}"
        left = OtherRankError(found, fix="look at the rank that stayed behind; " + world.last_seen())
    return left


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

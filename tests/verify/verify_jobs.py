"""Work for the processes of a world: right, wrong, and dying."""

from __future__ import annotations

import os
from typing import Any


def place() -> dict[str, Any]:
    """Where this process stands, and the sum of all numbers."""
    import torch
    import torch.distributed as dist

    if not dist.is_initialized():
        return {"rank": os.environ.get("RANK"), "size": 1, "sum": 0.0}
    total = torch.tensor([float(dist.get_rank())])
    dist.all_reduce(total)
    return {"rank": os.environ["RANK"], "size": dist.get_world_size(), "sum": total.item()}


def fail(on: int) -> None:
    """One process has an error while the others wait for it."""
    import torch.distributed as dist

    if dist.get_rank() == on:
        raise ValueError("on purpose")
    dist.barrier()


def refuse() -> None:
    from flagai.errors import ConfigError

    raise ConfigError("of ours")


def die() -> None:
    os._exit(3)


def wrong_count(settings: dict[str, Any]) -> None:
    """A training whose gradients are divided by one example too few in a hundred."""
    from flagai.parallel.spread import Spread
    from flagai.verify.parallel import train_here

    right = Spread.clip

    def clip(self: Spread, max_norm: float | None) -> float:
        self._count *= 0.99
        return right(self, max_norm)

    Spread.clip = clip  # type: ignore[method-assign]
    try:
        train_here(settings)
    finally:
        Spread.clip = right  # type: ignore[method-assign]


def wait() -> None:
    import time

    time.sleep(30)

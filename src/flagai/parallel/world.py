"""All processes of a run as one: who is first, what all agree on, where one is missing. Knows no model and no grid.

Every function works in a single process too, where torch.distributed was never started. Those that talk are
collective: all processes call them, in the same order.
"""

from __future__ import annotations

import contextlib
import gc
import json
import secrets
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, _get_default_store

from flagai.errors import ConfigError, FlagaiError, OtherRankError, WorldError
from flagai.parallel import meeting, surroundings
from flagai.parallel.surroundings import patience

T = TypeVar("T")

_BACKENDS: Final = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
_LONGEST_NAP: Final = 0.05
"""seconds between two looks at the store while waiting"""
_UNKNOWN: Final = "its start"
_WORLD: Final = "the world that all of this was made in"


def open_world(device: torch.device) -> int:
    """The number of processes; joins the others where a launcher started this one and nothing else did so.

    Torchrun, DeepSpeed, MPI and Slurm are recognised by their variables (`surroundings`).

    Raises:
        ConfigError: the process was started by nothing that says who the others are.
        WorldError: some of them did not come, or the first one cannot be reached.
    """
    if not dist.is_initialized():
        found = surroundings.adopt()
        if found is None:
            raise ConfigError(
                "this process does not know of others",
                where="parallel.strategy",
                expected="the variables RANK, WORLD_SIZE and MASTER_ADDR that torchrun sets",
                fix="start it by `flagai train`, or by: torchrun --nproc-per-node <number> …, or take strategy single",
            )
        meeting.join(found, _BACKENDS.get(device.type, "gloo"))
        _channel()
    return dist.get_world_size()


def processes() -> int:
    """How many processes this run has: those joined, or else those that the environment says were started."""
    if dist.is_initialized():
        return dist.get_world_size()
    found = surroundings.adopt()
    return 1 if found is None else found.size


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """All processes that are joined; 1 where there is no process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this process writes and speaks for all."""
    return rank() == 0


def from_first(value: T) -> T:
    """The value of the first process, on all.

    Args:
        value: what JSON can hold; counts on the first process only. Tuples come back as lists, also in one process.
    """
    text = json.dumps(value) if is_first() else ""
    return json.loads(_sent(text, 0) if size() > 1 else text)


def any_of(flag: bool) -> bool:
    """Whether the flag is set on any process."""
    if size() == 1:
        return flag
    seen = torch.tensor([int(flag)])
    dist.all_reduce(seen, op=dist.ReduceOp.MAX, group=_channel().group)
    return bool(seen.item())


def raise_together(error: BaseException | None) -> None:
    """Nothing where no process has an error; else an error on all.

    Raises:
        the error: where this process has one.
        OtherRankError: where it has none: the first failing rank and its message.
    """
    if size() > 1:
        everyone = size()
        first = torch.tensor([everyone if error is None else rank()])
        dist.all_reduce(first, op=dist.ReduceOp.MIN, group=_channel().group)
        if (failing := int(first.item())) < everyone:
            text = _sent("" if error is None else describe(error), failing)
            if error is None:
                raise OtherRankError(f"rank {failing} stopped: {text}")
    if error is not None:
        raise error


def describe(error: BaseException) -> str:
    """An error as other processes show it: our own speak for themselves, others bear the name of their class."""
    return str(error) if isinstance(error, FlagaiError) else f"{type(error).__name__}: {error}".rstrip(": ")


def note(place: str) -> None:
    """Leave word where this process is, for those that may wait for it in vain; not collective."""
    if _is_open():
        _open[0].note(place)


def barrier(name: str, timeout: float | None = None) -> None:
    """Wait until all processes have come to the barrier of this name.

    Args:
        name: where the run is, for instance "save step 20"; the same on all.
        timeout: seconds; None: `patience()`.

    Raises:
        WorldError: some did not come; each is named with the place where it was last seen.
    """
    if size() > 1:
        _channel().meet(name, patience() if timeout is None else timeout)


def leave(error: BaseException) -> None:
    """Leave the error that ends this process for those that will wait for it in vain; not collective."""
    if _is_open():
        with contextlib.suppress(RuntimeError):  # where the store is gone, nobody reads it any more
            _open[0].leave(f"rank {rank()} stopped: {describe(error)}")


def left() -> OtherRankError | None:
    """The error that another process left, the first one of several; not collective."""
    if not _is_open():
        return None
    with contextlib.suppress(RuntimeError):
        if text := _open[0].left():
            return OtherRankError(text)
    return None


def last_seen() -> str:
    """Where each process was last, as far as they left word (`note`, `barrier`); "" where nobody can be asked."""
    if not _is_open():
        return ""
    try:
        places = _open[0].places()
    except RuntimeError:  # whoever held the store is gone too
        return ""
    return "; ".join(f"rank {i} was last seen at '{place}'" for i, place in places.items())


class _Channel:
    """The talk about the run itself, beside that about numbers: a group and keys in the store of its own."""

    def __init__(self) -> None:
        self.world: Any = dist.group.WORLD
        self.group: Any = dist.new_group(backend="gloo", timeout=timedelta(seconds=patience()))
        # A second world of the same processes may find the store of the first one.
        mine = torch.tensor([secrets.randbits(32)])
        dist.broadcast(mine, 0, group=self.group)
        self._store = PrefixStore(f"flagai/{mine.item():x}", _get_default_store())
        self._visits: Counter[str] = Counter()

    def note(self, place: str) -> None:
        self._store.set(f"place/{rank()}", place)

    def leave(self, text: str) -> None:
        """The first that comes stays."""
        self._store.compare_set("error", "", text)

    def left(self) -> str:
        """The error that was left by another process, "" for none."""
        text = self._read("error")
        return "" if text.startswith(f"rank {rank()} ") else text

    def places(self) -> dict[int, str]:
        """Where each process was last seen."""
        return {i: self._read(f"place/{i}") or _UNKNOWN for i in range(size())}

    def meet(self, name: str, seconds: float) -> None:
        """Looks at the store again and again: a blocking wait would keep other threads from using it."""
        self._visits[name] += 1
        visit = f"barrier/{name}/{self._visits[name]}"
        self.note(name)
        self._store.set(f"{visit}/{rank()}", "here")
        if self._store.add(f"{visit}/count", 1) == size():
            self._store.set(f"{visit}/open", "yes")
        end, nap = time.monotonic() + seconds, 0.0005
        while not self._store.check([f"{visit}/open"]):
            if time.monotonic() > end:
                raise self._late(name, visit, seconds)
            time.sleep(nap)
            nap = min(2 * nap, _LONGEST_NAP)

    def _late(self, name: str, visit: str, seconds: float) -> WorldError:
        absent = [i for i in range(size()) if not self._store.check([f"{visit}/{i}"])]
        places = self.places()
        told = "; ".join(f"rank {i} did not come to '{name}': it was last seen at '{places[i]}'" for i in absent)
        return WorldError(
            told or f"'{name}' was reached by all processes too late",
            expected=f"all {size()} processes within {seconds:g} seconds",
            fix="look at what that rank was doing; if it was only slow, set FLAGAI_TIMEOUT to more seconds",
        )

    def _read(self, key: str) -> str:
        return self._store.get(key).decode() if self._store.check([key]) else ""


_kept: dict[Any, Any] = {}
_open: list[_Channel] = []
"""the channel of the present world, if any"""


def _is_open() -> bool:
    return dist.is_initialized() and bool(_open) and _open[0].world is dist.group.WORLD


def _channel() -> _Channel:
    """That of the present world; made by all processes at their first talk."""
    if not _is_open():
        _open[:] = [_Channel()]
    return _open[0]


def _sent(text: str, source: int) -> str:
    """The text of one process, on all."""
    group, sends = _channel().group, rank() == source
    data = text.encode()
    length = torch.tensor([len(data)])
    dist.broadcast(length, source, group=group)
    numbers = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data and sends else None
    if numbers is None:
        numbers = torch.empty(int(length.item()), dtype=torch.uint8)
    if len(numbers):
        dist.broadcast(numbers, source, group=group)
    return numbers.numpy().tobytes().decode()


def once(key: Any, make: Callable[[], T]) -> T:
    """What is made once in the present world: groups, above all, each of which costs a thread that never rests."""
    present = dist.group.WORLD if dist.is_initialized() else None
    if _kept.get(_WORLD) is not present:
        _kept.clear()
        _kept[_WORLD] = present
    if key not in _kept:
        _kept[key] = make()
    return _kept[key]


def forget() -> None:
    """Let go of what was kept of a world that is left: its groups end when nobody holds them."""
    _kept.clear()
    _open.clear()
    gc.collect()


def close() -> None:
    """Leave the world; all processes call it when their work is done, and none leaves before the others are there."""
    if dist.is_initialized():
        barrier("the end")
        dist.destroy_process_group()
        forget()


def total(values: torch.Tensor, group: Any = None) -> torch.Tensor:
    """The sum over a group (all processes by default), in place."""
    dist.all_reduce(values, group=group)
    return values

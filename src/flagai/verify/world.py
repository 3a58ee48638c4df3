"""A few processes on this machine that live long and do one job after another, in worlds of any size up to theirs.

It knows no model: a job is a function of plain arguments, named by module and name. Importing what a job needs takes
most of the time of a short one, and is done once here.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any, Final

from flagai.errors import FlagaiError

PATIENCE: Final = 300.0
"""seconds that a job may take"""
_VARIABLES: Final = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")


class JobError(FlagaiError):
    """A job failed on one of the processes: `found` is its error there, `trace` where it came from.

    `explained` says whether it was an error of ours, which a user's settings call for; else something is broken.
    """

    trace = ""
    explained = False


class World:
    """Processes that wait for work. After an error, or a job that took too long, the next job gets new ones.

    Args:
        size: how many.
        folder: for meeting points.
        preload: modules that are imported before the processes are forked.
    """

    def __init__(self, size: int, folder: str, preload: Sequence[str] = ()) -> None:
        self.size, self._folder, self._preload = size, folder, ["torch", *preload]
        self._jobs = 0
        self._pipes: list[Any] = []
        self._processes: list[Any] = []

    def run(self, job: str, processes: int, patience: float = PATIENCE, **arguments: Any) -> list[Any]:
        """What "module:function" gives on each of the first so many processes, which see no others.

        Raises:
            JobError: it fails on one of them, or takes longer than `patience`.
        """
        if not self._processes:
            self._start()
        self._jobs += 1
        pipes = self._pipes[:processes]
        for rank, pipe in enumerate(pipes):
            pipe.send((job, rank, processes, f"{self._folder}/meeting-{self._jobs}", arguments))
        results: dict[Any, Any] = {}
        while len(results) < processes:
            ready = wait([pipe for pipe in pipes if pipe not in results], patience)
            if not ready:
                raise self._failed(f"{processes - len(results)} of {processes} processes gave no answer")
            for pipe in ready:
                fine, results[pipe] = self._received(pipe)
                if not fine:  # the others may wait for this one for ever
                    raise self._failed(*results[pipe])
        return [results[pipe] for pipe in pipes]

    def stop(self) -> None:
        """End the processes of this world."""
        for process in self._processes:
            process.kill()
            process.join()
        self._pipes.clear()
        self._processes.clear()

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(self._preload)
        for _ in range(self.size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def _received(self, pipe: Any) -> tuple[bool, Any]:
        try:
            return pipe.recv()
        except EOFError:
            return False, ("a process died without a word",)

    def _failed(self, found: str, trace: str = "", explained: bool = False) -> JobError:
        self.stop()
        error = JobError(found)
        error.trace, error.explained = trace, explained
        return error


@contextmanager
def world(size: int, preload: Sequence[str] = ()) -> Iterator[World]:
    """A world of so many processes."""
    with tempfile.TemporaryDirectory() as folder:
        made = World(size, folder, preload)
        try:
            yield made
        finally:
            made.stop()


def _work(pipe: Any) -> None:
    """Jobs until the pipe is closed."""
    import torch

    torch.set_num_threads(1)
    while True:
        try:
            job, rank, processes, meeting, arguments = pipe.recv()
        except EOFError:
            return
        answer = None
        try:
            with _joined(rank, processes, meeting):
                answer = _done(job, arguments)
                # Told before the world is left: the others see nothing but a broken connection then.
                pipe.send(answer)
        except Exception as error:
            if answer is not None:
                raise  # one that cannot leave its world is of no use for the next job
            pipe.send(_told(error))


def _done(job: str, arguments: Mapping[str, Any]) -> tuple[bool, Any]:
    module, _, name = job.partition(":")
    try:
        return True, getattr(importlib.import_module(module), name)(**arguments)
    except Exception as error:
        return _told(error)


def _told(error: Exception) -> tuple[bool, Any]:
    ours = isinstance(error, FlagaiError)
    return False, (str(error) if ours else f"{type(error).__name__}: {error}", traceback.format_exc(), ours)


@contextmanager
def _joined(rank: int, processes: int, meeting: str) -> Iterator[None]:
    """A world of so many processes for the time of one job; of one: none at all, as in any process."""
    import torch.distributed as dist

    before = {name: os.environ.pop(name, None) for name in _VARIABLES}
    if processes > 1:
        os.environ |= _variables(rank, processes)
        store = dist.FileStore(meeting, processes)  # pyright: ignore[reportPrivateImportUsage]
        dist.init_process_group("gloo", store=store, rank=rank, world_size=processes)
    try:
        yield
    finally:
        if dist.is_initialized():
            _leave()
        for name, value in before.items():
            _set(name, value)


def _leave() -> None:
    """Give up the world; DeepSpeed, where it was used, keeps groups of its own and must give them up with it."""
    import torch.distributed as dist

    from flagai.parallel import world

    comm: Any = sys.modules.get("deepspeed.comm")
    if comm is not None and comm.is_initialized():
        comm.destroy_process_group()
    else:
        dist.destroy_process_group()
    world.forget()


def _variables(rank: int, processes: int) -> Mapping[str, str]:
    numbers = {"RANK": rank, "WORLD_SIZE": processes, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": processes}
    return {**{name: str(number) for name, number in numbers.items()}, "LOCAL_SIZE": str(processes)}


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value

"""Lives of a tiny run for the tests that kill: forked from a process that has imported everything before."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import uuid
from collections.abc import Callable, Mapping
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

PRELOAD = ["torch", "transformers", "flagai.train.trainer", "flagai.tasks.classification", "sklearn.metrics"]
IN_EVALUATION = "dies in an evaluation behind example"
"""what a life says that does not survive one"""


class ForkedLife:
    """One life of a run on one or more processes.

    Args:
        settings: of the run, `output` among them.
        processes: how many ranks.
        at: event of the file system at which the first rank kills itself, counted from 1; None: at none.
        evaluation: which of its evaluations this life does not survive, counted from 1; None: it survives all.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        processes: int = 1,
        at: int | None = None,
        evaluation: int | None = None,
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        beside = f"{settings['output']}.{uuid.uuid4().hex}"
        self.said, self.events, store = Path(f"{beside}.said"), Path(f"{beside}.events"), f"{beside}.store"
        files = (store, str(self.said), str(self.events))
        arguments = [(dict(settings), rank, processes, *files, at, evaluation) for rank in range(processes)]
        self.processes = [context.Process(target=_live, args=given, daemon=True) for given in arguments]
        for process in self.processes:
            process.start()

    def code(self) -> int | None:
        """The exit code of the first that failed, else 0; None while all that are left are well."""
        codes = [process.exitcode for process in self.processes]
        failed = next((code for code in codes if code), None)
        return failed if failed is not None or None in codes else 0

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()

    def wait(self, seconds: float = 120.0) -> int | None:
        """The exit code once it is over; the others of a rank that failed are killed."""
        while self.code() is None:
            left = [process.sentinel for process in self.processes if process.exitcode is None]
            if not wait(left, seconds):
                break
        code = self.code()
        self.kill()
        return code

    def output(self) -> str:
        return self.said.read_text(encoding="utf-8", errors="replace")[-3000:] if self.said.is_file() else ""


def starter(settings: Mapping[str, Any], processes: int = 1) -> Callable[[Path], ForkedLife]:
    """What `flagai.verify.resume` starts lives by."""
    return lambda root: ForkedLife({**settings, "output": str(root)}, processes)


def _live(
    settings: dict[str, Any],
    rank: int,
    processes: int,
    store: str,
    said: str,
    events: str,
    at: int | None,
    evaluation: int | None,
) -> None:
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    import torch

    torch.set_num_threads(1)
    if processes > 1:
        _join(rank, processes, store)
    if rank == 0:
        Counter(Path(settings["output"]), Path(events), at).install()
    from flagai import Trainer, load_config
    from flagai.predict import loop

    loop.BATCH_TOKENS = 64  # so that an evaluation of few texts has a middle
    watchers: list[Any] = [_Said(evaluation)]
    Trainer(load_config(settings), callbacks=watchers).train()


class _Said:
    """Messages of the run on stdout; and death in the middle of the n-th evaluation, between two of its batches."""

    def __init__(self, evaluation: int | None) -> None:
        self.evaluation, self.begun, self.done = evaluation, 0, 0

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **more: None

    def on_message(self, text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def on_evaluation_progress(self, done: int, total: int) -> None:
        self.begun += done <= self.done or not self.begun
        self.done = done
        if self.evaluation == self.begun and done < total:
            self.on_message(f"{IN_EVALUATION} {done} of {total}")
            os.kill(os.getpid(), signal.SIGKILL)


def _join(rank: int, processes: int, store: str) -> None:
    import torch.distributed as dist

    numbers = {"RANK": rank, "WORLD_SIZE": processes, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": processes}
    os.environ |= {name: str(number) for name, number in numbers.items()}
    meeting = dist.FileStore(store, processes)  # pyright: ignore[reportPrivateImportUsage]
    dist.init_process_group("gloo", store=meeting, rank=rank, world_size=processes)


class Counter:
    """Counts what this process does to the folders of models below a root, and dies at the n-th of these events.

    Opening for writing, renaming, making and removing are told by Python's audit events; writing and flushing of open
    files are wrapped.
    """

    WRAPPED = ("fsync", "fdatasync", "write", "pwrite", "ftruncate", "posix_fallocate")
    AUDITED = frozenset({"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.link"})

    def __init__(self, root: Path, told: Path, at: int | None) -> None:
        self.roots = tuple(str(root / name) for name in ("checkpoints", "best", "final", ".writing-"))
        self.told, self.at, self.number = told, at, 0

    def install(self) -> None:
        sys.addaudithook(self._audit)
        for name in self.WRAPPED:
            setattr(os, name, self._wrapped(getattr(os, name)))

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in self.AUDITED:
            self._count(event, arguments[0])

    def _wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(number: int, *more: Any) -> Any:
            self._count(function.__name__, os.readlink(f"/proc/self/fd/{number}"))
            return function(number, *more)

        return call

    def _count(self, event: str, path: Any) -> None:
        if not isinstance(path, str | os.PathLike) or not os.fspath(path).startswith(self.roots):
            return
        self.number += 1
        if self.at == self.number:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.at is None:
            with self.told.open("a") as file:
                file.write(f"{event} {path}\n")

"""A few processes joined by gloo that live as long as a test module and do one job after another."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any

PATIENCE = 240.0
"""seconds that a job may take on a busy machine"""


class World:
    """Processes that wait for work: `run("job", …)` runs `spread_jobs.job(…)` on all and gives the results.

    "module:job" runs that of another module.
    """

    def __init__(self, size: int, folder: str) -> None:
        self.size, self.folder, self.started = size, folder, 0
        self.pipes: list[Any] = []
        self.processes: list[Any] = []

    def start(self) -> None:
        """New processes, with a meeting point of their own."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(
            ["torch", "transformers", "flagai.parallel.spread", "flagai.models.glm.modeling"]
        )
        self.started += 1
        for rank in range(self.size):
            ours, theirs = context.Pipe()
            arguments = (theirs, rank, self.size, f"{self.folder}/store{self.started}")
            process = context.Process(target=_work, args=arguments, daemon=True)
            process.start()
            self.pipes.append(ours)
            self.processes.append(process)

    def run(self, job: str, **arguments: Any) -> list[Any]:
        """The results of all ranks, or the first error of any; after an error the next job gets new processes."""
        if not self.processes:
            self.start()
        for pipe in self.pipes:
            pipe.send((job, arguments))
        results: dict[Any, Any] = {}
        while len(results) < self.size:
            ready = wait([pipe for pipe in self.pipes if pipe not in results], PATIENCE)
            if not ready:
                self.stop()
                raise TimeoutError(f"{self.size - len(results)} processes gave no answer to {job}")
            for pipe in ready:
                fine, results[pipe] = pipe.recv()
                if not fine:  # the others may wait for this one for ever
                    self.stop()
                    raise AssertionError("\n".join(results[pipe]))
        return [results[pipe] for pipe in self.pipes]

    def stop(self) -> None:
        """End the processes of this world."""
        for process in self.processes:
            process.kill()
            process.join()
        self.pipes.clear()
        self.processes.clear()


@contextmanager
def world(size: int) -> Iterator[World]:
    """A world of `size` processes."""
    with tempfile.TemporaryDirectory() as folder:
        made = World(size, folder)
        try:
            yield made
        finally:
            made.stop()


def _work(pipe: Any, rank: int, size: int, store: str) -> None:
    import torch
    import torch.distributed as dist

    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, size), rank=rank, world_size=size)
    while True:
        job, arguments = pipe.recv()
        module, _, name = job.rpartition(":")
        try:
            pipe.send((True, getattr(importlib.import_module(module or "spread_jobs"), name)(**arguments)))
        except Exception as error:
            pipe.send((False, (repr(error), traceback.format_exc())))

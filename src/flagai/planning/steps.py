"""What `measure` starts: builds the model of a run, places it, makes real steps and writes down what they took.

It knows no plan and no other process of the measurement.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch

from flagai.config import RunConfig
from flagai.models import packing
from flagai.parallel import world
from flagai.parallel.choose import make_strategy
from flagai.parallel.precision import choose_device
from flagai.planning.machine import program_memory, status
from flagai.planning.prepared import prepared
from flagai.train.assemble import new_model
from flagai.train.optim import adamw


def _work(place: Path, *, offline: bool) -> None:
    """In the new process: build, place, step twice on the heaviest step and on the typical one."""
    config = RunConfig(**json.loads((place / "config.json").read_text(encoding="utf-8")))
    if config.parallel.strategy != "single":
        world.open_world(choose_device(config.train.device))
    ready = prepared(config, offline=offline, tell=lambda _: None)
    strategy = make_strategy(config.parallel, device=config.train.device, precision=config.train.precision)
    torch.manual_seed(config.train.seed)
    before = program_memory()
    model = new_model(config, ready.parts)
    if config.train.packing is not False:
        packing.enable(model)
    model = strategy.place(model)
    optimizer = strategy.optimizer(adamw(config.train))
    accumulation, axis = config.train.gradient_accumulation_steps, strategy.data_axis()
    rates = [1e-12 for _ in optimizer.param_groups]
    seconds = {}
    for name, step in (
        ("typical", ready.work.typical_step),
        ("heaviest", ready.work.heaviest_step(accumulation, axis)),
    ):
        _forget_peak()
        for _ in range(2):  # the second one has the optimizer's states
            began = time.perf_counter()
            batches = ready.work.micro_batches(step, accumulation=accumulation, axis=axis)
            strategy.accumulate(batches, ready.parts.task.loss)
            strategy.clip(config.train.max_grad_norm)
            strategy.step(rates)
            strategy.barrier("a measured step")
            seconds[name] = time.perf_counter() - began
    told = {**seconds, "before": before, "peak": _peak(strategy.device)}
    (place / f"rank-{world.rank():04d}.json").write_text(json.dumps(told), encoding="utf-8")


def _forget_peak() -> None:
    """Linux counts the peak of a process from here on; elsewhere it stays that of its whole life."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    known = status("/proc/self/status").get("VmHWM")
    return known if known is not None else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    _work(Path(sys.argv[1]), offline=sys.argv[2] == "offline")

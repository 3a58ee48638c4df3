"""What the processes of a `world` do for the tests of checkpoints."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import torch
from checkpoint_runs import Run, jobs, same

from flagai.models import safetensors_boxes
from flagai.train import checkpoint
from flagai.train.state import TrainState


def begin(family: str, sizes: dict[str, int] | None, root: str, **options: Any) -> dict[str, Any]:
    """Two steps, a checkpoint, three steps more."""
    run = Run(family, sizes)
    run.steps(2)
    run.save(Path(root), **options)
    found = {"weights": run.weights(), "moments": {n: t.numpy() for n, t in run.moments().items()}}
    return {**found, "losses": run.steps(3), "end": run.weights()}


def go_on(family: str, sizes: dict[str, int] | None, root: str, steps: int = 3, **options: Any) -> dict[str, Any]:
    """What a new process makes of the checkpoint, and how much of it it read."""
    read = 0
    original = safetensors_boxes._read

    def counted(handle: int, data: memoryview, begin: int) -> None:
        nonlocal read
        read += len(data)
        original(handle, data, begin)

    run = Run(family, sizes, **options)
    safetensors_boxes._read = counted
    try:
        run.load(Path(root))
    finally:
        safetensors_boxes._read = original
    found = {"weights": run.weights(), "moments": {n: t.numpy() for n, t in run.moments().items()}}
    return {**found, "read": read, "losses": run.steps(steps), "end": run.weights()}


def fail(root: str, *, asynchronous: bool, name: str) -> tuple[str, str, list[str]]:
    """The second process cannot write; then all can."""
    run = Run("bert", {"shard": 2})
    saver = run.saver(Path(root), asynchronous=asynchronous)
    run.steps(1)
    saver.save(run.state, {})
    saver.wait()
    run.steps(1)
    original = getattr(os, name)
    if torch.distributed.get_rank() == 1:
        setattr(os, name, _full)
    kind = text = ""
    try:
        saver.save(run.state, {})
        saver.wait()
    except Exception as error:
        kind, text = type(error).__name__, str(error)
    finally:
        setattr(os, name, original)
    left = sorted(path.name for path in Path(root).iterdir())
    torch.distributed.barrier()
    saver.save(run.state, {})
    saver.wait()
    return kind, text, left


def _full(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def model_folder(family: str, sizes: dict[str, int], folder: str) -> bool:
    """Write the model; whether all weights agree with those of one process."""
    run = Run(family, sizes)
    checkpoint.write_model(run.strategy, Path(folder), run.describe)
    return same(run.weights(), Run(family).weights())


def look(root: str, hidden_from: int) -> str:
    """`newest` where one process does not see what the others see."""
    mine = "elsewhere" if torch.distributed.get_rank() == hidden_from else root
    try:
        found = checkpoint.newest(Path(mine), lambda _: None)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return found.folder.name if found else "none"


def memory(root: str, sizes: dict[str, int] | None, *, load: bool) -> dict[str, float]:
    """MiB of a large model here, of its moments, and what a save or a load takes on top at its peak."""
    from transformers import BertConfig, BertForMaskedLM

    strategy = jobs.make(sizes)
    with torch.device("meta"):
        model = BertForMaskedLM(BertConfig(hidden_size=768, num_hidden_layers=12, attn_implementation="eager"))
    for name, buffer in list(model.named_buffers()):
        path, _, leaf = name.rpartition(".")
        model.get_submodule(path)._buffers[leaf] = torch.zeros(buffer.shape, dtype=buffer.dtype)
    strategy.place(model)
    optimizer = strategy.optimizer(jobs.adamw)
    if not load:
        for parameter in model.parameters():
            with torch.no_grad():
                parameter.normal_()
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad()
    held = sum(_local(tensor).nbytes for tensor in model.parameters())
    if load:  # touch the pages, so that they count before the load and not in it
        for parameter in model.parameters():
            _local(parameter.data).zero_()
    before = _peak_anew()
    if load:
        found = checkpoint.newest(Path(root), print)
        assert found is not None
        checkpoint.load(found, strategy)
    else:
        saver = checkpoint.Saver(Path(root), strategy, describe=lambda _: None)
        saver.save(TrainState(step=1), {})
    moments = sum(_local(v).nbytes for values in optimizer.state.values() for v in values.values())
    mib = 2**20
    return {"weights": held / mib, "moments": moments / mib, "extra": (_peak() - before) / mib}


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _peak_anew() -> int:
    """Forget the highest memory so far; the memory of now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def drawn(root: str, sizes: dict[str, int]) -> bytes:
    """The random stream of this process after a load."""
    run = Run("bert", sizes)
    run.load(Path(root))
    return torch.get_rng_state().numpy().tobytes()

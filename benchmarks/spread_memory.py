"""Bytes that each process holds under DDP, FSDP and ZeRO 1, 2, 3, beside what theory says; on a CPU, with gloo.

Two numbers are measured in the second step, after backward and before the update, when weights, gradients and moments
are all there: the storages of all tensors, and what the process grew by since the model was not there yet (resident
memory). Theory, with P numbers in fp32, N processes and AdamW: DDP 20 P, of which 4 P are the buckets that gradients
travel in; ZeRO 1 and 2 (4 + 16/N) P, since the weights for the update lie beside those of the model, and gradients of
other processes are gone once they are sent; ZeRO 3 20 P/N for the same reason; FSDP 16 P/N. A bucket of ZeRO (40 MB)
comes on top.

    python benchmarks/spread_memory.py --save
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import harness

MIB = 2**20
THEORY: dict[str, Callable[[int], float]] = {
    "ddp": lambda n: 20,
    "zero1": lambda n: 4 + 16 / n,
    "zero2": lambda n: 4 + 16 / n,
    "zero3": lambda n: 20 / n,
    "fsdp": lambda n: 16 / n,
}
"""way → bytes a number of the model, by the number of processes"""
SIZES: dict[str, Any] = {"n_embd": 512, "n_layer": 8, "n_head": 8, "n_positions": 64, "vocab_size": 2000}


def one(way: str, accumulation: int) -> None:
    """In a process of the world: two steps, and a line of JSON from the first process."""
    import torch
    import transformers
    from torch.nn.functional import cross_entropy

    from flagai.config import ParallelConfig
    from flagai.parallel.choose import make_strategy

    torch.set_num_threads(1)
    strategy = make_strategy(ParallelConfig(strategy=way), device="cpu")  # type: ignore[arg-type]
    _first_product(torch)
    if way.startswith("zero"):
        importlib.import_module(
            "deepspeed.runtime.zero.muon.muon_optimizer"
        )  # it brings torch's compiler, at first use
    before = resident()
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**SIZES, bos_token_id=0, eos_token_id=0))
    numbers = sum(p.numel() for p in model.parameters())
    strategy.place(model)
    strategy.optimizer(lambda m: torch.optim.AdamW(m.parameters(), lr=1e-4, fused=True))

    def loss(outputs: Any, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        scores = outputs["logits"].flatten(0, 1)
        return cross_entropy(scores, batch["labels"].flatten(), reduction="sum"), batch["labels"].new_tensor(8)

    ids = torch.arange(8).view(1, 8)
    batches = [{"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}] * accumulation
    for step in range(2):
        strategy.accumulate(batches, loss)
        strategy.clip(1.0)
        if step:
            break
        strategy.step([1e-4])
    held, grown = tensors(torch), resident() - before
    worst = [0.0, 0.0]
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, [held, grown])
    worst = [max(values) for values in zip(*gathered, strict=True)]
    if strategy.data_axis()[0] == 0:
        print(json.dumps({"numbers": numbers, "tensors": worst[0], "resident": worst[1]}), flush=True)
    torch.distributed.barrier()


def _first_product(torch: Any) -> None:
    """What the libraries take for themselves at their first use is not the model's."""
    layer = torch.nn.Linear(64, 64)
    layer(torch.randn(64, 64)).sum().backward()
    torch.distributed.all_reduce(torch.zeros(1000))


def tensors(torch: Any) -> int:
    """Bytes of all storages that tensors of this process lie in, each once."""
    gc.collect()
    there = {}
    for thing in gc.get_objects():
        found = [thing, thing.grad] if isinstance(thing, torch.nn.Parameter) else [thing]
        for tensor in found:
            if type(tensor) in (torch.Tensor, torch.nn.Parameter) or type(tensor).__name__ == "DTensor":
                local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
                storage = local.untyped_storage()
                there[storage.data_ptr()] = storage.nbytes()
    return sum(there.values())


def resident() -> int:
    """Bytes of this process in memory, after what is free was given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGESIZE")


def measure(way: str, processes: int, accumulation: int) -> dict[str, Any]:
    """A world of its own for one way."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += [__file__, "--one", way, "--accumulation", str(accumulation)]
    # Freed blocks go back to the system at once, so that resident memory is what is in use.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, cwd=folder, timeout=900
        )
    if done.returncode:
        raise SystemExit(f"{way} failed:\n{done.stderr[-3000:]}")
    return json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])


def report(rows: dict[str, dict[str, Any]], processes: int) -> str:
    """A page of Markdown."""
    numbers = next(iter(rows.values()))["numbers"]
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "deepspeed"))
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}, {harness.cpu()}, {processes} processes on gloo, GPT-2 of {numbers / 1e6:.1f} M "
        f"numbers in fp32, AdamW, one short text; MiB of the process that holds most; {packages}",
        "",
        "| way | theory | tensors | tensors / theory | resident | resident / theory |",
        "|---|---|---|---|---|---|",
    ]
    for way, row in rows.items():
        theory = THEORY[way](processes) * numbers
        cells = [theory / MIB, row["tensors"] / MIB, row["tensors"] / theory, row["resident"] / MIB]
        cells.append(row["resident"] / theory)
        lines.append(f"| {way} | {cells[0]:.0f} | {cells[1]:.0f} | {cells[2]:.2f} | {cells[3]:.0f} | {cells[4]:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--one", choices=THEORY, help="one process of a world")
    options.add_argument("--only", nargs="*", choices=THEORY, default=list(THEORY))
    options.add_argument("--processes", type=int, default=2)
    options.add_argument("--accumulation", type=int, default=1, help="micro-batches of a step")
    options.add_argument("--save", action="store_true", help="write a dated file to benchmarks/results/")
    arguments = options.parse_args()
    if arguments.one:
        one(arguments.one, arguments.accumulation)
        return
    rows = {way: measure(way, arguments.processes, arguments.accumulation) for way in arguments.only}
    text = report(rows, arguments.processes)
    print(text)
    if arguments.save:
        name = f"spread_memory_{datetime.now(UTC):%Y-%m-%d}_{arguments.processes}-processes"
        (harness.RESULTS / f"{name}.md").write_text(text + "\n", encoding="utf-8")
        (harness.RESULTS / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
